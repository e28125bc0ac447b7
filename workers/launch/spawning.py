"""Starting worker processes without torchrun."""

import logging
import uuid
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from compsgd.workers.failures import RunError


class ChildError(Exception):
    """A started process failed.

    Attributes:
        exit_code: its exit code.
        trace: its traceback, where it did not say itself what was wrong.
    """

    def __init__(self, exit_code: int, trace: str | None) -> None:
        super().__init__(trace or f"a worker process ended with exit code {exit_code}")
        self.exit_code = exit_code
        self.trace = trace


def start_processes(num_processes: int, function: Callable[..., Any], *args: Any) -> None:
    """Runs function(*args) in so many processes with torchrun's environment, and waits for them.

    None outlives this call, whether it ends by itself or by SIGINT or SIGTERM.

    Args:
        num_processes: how many.
        function: importable by name and decorated with @record, which keeps its traceback; it
            and args are pickled.

    Raises:
        ChildError: one of them failed; the others were ended.
        RunError: a signal ended one of them, or all.
    """
    # Its reports would stand around the one line that says what is wrong.
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with TemporaryDirectory(prefix="compsgd_") as folder:
        _launch(num_processes, folder, function, *args)


def _launch(num_processes: int, folder: str, function: Callable[..., Any], *args: Any) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    try:
        elastic_launch(config, function)(*args)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise RunError(
                f"worker process {failure.local_rank} was ended by {failure.signal_name()}"
            ) from error
        raise ChildError(failure.exitcode, _recorded_traceback(failure)) from error
    except SignalException as error:
        raise RunError("interrupted") from error


def _recorded_traceback(failure: ProcessFailure) -> str | None:
    """What @record wrote down; None where the process ended by itself or by a signal."""
    message: Any = failure.message
    return message["extraInfo"]["py_callstack"] if isinstance(message, dict) else None
