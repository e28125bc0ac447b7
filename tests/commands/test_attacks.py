"""Adversaries: what they send, and how far one faulty worker can get."""

import json

import pytest
import torch
from command_line import run
from hypothesis import given, settings
from hypothesis import strategies as st

import compsgd
from compsgd import unpack
from compsgd.workers.options import ATTACKS
from compsgd.workers.train.attacks import Attack


class Settings:
    vote = compsgd.VoteSettings(seed=0)
    num_workers = 4
    adversaries = 1

    def __init__(self, attack):
        self.attack = attack


class Spy(compsgd.InProcessExchange):
    """Keeps the ballots; the last worker's may be replaced on the way."""

    def __init__(self, num_workers, replace=None):
        super().__init__(num_workers)
        self.replace = replace

    def distribute(self, ballots, format):
        self.ballots = super().distribute(ballots, format)().clone()
        if self.replace is not None:
            self.ballots[-1, 28:] = self.replace
        return lambda: self.ballots


def levels_under(attack, num_rounds=3, binning="lin"):
    """The levels that an adversary and an honest worker with the same gradients send."""
    weight = torch.zeros(1000, requires_grad=True)
    spy = Spy(4)
    optimizer = compsgd.CompressedSGDVote([weight], 0.1, num_bits=3, binning=binning, exchange=spy)
    sent = []
    for round_ in range(num_rounds):
        gradient = torch.randn(1000, generator=torch.Generator().manual_seed(round_))
        for worker in range(4):
            weight.grad = gradient.clone()
            Attack(Settings(attack)).apply(weight.grad, worker, round_)
            optimizer.compress(worker)
        optimizer.step()
        sent.append([unpack(row[28:403], 1000, 3) for row in spy.ballots])
    return sent, optimizer


@pytest.mark.parametrize("binning", ["lin", "exp"])
def test_flipped_levels(binning):
    sent, _ = levels_under("flip", binning=binning)
    for ballots in sent:
        assert torch.equal(ballots[3], -ballots[2])


@pytest.mark.parametrize("binning", ["lin", "exp"])
def test_the_largest_level_everywhere(binning):
    sent, _ = levels_under("constant", binning=binning)
    assert all((ballots[3] == 4).all() for ballots in sent)


def test_random_levels():
    sent, _ = levels_under("random")
    ballots = sent[-1]
    counts = torch.bincount(ballots[3].long() + 4, minlength=9)
    assert counts[4] == 0
    assert counts[[0, 1, 2, 3, 5, 6, 7, 8]].min() > 30
    agree = (ballots[3].sign() == ballots[2].sign()).float().mean()
    assert 0.4 < agree < 0.6


def test_nan_sits_out():
    _, optimizer = levels_under("nan")
    assert optimizer.num_non_finite == 3
    assert optimizer.participants == (0, 1, 2)


@settings(deadline=None)
@given(data=st.binary(min_size=3, max_size=3), num_bits=st.integers(1, 8))
def test_one_faulty_worker_changes_a_sum_by_at_most_2l(data, num_bits):
    """Whatever bytes it sends: the sum of the others bounds the update."""
    count = 24 // num_bits
    largest = 2 ** (num_bits - 1)
    sums = []
    for replaced in (None, data):
        weight = torch.zeros(count, requires_grad=True)
        size = -(-count * num_bits // 8 // 4) * 4
        faulty = None
        if replaced is not None:
            faulty = torch.zeros(size, dtype=torch.uint8)
            faulty[: -(-count * num_bits // 8)] = torch.tensor(
                list(replaced[: -(-count * num_bits // 8)]), dtype=torch.uint8
            )
            used_bits = count * num_bits % 8
            if used_bits:
                faulty[-(-count * num_bits // 8) - 1] &= (1 << used_bits) - 1
        spy = Spy(3, faulty)
        optimizer = compsgd.CompressedSGD([weight], 1.0, num_bits=num_bits, exchange=spy)
        for worker in range(3):
            generator = torch.Generator().manual_seed(worker)
            weight.grad = torch.randn(count, generator=generator)
            optimizer.compress(worker)
        optimizer.step()
        sums.append(-3 * weight.detach())
    assert (sums[0] - sums[1]).abs().max() <= 2 * largest + 1e-4


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_run_with_adversaries_records_them(attack, tmp_path):
    result = run("--model", "mlp", "--epochs", "1", "--batch_size", "128", "--threads", "1",
                 "--adversaries", "1", "--attack", attack, "--log_dir", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    assert f"1{attack}" in folder.name
    options = json.loads((folder / "config.json").read_text())["options"]
    assert (options["adversaries"], options["attack"]) == (1, attack)
    assert ("sat out" in result.stdout) == (attack == "nan")


def test_more_adversaries_than_workers(tmp_path):
    result = run("--num_workers", "2", "--adversaries", "3", "--log_dir", tmp_path)
    assert result.exit_code == 2
    assert "--adversaries 3 is more than the 2 workers" in result.stderr
