"""FSDP2: two replicas of two shards each, on four processes, vote between replicas."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import on_ranks
from silence import heard
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from compsgd.comm import VoteAggregator
from compsgd.comm.fsdp import register_fsdp_vote_hook
from compsgd.errors import SettingError

VOTE = {"num_bits": 3, "momentum": 0.9, "decay_min": 0.99, "decay_max": 0.99, "seed": 3,
        "compile": "native"}  # fmt: skip
NUM_STEPS = 6


def model():
    """Rows that two shards cannot share evenly, and a layer of one row, which one has alone."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Sequential(nn.Linear(7, 4), nn.Tanh()), nn.Linear(4, 1)
    )


def batch(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    inputs = torch.randn(8, 5, generator=generator)
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def loss_of(net, step):
    inputs, targets = batch(dist.get_rank(), step)
    return (net(inputs) - targets).square().mean()


def mesh():
    """Processes 0 and 1 are a replica, 2 and 3 the other."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))


def sharded(mesh, **settings):
    net = model()
    fully_shard(net[2], mesh=mesh["shard"], **settings)
    return fully_shard(net, mesh=mesh["shard"], **settings)


def train(net, optimizer, steps):
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(net, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def local_weights(net):
    return [parameter.detach().to_local().clone() for parameter in net.parameters()]


def shard_of(full, place):
    """Of two, as fully_shard cuts."""
    parts = full.chunk(2)
    return parts[place] if place < len(parts) else full[:0]


def train_by_hand(mesh, steps, **settings):
    """What FSDP and the hook should do, from full gradients and an aggregator of shards."""
    net, place = model(), mesh["shard"].get_local_rank()
    # In the order of FSDP: a module that is sharded for itself is one vote, the others another.
    own = [*net[0].parameters(), *net[3].parameters(), *net[2].parameters()]
    shards = [shard_of(one.detach(), place).clone().requires_grad_() for one in own]
    optimizer = torch.optim.SGD(shards, lr=0.01)
    group = mesh["replica"].get_group()
    aggregator = VoteAggregator(shards, process_group=group, **settings)
    for step in steps:
        net.zero_grad()
        loss_of(net, step).backward()
        for one, shard in zip(own, shards, strict=True):
            mean = one.grad.clone()
            dist.all_reduce(mean, group=mesh["shard"].get_group())
            shard.grad = shard_of(mean / 2, place).clone()
        aggregator.aggregate()
        optimizer.step()
        for one, shard in zip(own, shards, strict=True):
            one.data.zero_()
            shard_of(one.data, place).copy_(shard.detach())
            dist.all_reduce(one.data, group=mesh["shard"].get_group())
    return shards


@pytest.mark.parametrize("exempt_1d", [False, True], ids=["all", "exempt"])
@on_ranks(4)
def test_replicas_vote_on_their_shards(exempt_1d):
    """As an aggregator does on the shards of full gradients, bit for bit."""
    both = mesh()
    net = sharded(both)
    state = register_fsdp_vote_hook(net, both["replica"], exempt_1d=exempt_1d, **VOTE)
    train(net, torch.optim.SGD(net.parameters(), lr=0.01), range(NUM_STEPS))
    assert state.iteration == NUM_STEPS
    expected = train_by_hand(both, range(NUM_STEPS), exempt_1d=exempt_1d, **VOTE)
    names = [name for name, _ in net.named_parameters()]
    order = [name for name in names if not name.startswith("2.")]
    order += [name for name in names if name.startswith("2.")]
    found = dict(zip(names, local_weights(net), strict=True))
    for name, shard in zip(order, expected, strict=True):
        assert torch.equal(found[name], shard), name


@on_ranks(4)
def test_it_learns_and_sends_less_than_float32():
    both = mesh()
    net = sharded(both)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, betas=(0.0, 0.99))
    state = register_fsdp_vote_hook(
        net, both["replica"].get_group(), optimizer=optimizer, scale="mean_abs", **VOTE
    )
    losses = train(net, optimizer, range(60))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert state.ledger.num_steps == 60
    numel = sum(one.numel() for one in local_weights(net))
    assert state.bytes_per_step < 4 * numel
    assert state.summary().splitlines()[0].split() == ["steps", "60"]
    # Replicas end alike; their shards do not.
    weights = torch.cat([one.flatten() for one in local_weights(net)])
    others = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(others, weights, group=both["replica"].get_group())
    assert torch.equal(*others)


@on_ranks(4)
def test_a_checkpoint_holds_the_state_of_every_shard(tmp_path):
    both = mesh()

    def start():
        net = sharded(both)
        state = register_fsdp_vote_hook(net, both["replica"], **VOTE)
        return net, state, torch.optim.SGD(net.parameters(), lr=0.01)

    def saved(net, state):
        return {"model": net.state_dict(), f"vote of {dist.get_rank()}": state.state_dict()}

    net, state, optimizer = start()
    train(net, optimizer, range(3))
    dcp.save(saved(net, state), checkpoint_id=tmp_path)
    train(net, optimizer, range(3, NUM_STEPS))
    again, its_state, its_optimizer = start()
    # So that there is memory to load into.
    its_state.connect()
    loaded = saved(again, its_state)
    dcp.load(loaded, checkpoint_id=tmp_path)
    again.load_state_dict(loaded["model"])
    its_state.load_state_dict(loaded[f"vote of {dist.get_rank()}"])
    train(again, its_optimizer, range(3, NUM_STEPS))
    assert its_state.iteration == NUM_STEPS
    for one, other in zip(local_weights(net), local_weights(again), strict=True):
        assert torch.equal(one, other)


@on_ranks(4)
def test_another_shards_state_is_refused():
    """Of the same replica, whose ranks among the replicas are the same."""
    both = mesh()
    net = sharded(both)
    state = register_fsdp_vote_hook(net, both["replica"], **VOTE)
    train(net, torch.optim.SGD(net.parameters(), lr=0.01), range(1))
    foreign = state.state_dict() | {"rank": dist.get_rank() ^ 1}
    with pytest.raises(SettingError, match=f"this is rank {dist.get_rank()}"):
        state.load_state_dict(foreign)


@on_ranks(4)
def test_several_backwards_make_one_vote_where_only_the_last_is_reduced():
    both = mesh()
    net = sharded(both)
    state = register_fsdp_vote_hook(net, both["replica"], **VOTE)
    for step in range(3):
        net.set_requires_gradient_sync(step == 2)
        loss_of(net, step).backward()
    assert state.iteration == 1


@on_ranks(4)
def test_votes_on_votes_are_told_of_once():
    both = mesh()
    net = sharded(both)
    state = register_fsdp_vote_hook(net, both["replica"], **VOTE)
    with heard() as lines:
        for step in range(3):
            loss_of(net, step).backward()
    assert state.iteration == 3
    (line,) = lines
    assert "set_requires_gradient_sync(False)" in line


@on_ranks(4)
def test_gradients_reduced_in_bfloat16():
    both = mesh()
    net = sharded(both, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.bfloat16))
    register_fsdp_vote_hook(net, both["replica"], **VOTE)
    loss_of(net, 0).backward()
    levels = torch.cat([one.grad.to_local().flatten() for one in net.parameters()])
    assert levels.dtype == torch.float32
    # Halves of sums in bfloat16 may be 0, and 0 is broken: any level may come of that.
    assert set(levels.abs().tolist()) <= {1, 2, 3, 4}
    assert (levels.abs() == 4).any()


@on_ranks(4)
def test_what_divides_behind_the_vote_is_refused():
    both = mesh()
    net = sharded(both, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float16))
    register_fsdp_vote_hook(net, both["replica"], **VOTE)
    with pytest.raises(SettingError, match="take a reduce_dtype of float32 or bfloat16"):
        loss_of(net, 0).backward()


@on_ranks(4)
def test_frozen_and_exempt_parameters():
    both = mesh()
    net = model()
    net[2][0].weight.requires_grad_(False)
    fully_shard(net[2], mesh=both["shard"])
    fully_shard(net, mesh=both["shard"])
    register_fsdp_vote_hook(net, both["replica"], exempt=[net[0].weight], **VOTE | {"momentum": 0})
    loss_of(net, 0).backward()
    assert net[2][0].weight.grad is None
    assert set(net[2][0].bias.grad.to_local().tolist()) <= {-4.0, 4.0}
    weight = net[0].weight.grad.to_local()
    assert not set(weight.flatten().tolist()) & {-4.0, 4.0}


class Unused(nn.Linear):
    """A layer whose bias is for nothing."""

    def __init__(self):
        torch.manual_seed(1)
        super().__init__(5, 2)

    def forward(self, inputs):
        return inputs @ self.weight.T


@on_ranks(4)
def test_a_parameter_without_a_gradient_is_named():
    both = mesh()
    net = Unused()
    fully_shard(net, mesh=both["shard"])
    register_fsdp_vote_hook(net, both["replica"], **VOTE)
    with pytest.raises(SettingError, match="some parameter got none"):
        net(batch(0, 0)[0]).sum().backward()


@on_ranks(4)
def test_what_is_replicated_by_fsdp_or_not_sharded_is_refused():
    both = mesh()
    with pytest.raises(SettingError, match="without a sharded module inside"):
        register_fsdp_vote_hook(model(), both["replica"])
    with pytest.raises(SettingError, match="fully_shard over a mesh of one dimension"):
        register_fsdp_vote_hook(fully_shard(model(), mesh=both), both["replica"])
    net = sharded(both)
    with pytest.raises(SettingError, match="has no setting momentun"):
        register_fsdp_vote_hook(net, both["replica"], momentun=0.9)
    with pytest.raises(SettingError, match="exempt holds what is no parameter"):
        register_fsdp_vote_hook(net, both["replica"], exempt=[torch.zeros(2)])
