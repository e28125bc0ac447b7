"""Parameters that are exempt: moved by their mean gradient inside the same optimizer."""

import math

import pytest
import torch

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange
from compsgd.comm.traffic.ledger import Purpose

WEIGHT, BIAS = (4, 3), (3,)


def make(kind=compsgd.CompressedSGDVote, num_workers=2, lr=0.25, **settings):
    parameters = [torch.ones(WEIGHT), torch.ones(BIAS), torch.ones(WEIGHT)]
    return parameters, kind(parameters, lr, num_workers=num_workers, exempt_1d=True, **settings)


def gradients(worker, round_):
    generator = torch.Generator().manual_seed(10 * round_ + worker)
    return [torch.randn(shape, generator=generator) for shape in (WEIGHT, BIAS, WEIGHT)]


def one_round(parameters, optimizer, round_, workers=(0, 1)):
    for worker in workers:
        for parameter, gradient in zip(parameters, gradients(worker, round_), strict=True):
            parameter.grad = gradient
        optimizer.compress(worker)
    optimizer.step()


def mean_of(round_, place=1):
    return (gradients(0, round_)[place] + gradients(1, round_)[place]) / 2


@pytest.mark.parametrize("kind", [compsgd.CompressedSGDVote, compsgd.SignSGD])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", lambda p: torch.optim.AdamW([p], 0.25, betas=(0.9, 0.99), weight_decay=0.1)),
        ("sgd", lambda p: torch.optim.SGD([p], 0.25, momentum=0.9)),
    ],
)
def test_they_are_moved_as_torch_does(kind, name, reference):
    l2 = 0.1 if name == "adam" else 0.0
    parameters, optimizer = make(kind, exempt_optimizer=name, l2=l2)
    expected = torch.ones(BIAS, requires_grad=True)
    theirs = reference(expected)
    for round_ in range(4):
        one_round(parameters, optimizer, round_)
        expected.grad = mean_of(round_)
        theirs.step()
    assert torch.equal(parameters[1], expected.detach())


def test_the_others_are_voted_on_as_if_they_were_alone():
    parameters, optimizer = make(momentum=0.9)
    alone = [torch.ones(WEIGHT), torch.ones(WEIGHT)]
    other = compsgd.CompressedSGDVote(alone, 0.25, num_workers=2, momentum=0.9)
    for round_ in range(3):
        one_round(parameters, optimizer, round_)
        for worker in range(2):
            alone[0].grad, _, alone[1].grad = gradients(worker, round_)
            other.compress(worker)
        other.step()
    assert torch.equal(parameters[0], alone[0])
    assert torch.equal(parameters[2], alone[1])
    assert [one is own for one, own in zip(optimizer.voted_parameters, parameters[::2],
                                           strict=True)] == [True] * 2  # fmt: skip


def test_their_lr_follows_the_schedule():
    parameters, optimizer = make(lr=0.5, exempt_optimizer="sgd", exempt_lr=0.125)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / 2)
    expected, buffer = torch.ones(BIAS), torch.zeros(BIAS)
    for round_, lr in enumerate((0.125, 0.0625)):
        one_round(parameters, optimizer, round_)
        scheduler.step()
        buffer = buffer * 0.9 + mean_of(round_)
        expected.add_(buffer, alpha=-lr)
    assert torch.equal(parameters[1], expected)


def test_an_lr_of_0_has_no_multiple():
    with pytest.raises(compsgd.SettingError, match="starts at 0"):
        make(lr=0.0, exempt_lr=0.1)


def test_small_ones_and_all_of_them():
    small, large = torch.ones(2, 2), torch.ones(3, 3)
    optimizer = compsgd.CompressedSGDVote([small, large], 0.1, min_compress_numel=5)
    assert [one is large for one in optimizer.voted_parameters] == [True]
    with pytest.raises(compsgd.SettingError, match="nothing to vote on"):
        compsgd.CompressedSGDVote([small], 0.1, min_compress_numel=5)


@pytest.mark.parametrize("place", [0, 1])
def test_a_worker_takes_part_with_all_or_nothing(place):
    parameters, optimizer = make(compsgd.CompressedSGD)
    others, alone = make(compsgd.CompressedSGD)
    for round_ in range(2):
        for worker in range(2):
            for parameter, gradient in zip(parameters, gradients(worker, round_), strict=True):
                parameter.grad = gradient
            if (round_, worker) == (1, 0):
                parameters[place].grad.view(-1)[0] = math.inf
            optimizer.compress(worker)
        optimizer.step()
        one_round(others, alone, round_, workers=(0, 1) if round_ == 0 else (1,))
    assert optimizer.participants == (1,)
    assert optimizer.num_non_finite == 1
    assert all(map(torch.equal, parameters, others))


def test_with_strict_it_is_named():
    parameters, optimizer = make(strict=True, num_workers=1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[1].grad[0] = math.nan
    with pytest.raises(compsgd.GradientError, match="number 1 is not finite"):
        optimizer.step()


def test_state_goes_on_in_the_middle_of_a_round():
    parameters, optimizer = make(momentum=0.9, error_feedback=True)
    others, loaded = make(momentum=0.9, error_feedback=True)
    one_round(parameters, optimizer, 0)
    for parameter, gradient in zip(parameters, gradients(0, 1), strict=True):
        parameter.grad = gradient
    optimizer.compress(0)
    for other, parameter in zip(others, parameters, strict=True):
        other.copy_(parameter)
    loaded.load_state_dict(optimizer.state_dict())
    for these, one in ((parameters, optimizer), (others, loaded)):
        for parameter, gradient in zip(these, gradients(1, 1), strict=True):
            parameter.grad = gradient
        one.compress(1)
        one.step()
        one_round(these, one, 2)
    assert all(map(torch.equal, parameters, others))


def test_state_stands_under_the_parameter():
    parameters, optimizer = make(exempt_optimizer="adam")
    one_round(parameters, optimizer, 0)
    assert {"exp_avg", "exp_avg_sq", "updates"} <= set(optimizer.state[parameters[1]])
    assert {"max.0", "min.1"} <= set(optimizer.state[parameters[0]])
    assert "max.0" not in optimizer.state[parameters[1]]


def test_their_bytes_are_counted():
    """Float32, as a ring all-reduce; and a header more."""
    sent = []
    for exempt in (False, True):
        ledger = Ledger()
        exchange = build_exchange("auto", Collectives(ledger, Purpose.GRADIENT, 4, None))
        parameters = [torch.ones(100, 10), torch.ones(1000)]
        optimizer = compsgd.SignSGD(parameters, 0.1, exchange=exchange, exempt_1d=exempt)
        for worker in range(4):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.compress(worker)
        optimizer.step()
        sent.append(ledger.steps[0].logical.sent_bytes)
    floats, bits = 2 * 3 * 4 * 250, 2 * 3 * 250 / 8
    assert 0 <= sent[1] - sent[0] - (floats - bits) < 3 * 64


def test_with_feedback_nobody_compresses_twice():
    parameters, optimizer = make(error_feedback=True)
    for parameter, gradient in zip(parameters, gradients(0, 0), strict=True):
        parameter.grad = gradient
    optimizer.compress(0)
    with pytest.raises(compsgd.SettingError, match="compresses twice before a step"):
        optimizer.compress(0)


def test_usages_count_what_is_voted_on():
    parameters, optimizer = make(count_usages=True)
    one_round(parameters, optimizer, 0)
    assert optimizer.bin_counts[0].sum() == 24


def test_a_group_says_itself_whether_it_is_exempt():
    embedding, weight = torch.ones(4, 3), torch.ones(2, 2)
    groups = [{"params": [embedding], "exempt": True}, {"params": [weight]}]
    optimizer = compsgd.CompressedSGDVote(groups, 0.1)
    assert [one is weight for one in optimizer.voted_parameters] == [True]
    bias = torch.ones(3)
    optimizer.add_param_group({"params": [bias], "exempt": False})
    assert [one is bias for one in optimizer.voted_parameters] == [False, True]
    with pytest.raises(compsgd.SettingError, match="exempt is 1; it must be True or False"):
        optimizer.add_param_group({"params": [torch.ones(1)], "exempt": 1})
    with pytest.raises(compsgd.SettingError, match="sets exempt=True"):
        compsgd.AdamW([{"params": [weight], "exempt": True}], 0.1)


@pytest.mark.parametrize("client", [compsgd.VoteAggregator, compsgd.comm.VoteState])
def test_hook_and_aggregator_are_told_what_is_exempt(client):
    embedding, weight = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    params = [embedding, weight]
    with pytest.raises(compsgd.SettingError, match="no parameter of this model"):
        client(params=params, exempt=[torch.nn.Parameter(torch.ones(4, 3))])
    made = client(params=params, exempt=[embedding])
    known = made.membership.params
    assert [known.place(param).is_voted for param in params] == [False, True]
    assert known.digest() != client(params=params).membership.params.digest()
