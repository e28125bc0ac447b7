"""Processes that are killed, stopped or interrupted: all end soon, with one line, and can go on."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from command_line import run
from processes import ROOT, finish, started_command, started_ranks
from stopping import outcome

ENDLESS = ["--model", "mlp", "--epochs", "100000", "--batch_size", "256", "--threads", "1",
           "--compile", "off", "--lr", "0.003", "--range_decay", "1",
           "--exp_name", "x"]  # fmt: skip
LONG = ["--epochs", "8", "--batch_size", "16", "--checkpoint_every", "10"]

# Data that rank 1 cannot read to its end.
BROKEN_DATA = """
import os
import torch

class Points(torch.utils.data.Dataset):
    classes = ("a", "b")
    def __len__(self):
        return 512
    def __getitem__(self, index):
        if index % 2 and index > 400 and os.environ["RANK"] == "1":
            raise ValueError("something is wrong here")
        return torch.full((1, 8, 8), float(index)), index % 2

def data(root):
    return Points(), Points()
"""

pytestmark = pytest.mark.heavy


def start_ranks(world_size, folder, *args, **machines):
    args = [*ENDLESS, "--log_dir", str(folder), *args]
    return started_ranks(world_size, ROOT / "launch.py", *args, **machines)


def wait_until_it_trains(process):
    for line in process.stdout:
        if "epoch 2" in line:
            return
    raise AssertionError(process.stderr.read())


def end_of(processes, within_s):
    """Exit codes, and all that they have written to stderr."""
    began = time.monotonic()
    ended = [finish(process, within_s) for process in processes]
    assert time.monotonic() - began < within_s
    return [one.exit_code for one in ended], "".join(one.stderr for one in ended)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_others_name_the_one_that_was_killed(victim, tmp_path):
    with start_ranks(3, tmp_path) as ranks:
        wait_until_it_trains(ranks[0])
        ranks[victim].kill()
        exit_codes, stderr = end_of([rank for rank in ranks if rank is not ranks[victim]], 15)
    assert exit_codes == [1, 1]
    assert stderr.startswith(f"Error: rank {victim} is gone (lr 0.003, decay 1.0, epoch ")
    assert stderr.count("\n") == 1
    assert (tmp_path / "x" / "checkpoint" / "manifest.json").exists()


def test_two_that_were_killed_are_both_named(tmp_path):
    with start_ranks(3, tmp_path) as ranks:
        wait_until_it_trains(ranks[0])
        for rank in ranks[1:]:
            rank.kill()
        exit_codes, stderr = end_of(ranks[:1], 15)
    assert exit_codes == [1]
    assert stderr.startswith("Error: ranks 1, 2 are gone (")


def test_every_machine_says_who_is_gone(tmp_path):
    with start_ranks(4, tmp_path, ranks_a_machine=2) as ranks:
        wait_until_it_trains(ranks[0])
        ranks[2].kill()
        said = [finish(ranks[rank], 15).stderr for rank in (0, 1, 3)]
    assert [text.count("Error: rank 2 is gone (") for text in said] == [1, 0, 1]
    assert [text.count("\n") for text in said] == [1, 0, 1]


@pytest.mark.parametrize(("ranks_a_machine", "says"), [(2, False), (1, True)])
def test_one_that_fails_says_why_and_other_machines_say_which(
    ranks_a_machine, says, tmp_path, monkeypatch
):
    (tmp_path / "broken.py").write_text(BROKEN_DATA)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with start_ranks(
        2, tmp_path, "--dataset", "broken:data", ranks_a_machine=ranks_a_machine
    ) as ranks:
        (first, failed) = [finish(rank, 60) for rank in ranks]
    assert (first.exit_code, failed.exit_code) == (1, 1), first.stderr
    assert "ValueError: something is wrong here" in failed.stderr
    line = "Error: rank 1 has failed; the reason is printed on its machine ("
    assert first.stderr.startswith(line) if says else not first.stderr
    assert first.stderr.count("\n") == says


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1])
def test_one_that_hangs_is_found_by_the_time_out(delay_s, tmp_path):
    """In a round, or wherever else it may be then."""
    with start_ranks(2, tmp_path, "--timeout", "2") as ranks:
        wait_until_it_trains(ranks[0])
        time.sleep(delay_s)
        ranks[1].send_signal(signal.SIGSTOP)
        try:
            exit_codes, stderr = end_of(ranks[:1], 15)
        finally:
            ranks[1].kill()
    assert exit_codes == [1]
    assert stderr.startswith("Error: rank 1 is gone (")
    assert stderr.count("\n") == 1


def test_one_that_is_killed_before_the_first_round(tmp_path):
    """While it starts, the launcher ends the others; here nobody does, until they are missed."""
    with start_ranks(2, tmp_path, "--timeout", "2") as ranks:
        time.sleep(1)
        ranks[1].kill()
        ranks[0].terminate()
        exit_codes, stderr = end_of(ranks[:1], 15)
    # Python's own handler, or ours, as far as it has come.
    assert exit_codes in ([-signal.SIGTERM], [143])
    assert "Traceback" not in stderr


def test_every_machine_says_that_a_run_is_interrupted(tmp_path):
    with start_ranks(2, tmp_path, ranks_a_machine=1) as ranks:
        wait_until_it_trains(ranks[0])
        ranks[0].terminate()
        said = [finish(rank, 6).stderr for rank in ranks]
    assert said[0].startswith("Error: interrupted in epoch ")
    assert said[1] == said[0].replace("Error: ", "Error: rank 1: ")
    assert said[0].count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_any_process_ends_all_after_the_same_round(number, tmp_path):
    with start_ranks(2, tmp_path) as ranks:
        wait_until_it_trains(ranks[0])
        ranks[1].send_signal(number)
        exit_codes, stderr = end_of(ranks, 6)
    # Rank 0 ends because rank 1 was told to.
    assert exit_codes == [1, 128 + number]
    assert stderr.startswith("Error: interrupted in epoch ")
    assert stderr.endswith("/3; a checkpoint is written, --exp_name x --resume goes on from it\n")
    assert stderr.count("\n") == 1


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path):
    args = [*ENDLESS[:-2], *LONG]
    whole = run(*args, "--num_workers", "2", "--log_dir", tmp_path, "--exp_name", "whole")
    assert whole.exit_code == 0, whole.output
    resume = []
    for _ in range(2):
        with start_ranks(2, tmp_path, *LONG, *resume) as ranks:
            for line in ranks[0].stdout:
                if "epoch" in line and ("goes on" not in line):
                    break
            for rank in ranks:
                rank.terminate()
            assert end_of(ranks, 6)[0] == [143, 143]
        resume = ["--resume"]
    result = run(*args, "--num_workers", "2", "--log_dir", tmp_path, "--exp_name", "x", *resume)
    assert result.exit_code == 0, result.output
    assert outcome(tmp_path / "x") == outcome(tmp_path / "whole")


def test_torchrun_starts_it_again_by_itself(tmp_path):
    args = [*ENDLESS[:-2], *LONG, "--log_dir", str(tmp_path), "--exp_name"]
    assert run(*args, "whole", "--num_workers", "2").exit_code == 0
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2",
               "--max-restarts", "1", str(ROOT / "launch.py"), *args, "x"]  # fmt: skip
    with started_command(*command) as torchrun:
        wait_until_it_trains(torchrun)
        (victim,) = workers(torchrun.pid, rank="1")
        os.kill(victim, signal.SIGKILL)
        ended = finish(torchrun, 120)
    assert ended.exit_code == 0, ended.stderr
    assert "goes on in epoch" in ended.stdout
    assert "Error: rank 1 is gone (" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert outcome(tmp_path / "x") == outcome(tmp_path / "whole")


def test_torchrun_does_not_go_on_with_what_somebody_else_began(tmp_path):
    args = [*ENDLESS[:-2], "--epochs", "1", "--log_dir", str(tmp_path), "--exp_name", "x"]
    assert run(*args, "--num_workers", "2", "--lr", "0.001").exit_code == 0
    before = outcome(tmp_path / "x")
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2",
               "--max-restarts", "1", str(ROOT / "launch.py"), *args]  # fmt: skip
    with started_command(*command) as torchrun:
        ended = finish(torchrun, 120)
    assert ended.exit_code == 1
    assert ended.stderr.count("x exists; choose another --exp_name") == 2
    assert outcome(tmp_path / "x") == before


def test_a_process_alone_ends_after_its_round(tmp_path):
    command = [str(Path(sys.executable).with_name("compsgd")), "train", *ENDLESS]
    with started_command(*command, "--num_workers", "3", "--log_dir", str(tmp_path)) as alone:
        wait_until_it_trains(alone)
        alone.send_signal(signal.SIGINT)
        exit_codes, stderr = end_of([alone], 6)
    assert exit_codes == [130]
    assert stderr.startswith("Error: interrupted in epoch ")
    assert stderr.count("\n") == 1


def workers(pid, rank):
    """The processes below one that have this RANK."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            found.append(int(child))
        found += workers(int(child), rank)
    return found
