"""What a run has left in its folder, read again."""

from pathlib import Path
from typing import Any, NamedTuple

from compsgd.history import Histories, read_histories
from compsgd.optim.optimizers import OPTIMIZERS
from compsgd.workers.failures import UsageError
from compsgd.workers.report.progress import cell_name
from compsgd.workers.results.formats import CONFIG, read_checked, result_format
from compsgd.workers.train.measures import Measure, measure_of

CONFIG_NAME, RESULT_NAME, HISTORIES_NAME = "config.json", "result.json", "histories.pkl"


class Finished(NamedTuple):
    """An experiment, as its files have it.

    Attributes:
        name: of the experiment.
        config: "options", "run" and "versions".
        cells: the results of each, as in result.json.
        traffic: bytes that process 0 sent, by purpose.
        histories: by cell.
    """

    name: str
    config: dict[str, Any]
    cells: list[dict[str, Any]]
    traffic: dict[str, int]
    histories: Histories

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = self.config["options"]
        return options

    @property
    def measure(self) -> Measure:
        return measure_of(self.options["dataset"])

    @property
    def labels(self) -> dict[tuple[float, float], str]:
        """What each cell is called."""
        has_range = "decay_min" in OPTIMIZERS[self.options["optimizer"]].known_settings
        return {cell: cell_name(cell, has_range) for cell in self.histories}


def read_finished(path: Path) -> Finished:
    """The experiment in a folder, of which one cell at least is finished.

    Raises:
        UsageError: there is none, or nothing of it is finished.
        RunError, CompsgdError: a file of it is damaged.
    """
    try:
        config = read_checked(path / CONFIG_NAME, CONFIG)
        histories = read_histories(path / HISTORIES_NAME)
        measure = measure_of(config["options"]["dataset"])
        result = read_checked(path / RESULT_NAME, result_format(list(histories), measure.results))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{path} holds no {Path(error.filename).name}: it is no experiment, or nothing of it "
            "is finished yet"
        ) from error
    return Finished(
        path.absolute().name, config, result["cells"], result["process_0_bytes_sent"], histories
    )
