"""Every module has a test module of its name, or stands here with the tests that cover it."""

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("compsgd", "comm", "plots", "workers")

# Module: the test file that covers it, and why there.
COVERED = {
    "compsgd/__main__": ("unit/test_upwards.py", "run as a command"),
    "compsgd/codec/alphabet": ("unit/test_packing.py", "levels to codes and back, with packing"),
    "compsgd/codec/base": ("unit/test_numba_codec.py", "protocols; each codec is held to them"),
    "compsgd/codec/binning": ("unit/test_vectors.py", "every bin of the reference vectors"),
    "compsgd/codec/bit_packing": ("unit/test_packing.py", "groups, through pack and unpack"),
    "compsgd/codec/blocks": ("unit/test_packing.py", "blocks and tails of every length"),
    "compsgd/codec/entropy_kernels": ("unit/test_entropy.py", "the loops of that coder"),
    "compsgd/codec/numba_kernels": ("unit/test_numba_codec.py", "the loops of that codec"),
    "compsgd/codec/torch_codec": ("unit/test_compiling.py", "eager against compiled"),
    "compsgd/codec/torch_kernels": ("unit/test_compiling.py", "what that codec runs"),
    "compsgd/internal_errors": ("unit/test_errors.py", "beside the public ones"),
    "compsgd/files": ("unit/test_history.py", "what it writes are histories"),
    "compsgd/history/histories": ("unit/test_history.py", "the package has the name"),
    "compsgd/optim/param_share": ("unit/test_exempt.py", "what goes through a round together"),
    "compsgd/optim/round_optimizer": ("unit/test_optimizers.py", "base of all optimizers"),
    "compsgd/voting/exchange": ("unit/test_optimizers.py", "workers in one process"),
    "compsgd/voting/tally": ("unit/test_aggregator.py", "all ballots at once"),
    "comm/exchange_choice": ("distributed/test_matrix.py", "auto, and all by name"),
    "compsgd/voting/float_aggregator": ("unit/test_optimizers.py", "the rounds of SGD"),
    "comm/ddp/bucket_queue": ("unit/test_worker_thread.py", "its thread; buckets with the hook"),
    "comm/ddp/hook": ("distributed/test_hook_situations.py", "several files; this one is widest"),
    "comm/fsdp/hook": ("distributed/test_fsdp.py", "two modules have the name"),
    "comm/group/agreement": ("distributed/test_agreement.py", "two modules have the name"),
    "comm/group/averaging": ("distributed/test_hook_situations.py", "what is exempt is averaged"),
    "comm/group/collectives": ("distributed/test_comm.py", "between processes"),
    "comm/group/messages": ("distributed/test_comm.py", "between processes"),
    "comm/group/rank_info": ("distributed/test_comm.py", "what launchers say"),
    "comm/group/roll_call": ("commands/test_watchdog.py", "who has answered"),
    "comm/group/store": ("distributed/test_survival.py", "a store that is gone"),
    "comm/group_vote": ("distributed/test_hook_equals_optimizer.py", "what votes for the hook"),
    "comm/ledger": ("unit/test_cost.py", "an older name of comm/traffic/ledger"),
    "comm/membership": ("unit/test_vote_state.py", "what a VoteState is made of"),
    "comm/parameters": ("distributed/test_hook_situations.py", "who is voted on"),
    "comm/traffic/kernel_counters": ("distributed/test_comm.py", "against real traffic"),
    "comm/traffic/ledger": ("unit/test_cost.py", "the bytes of every step"),
    "compsgd/codec/numba_cache": ("commands/test_surroundings.py", "a disk that fails"),
    "plots/any_backend": ("commands/test_surroundings.py", "an inherited backend"),
    "plots/agreement": ("unit/test_plots.py", "figures of a diagnosis"),
    "plots/bandwidths": ("unit/test_predict_command.py", "drawn by the command"),
    "plots/benchmark": ("commands/test_bench.py", "drawn by the command"),
    "plots/compression": ("unit/test_plots.py", "all figures are there"),
    "plots/curves": ("unit/test_plots.py", "all figures are there"),
    "plots/experiment": ("unit/test_plots.py", "all figures are there"),
    "plots/stacks": ("unit/test_plots.py", "what usages and agreement are drawn with"),
    "plots/style": ("unit/test_plots.py", "what all figures are drawn with"),
    "plots/usages": ("unit/test_plots.py", "all figures are there"),
    "workers/bench/measurements": ("commands/test_bench.py", "the command's"),
    "workers/bench/memory": ("commands/test_bench.py", "the command's"),
    "workers/bench/timing": ("commands/test_bench.py", "the command's"),
    "workers/commands/bench_command": ("commands/test_bench.py", "the command itself"),
    "workers/commands/byte_table": ("unit/test_cost.py", "the same arithmetic"),
    "workers/commands/path_option": ("commands/test_surroundings.py", "the home folder"),
    "workers/commands/config_file": ("commands/test_dry_runs.py", "options from files"),
    "workers/train/forecast": ("commands/test_dry_runs.py", "what --dry_run shows"),
    "workers/commands/run_options": ("commands/test_cli.py", "every option"),
    "workers/commands/spreading": ("commands/test_cli.py", "how values are given"),
    "workers/data/datasets": ("unit/test_data.py", "the data sets"),
    "workers/data/images": ("unit/test_data.py", "those of images"),
    "workers/data/splits": ("unit/test_data.py", "what every data set has"),
    "workers/failures": ("commands/test_cli.py", "errors and exit codes"),
    "workers/launch/spawning": ("commands/test_launching.py", "what launch.py starts"),
    "workers/options": ("commands/test_cli.py", "which options go together"),
    "workers/report/standard_output": ("commands/test_surroundings.py", "closed, full, left"),
    "workers/results/digests": ("commands/test_cli.py", "the digest of the weights"),
    "workers/results/experiment": ("commands/test_cli.py", "the folder of a run"),
    "workers/results/finished": ("commands/test_report_command.py", "what a page is made of"),
    "workers/results/page": ("commands/test_report_command.py", "all that is on it"),
    "workers/train/cell_format": ("commands/test_formats.py", "parts of a checkpoint"),
    "workers/train/recorder": ("commands/test_resuming.py", "what a checkpoint keeps"),
    "workers/train/buffers": ("distributed/test_parity.py", "alike for any number of processes"),
    "workers/train/byte_check": ("commands/test_launching.py", "--verify_bytes"),
    "workers/train/compile_cache": ("commands/test_surroundings.py", "none that works"),
    "workers/train/evaluation": ("commands/test_resuming.py", "abandoned and resumed"),
    "workers/train/models": ("unit/test_data.py", "a model for each data set"),
    "workers/train/preparation": ("distributed/test_parity.py", "how each process starts"),
    "workers/train/run": ("commands/test_cli.py", "a whole run"),
    "workers/train/training": ("commands/test_resuming.py", "epoch after epoch"),
}  # fmt: skip


def modules():
    """As "room/folder/module"; what is linked into a room belongs to another."""
    for room in ROOMS:
        folder = ROOT / room
        for path in sorted(folder.rglob("*.py")):
            if path.resolve().is_relative_to(folder) and path.name != "__init__.py":
                yield path.relative_to(ROOT).with_suffix("").as_posix()


MODULES = list(modules())
STEMS = Counter(Path(module).name for module in MODULES)


def own_tests(module):
    """Its test module; a name that several modules have is nobody's own."""
    stem = Path(module).name
    return sorted(ROOT.glob(f"tests/*/test_{stem}.py")) if STEMS[stem] == 1 else []


def test_all_rooms_are_seen():
    assert {module.split("/")[0] for module in MODULES} == set(ROOMS)
    assert len(MODULES) > 80


@pytest.mark.parametrize("module", MODULES)
def test_it_has_tests(module):
    if own_tests(module):
        return
    assert module in COVERED, f"{module} needs tests/*/test_{Path(module).name}.py, or a line here"
    file, reason = COVERED[module]
    path = ROOT / "tests" / file
    assert path.is_file()
    assert "def test_" in path.read_text()
    assert reason


@pytest.mark.parametrize("module", COVERED)
def test_no_line_is_out_of_date(module):
    assert module in MODULES
    assert not own_tests(module), f"{module} has a test module now: its line here can go"
