"""`compsgd.VoteAggregator`: the hook's votes in a loop of one's own."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import (
    SETTINGS,
    assert_all_ranks_alike,
    assert_all_ranks_alike_in,
    assert_equal_weights,
    everyones,
    loss_of,
    model,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd import PeerError, SettingError
from compsgd.comm import register_vote_hook

# The largest level of 3 bits: in the first vote each gradient is its own range.
LARGEST = 4.0


def gradients_by_step(net, end_backward, num_steps=3):
    """A user's loop: the gradients that AdamW is handed, by step and parameter."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    found = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_of(net, dist.get_rank(), step).backward()
        end_backward()
        found += [parameter.grad.clone() for parameter in net.parameters()]
        optimizer.step()
    return found


def assert_hands_out_what_the_hook_does(**settings):
    hooked, own = DistributedDataParallel(model()), model()
    state = register_vote_hook(hooked, **SETTINGS, **settings)
    aggregator = compsgd.VoteAggregator(own.parameters(), **SETTINGS, **settings)
    theirs = gradients_by_step(hooked, lambda: None)
    ours = gradients_by_step(own, aggregator.aggregate)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    assert_equal_weights(own, hooked.module)
    assert_all_ranks_alike(own)
    # A byte a tensor is what the hook need not ask.
    assert aggregator.ledger.num_steps == state.ledger.num_steps == 3
    assert 0 <= aggregator.bytes_per_step - state.bytes_per_step <= 3 * len(list(own.parameters()))
    assert "compression" in aggregator.summary()


@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
@pytest.mark.parametrize("exempt_1d", [False, True])
@pytest.mark.parametrize("scale", [1.0, "mean_abs"])
@on_ranks(2)
def test_gradients_are_the_hooks(scale, exempt_1d, exchange):
    assert_hands_out_what_the_hook_does(scale=scale, exempt_1d=exempt_1d, exchange=exchange)


@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
@pytest.mark.parametrize("scale", [1.0, "mean_abs"])
@on_ranks(4)
def test_gradients_are_the_hooks_on_four_ranks(scale, exchange):
    assert_hands_out_what_the_hook_does(scale=scale, exchange=exchange)


def parameters_with_gradients():
    """Four parameters with gradients that differ between ranks."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((5, 7), (7,), (2, 3), (11,))]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters


@pytest.mark.parametrize("exempt_1d", [False, True])
@on_ranks(2, 4)
def test_a_parameter_without_a_gradient_here_gets_the_vote_of_the_others(exempt_1d):
    parameters = parameters_with_gradients()
    last = dist.get_world_size() - 1
    # Of the first two only the last rank has a gradient.
    theirs = [everyones(parameter.grad)[last] for parameter in parameters[:2]]
    if dist.get_rank() != last:
        parameters[0].grad = parameters[1].grad = None
    compsgd.VoteAggregator(parameters, exempt_1d=exempt_1d, **SETTINGS).aggregate()
    assert torch.equal(parameters[0].grad, LARGEST * theirs[0].sign())
    if exempt_1d:
        # A mean over all ranks, as plain DistributedDataParallel takes it.
        assert torch.equal(parameters[1].grad, theirs[1] / dist.get_world_size())
    else:
        assert torch.equal(parameters[1].grad, LARGEST * theirs[1].sign())
    assert_all_ranks_alike_in([parameter.grad for parameter in parameters])


@pytest.mark.parametrize("index", [0, 1, 3])
@pytest.mark.parametrize("exempt_1d", [False, True])
@on_ranks(2)
def test_a_parameter_that_has_no_gradient_anywhere_keeps_none(exempt_1d, index):
    parameters = parameters_with_gradients()
    frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
    aggregator = compsgd.VoteAggregator([*parameters, frozen], exempt_1d=exempt_1d, **SETTINGS)
    for _ in range(2):
        parameters[index].grad = None
        aggregator.aggregate()
        assert parameters[index].grad is None
        assert frozen.grad is None
        assert sum(parameter.grad is not None for parameter in parameters) == 3
    assert aggregator.ledger.num_steps == 2


@on_ranks(2)
def test_no_gradient_at_all():
    parameters = parameters_with_gradients()
    aggregator = compsgd.VoteAggregator(parameters, **SETTINGS)
    for parameter in parameters:
        parameter.grad = None
    aggregator.aggregate()
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@on_ranks(2)
def test_an_infinity_on_one_rank_sits_out(value):
    parameters = parameters_with_gradients()
    of_rank_0 = [everyones(parameter.grad)[0] for parameter in parameters]
    aggregator = compsgd.VoteAggregator(parameters, **SETTINGS)
    if dist.get_rank() == 1:
        parameters[1].grad[3] = value
    aggregator.aggregate()
    for parameter, theirs in zip(parameters, of_rank_0, strict=True):
        assert torch.equal(parameter.grad, LARGEST * theirs.sign())
    ranges = aggregator.state_dict()["memory"]
    # The rank that sits out has seen nothing.
    assert all(bool(bound.isfinite().all()) for bound in ranges.values()) == (dist.get_rank() == 0)


@on_ranks(2)
def test_an_infinity_on_all_ranks_is_seen():
    """By a GradScaler, which then takes no step."""
    parameters = parameters_with_gradients()
    aggregator = compsgd.VoteAggregator(parameters, **SETTINGS)
    parameters[2].grad[0, 0] = float("inf")
    aggregator.aggregate()
    assert not parameters[2].grad.isfinite().all()
    assert_all_ranks_alike_in([parameter.grad.nan_to_num(7) for parameter in parameters])


@pytest.mark.parametrize("start_from", ["a fresh one", "one that has voted"])
@on_ranks(2, 4)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(start_from):
    def train(net, aggregator, steps):
        sgd = torch.optim.SGD(net.parameters(), lr=0.01)
        for step in steps:
            sgd.zero_grad()
            loss_of(net, dist.get_rank(), step).backward()
            aggregator.aggregate()
            sgd.step()

    def aggregator_of(net):
        return compsgd.VoteAggregator(net.parameters(), scale="mean_abs", **SETTINGS)

    whole = model()
    of_whole = aggregator_of(whole)
    train(whole, of_whole, range(6))
    first = model()
    of_first = aggregator_of(first)
    train(first, of_first, range(3))
    saved = pickle.dumps(of_first.state_dict())
    second = copy.deepcopy(first)
    of_second = aggregator_of(second)
    if start_from != "a fresh one":
        train(second, of_second, range(1))
        second.load_state_dict(first.state_dict())
    of_second.load_state_dict(pickle.loads(saved))
    train(second, of_second, range(3, 6))
    assert_equal_weights(whole, second)
    ours, theirs = of_second.state_dict(), of_whole.state_dict()
    assert ours["iteration"] == theirs["iteration"] == 6
    for name, bound in theirs["memory"].items():
        assert torch.equal(ours["memory"][name], bound)
    # Each rank's is its own.
    bounds = everyones(theirs["memory"]["max"])
    assert not torch.equal(bounds[0], bounds[1])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", (1, 2)),
        ("num_bits", (3, 4)),
        ("binning", ("lin", "exp")),
        ("rand_zero", (True, False)),
        ("scale", (1.0, "mean_abs")),
        ("exchange", ("all_gather", "scatter_reduce")),
        ("min_compress_numel", (0, 10)),
        ("exempt_1d", (False, True)),
    ],
)
@on_ranks(2)
def test_settings_that_differ_are_named(name, values):
    aggregator = compsgd.VoteAggregator(
        parameters_with_gradients(), compile="off", **{name: values[dist.get_rank()]}
    )
    with pytest.raises(PeerError, match=f"disagree on {name}: .* on rank 0; .* on rank 1"):
        aggregator.aggregate()


@on_ranks(2)
def test_models_and_iterations_that_differ_are_named():
    parameters = parameters_with_gradients()
    longer = compsgd.VoteAggregator(parameters[: 3 + dist.get_rank()])
    with pytest.raises(PeerError, match="disagree on the model's parameters"):
        longer.aggregate()
    ahead = compsgd.VoteAggregator(parameters)
    ahead.load_state_dict(ahead.state_dict() | {"iteration": dist.get_rank()})
    with pytest.raises(PeerError, match="disagree on the iteration: 0 on rank 0; 1 on rank 1"):
        ahead.aggregate()


@on_ranks(2)
def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(SettingError, match="sparse"):
        compsgd.VoteAggregator(embedding.parameters()).aggregate()


@on_ranks(2, 4)
def test_only_members_vote():
    """A group of all ranks but the first; the first is no member."""
    others = dist.new_group(list(range(1, dist.get_world_size())))
    parameters = parameters_with_gradients()
    before = [parameter.grad.clone() for parameter in parameters]
    aggregator = compsgd.VoteAggregator(parameters, process_group=others, **SETTINGS)
    if dist.get_rank() == 0:
        with pytest.raises(SettingError, match="must be a group that this process is a member of"):
            aggregator.aggregate()
        assert all(map(torch.equal, before, (parameter.grad for parameter in parameters)))
    else:
        aggregator.aggregate()
        assert {float(x) for x in parameters[0].grad.unique()} <= {-4, -3, -2, -1, 1, 2, 3, 4}
