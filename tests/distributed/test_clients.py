"""Training loops that nobody here wrote, with voted gradients, and the script to copy."""

import importlib.util
import re
import shutil
import sys

import pytest
import torch
from processes import HELPERS, ROOT, finish, run_command, started_command

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
# Their warnings are theirs. Few rounds are not worth compiling for.
QUIET = ["env", "PYTHONWARNINGS=ignore", "TORCH_COMPILE_DISABLE=1"]
EXAMPLES = ROOT / "scripts" / "examples"
TRAIN_DDP = str(EXAMPLES / "train_ddp.py")


def needs(package):
    is_absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_absent, reason=f"{package} is not installed")


def losses_of(finished):
    """The first and the last that an example prints."""
    first, last = re.search(r"loss (\S+) -> (\S+)", finished.stdout).groups()
    return float(first), float(last)


@pytest.mark.heavy
@needs("lightning")
def test_lightning(tmp_path):
    finished = run_command(
        *QUIET, sys.executable, str(EXAMPLES / "train_lightning.py"), "--out", str(tmp_path)
    )
    assert finished.exit_code == 0, finished.stderr
    first, last = losses_of(finished)
    assert last < 0.4 < first
    assert re.search(r"steps +24\n", finished.stdout)


@pytest.mark.heavy
@needs("accelerate")
def test_accelerate():
    finished = run_command(*QUIET, *TORCHRUN, str(HELPERS / "rank_accelerate.py"))
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.split()[:2] == ["steps", "24"]


@pytest.mark.heavy
@needs("transformers")
def test_trainer(tmp_path):
    """Hugging Face's, which accumulates gradients over two batches a step."""
    finished = run_command(
        *QUIET, *TORCHRUN, str(EXAMPLES / "train_trainer.py"), "--out", str(tmp_path)
    )
    assert finished.exit_code == 0, finished.stderr
    first, last = losses_of(finished)
    assert last < 0.7 * first
    assert re.search(r"steps +40\n", finished.stdout)


@pytest.mark.heavy
def test_a_loop_of_ones_own():
    finished = run_command(*QUIET, *TORCHRUN, str(EXAMPLES / "own_loop.py"))
    assert finished.exit_code == 0, finished.stderr
    correct, sent_bytes = finished.stdout.splitlines()
    assert float(correct.split()[0]) > 93
    sent, full = (int(word.replace(",", "")) for word in re.findall(r"[\d,]{4,}", sent_bytes))
    assert 5 * sent < full


@pytest.mark.heavy
@needs("ray")
def test_ray(tmp_path):
    # Workers of a lower priority starve beside other tests.
    quiet = [*QUIET, "RAY_worker_niceness=0"]
    finished = run_command(*quiet, sys.executable, str(HELPERS / "ray_trains.py"), str(tmp_path))
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.split()[:2] == ["steps", "40"]


@pytest.mark.heavy
def test_the_script_of_fsdp2_goes_on_from_a_checkpoint(tmp_path):
    def lines(*options):
        command = [*TORCHRUN[:-1], "4", str(ROOT / "scripts" / "examples" / "train_fsdp2.py")]
        finished = run_command(*QUIET, *command, *map(str, options))
        assert finished.exit_code == 0, finished.stderr
        return finished.stdout.splitlines()

    first = lines("--steps", 20, "--save", tmp_path / "saved")
    assert first[0].startswith("step 20: loss ")
    further = lines("--steps", 40, "--load", tmp_path / "saved")
    assert further[0].startswith("step 40: loss ")
    assert [one[1].split() for one in (first, further)] == [["steps", "20"]] * 2


@pytest.mark.heavy
def test_the_script_to_copy_goes_on_where_it_was_killed(tmp_path):
    """Killed after an epoch and started again, it ends with the same bits everywhere."""

    def command(name, *more):
        options = ["--num_images", "32", "--batch_size", "4", "--epochs=2"]
        options += ["--checkpoint", str(tmp_path / name)]
        return *QUIET, *TORCHRUN, TRAIN_DDP, *options, *more

    def saved(name):
        return torch.load(tmp_path / name, weights_only=True)

    whole = run_command(*command("whole"))
    assert whole.exit_code == 0, whole.stderr
    assert whole.stdout.splitlines()[1].startswith("epoch 2: loss ")
    with started_command(*command("killed")) as process:
        assert process.stdout.readline().startswith("epoch 1: loss ")
        process.terminate()
        finish(process, 60)
    shutil.copy(tmp_path / "killed", tmp_path / "more")
    resumed = run_command(*command("killed", "--resume"))
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1].startswith("compression")
    for part in ("model", "votes"):
        assert flat(saved("whole")[part]) == flat(saved("killed")[part])
    ranks = ["--nproc_per_node", "3"]
    more = run_command(*[ranks.pop(0) if arg in ("--nproc_per_node", "2") else arg for arg in
                         command("more", "--resume")])  # fmt: skip
    assert more.exit_code == 0, more.stderr
    assert len(saved("more")["votes"]) == 3


@pytest.mark.heavy
@pytest.mark.parametrize("hook", ["none", "fp16", "powersgd"])
def test_the_script_to_copy_with_other_hooks(tmp_path, hook):
    options = ["--hook", hook, "--num_images", "16", "--batch_size", "4", "--epochs", "1"]
    options += ["--checkpoint", str(tmp_path / "x")]
    finished = run_command(*QUIET, *TORCHRUN, TRAIN_DDP, *options)
    assert finished.exit_code == 0, finished.stderr
    assert finished.stdout.startswith("epoch 1: loss ")


def flat(state):
    """Tensors as bytes, so that all of a state compares at once."""
    if isinstance(state, dict):
        return {name: flat(value) for name, value in state.items()}
    if isinstance(state, list):
        return [flat(value) for value in state]
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state
