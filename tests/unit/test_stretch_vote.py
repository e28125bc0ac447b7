"""A vote on neighbours, of a process alone: what becomes of its gradients."""

import math

import pytest
import torch

from compsgd import InProcessExchange, VoteSettings
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.combine import VOTE
from compsgd.codec.compiling import Work
from compsgd.comm.parameters import ParamGradient, Place
from compsgd.comm.stretch_vote import StretchVote
from compsgd.layout import FlatLayout, Workspace
from compsgd.voting.aggregator import LevelAggregator
from compsgd.voting.encoder import WorkerEncoder

CPU = torch.device("cpu")


def voted(gradients, factor=None, present=None):
    """What a first vote of one process makes of gradients, in place; the vote."""
    settings = VoteSettings(num_bits=3, compile="off")
    layout = FlatLayout([one.numel() for one in gradients])
    work = Work(ballot_alphabet(3, zeros=False), "lin", VOTE, "cpu")
    aggregator = LevelAggregator(
        layout, [WorkerEncoder.fresh(layout.numel, CPU, settings)], work, InProcessExchange(1),
        settings, CPU, carries_magnitudes=factor is None,
    )  # fmt: skip
    given = [
        ParamGradient(values, Place(is_voted=True, number=number), is_present)
        for number, (values, is_present) in enumerate(
            zip(gradients, present or [True] * len(gradients), strict=True)
        )
    ]
    vote = StretchVote(given, aggregator, factor, 0)
    vote.send(CPU, Workspace())
    vote.count()
    if not vote.met_non_finite:
        vote.write()
    vote.hand_back()
    return vote


def test_levels_take_the_factor():
    gradients = [torch.tensor([0.5, -0.1]), torch.tensor([2.0])]
    voted(gradients, factor=0.25)
    # At first each gradient is its own range: the largest level, 4.
    assert [one.tolist() for one in gradients] == [[1.0, -1.0], [1.0]]


def test_the_mean_magnitude_of_each_parameter_stays():
    gradients = [torch.tensor([0.5, -0.1]), torch.tensor([2.0, 4.0])]
    voted(gradients)
    assert gradients[0].tolist() == pytest.approx([0.3, -0.3])
    assert gradients[1].tolist() == pytest.approx([3.0, 3.0])


def test_what_is_not_contiguous_is_handed_back():
    whole = torch.tensor([[1.0, 9.0], [-3.0, 9.0]])
    vote = voted([whole[:, 0]])
    assert vote.values[0].is_contiguous()
    assert whole.tolist() == [[2.0, 9.0], [-2.0, 9.0]]


def test_what_nobody_has_is_0():
    gradients = [torch.tensor([1.0]), torch.tensor([7.0])]
    voted(gradients, present=[True, False])
    assert [one.item() for one in gradients] == [1.0, 0.0]
    voted(gradients, present=[False, False])
    assert [one.item() for one in gradients] == [0.0, 0.0]


def test_what_is_not_finite_is_left_to_the_caller():
    gradients = [torch.tensor([math.nan, 1.0])]
    assert voted(gradients).met_non_finite
    assert math.isnan(gradients[0][0])
