"""A rank that trains through the hook in one of many situations; fails where they go wrong."""

import contextlib
import copy
import logging
import pickle
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

import compsgd
from compsgd.bucket import BucketVote
from compsgd.comm import Collectives, Ledger, VoteState, build_exchange, vote_hook, wrap
from compsgd.comm.traffic.ledger import Purpose
from compsgd.errors import CompsgdError

SETTINGS = {"num_bits": 3, "decay_max": 0.9, "seed": 5, "compile": "native"}


class Net(nn.Module):
    """With a branch that only some batches take, and one that none does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 8, 3)
        self.hidden = nn.Linear(288, 64)
        self.norm = nn.LayerNorm(64)
        self.branch = nn.Linear(64, 64)
        self.never = nn.Linear(64, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, images, takes_branch=True):
        hidden = self.norm(self.hidden(self.conv(images).relu().flatten(1)).relu())
        if takes_branch:
            hidden = hidden + self.branch(hidden)
        return self.out(hidden)


def model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def batch(rank, step):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return (
        torch.randn(16, 1, 8, 8, generator=generator),
        torch.randint(10, (16,), generator=generator),
    )


def loss_of(net, rank, step, **arguments):
    images, labels = batch(rank, step)
    return nn.functional.cross_entropy(net(images, **arguments), labels)


def optimizer_on(net, **settings):
    """A CompressedSGDVote of the same settings over the same processes."""
    size = dist.get_world_size()
    collectives = Collectives(Ledger(), Purpose.GRADIENT, size, dist.new_group())
    exchange = build_exchange("auto", collectives)
    return compsgd.CompressedSGDVote(
        net.parameters(), 0.01, exchange=exchange, **SETTINGS | settings
    )


def assert_equal_weights(one, other):
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def assert_all_ranks_alike_in(tensors):
    for tensor in tensors:
        mine = tensor.detach().double().contiguous()
        everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyones, mine)
        assert all(torch.equal(everyones[0], one) for one in everyones)


def assert_all_ranks_alike(net):
    assert_all_ranks_alike_in(net.parameters())


def equals_the_optimizer(memory_format=torch.contiguous_format, **ddp_settings):
    """Plain SGD through the hook, and CompressedSGDVote on the same gradients: the same bits."""
    for binning, compile in (("lin", "native"), ("lin", "off"), ("exp", "off")):
        net = model().to(memory_format=memory_format)
        hooked = DistributedDataParallel(net, **ddp_settings)
        state = wrap(hooked, **SETTINGS | {"binning": binning, "compile": compile})
        sgd = torch.optim.SGD(hooked.parameters(), lr=0.01)
        plain = model()
        voted = optimizer_on(plain, binning=binning, compile="off")
        for step in range(5):
            for net, optimizer in ((hooked, sgd), (plain, voted)):
                optimizer.zero_grad()
                loss_of(net, dist.get_rank(), step).backward()
                optimizer.step()
        assert_equal_weights(hooked.module, plain)
        assert len(state.ledger.steps) == 5
        assert all(step.wire.sent_bytes > 0 for step in state.ledger.steps)
        assert "compression" in state.summary()


def one_bucket():
    equals_the_optimizer()


def many_buckets():
    hooked = DistributedDataParallel(model(), bucket_cap_mb=0.01)
    sizes = []

    def counting(state, bucket):
        sizes.append(len(bucket.parameters()))
        return vote_hook(state, bucket)

    hooked.register_comm_hook(VoteState(params=hooked.parameters(), **SETTINGS), counting)
    for step in range(2):
        sizes.clear()
        loss_of(hooked, dist.get_rank(), step).backward()
    assert len(sizes) > 1
    equals_the_optimizer(bucket_cap_mb=0.01)


def channels_last():
    equals_the_optimizer(memory_format=torch.channels_last, bucket_cap_mb=0.01)


def static_graph():
    equals_the_optimizer(static_graph=True, bucket_cap_mb=0.01)


def bucket_views():
    equals_the_optimizer(gradient_as_bucket_view=True, bucket_cap_mb=0.01)


def accumulation():
    """Under no_sync gradients add up, and the vote is on the sum."""
    hooked, plain = DistributedDataParallel(model(), bucket_cap_mb=0.01), model()
    state = wrap(hooked, **SETTINGS)
    sgd, voted = torch.optim.SGD(hooked.parameters(), lr=0.01), optimizer_on(plain)
    for step in range(4):
        for net, optimizer in ((hooked, sgd), (plain, voted)):
            optimizer.zero_grad()
            quiet = net.no_sync() if net is hooked else contextlib.nullcontext()
            with quiet:
                loss_of(net, dist.get_rank(), 2 * step).backward()
            loss_of(net, dist.get_rank(), 2 * step + 1).backward()
            optimizer.step()
    assert_equal_weights(hooked.module, plain)
    assert len(state.ledger.steps) == 4


def unused_parameters():
    """Some ranks have no gradient for a branch and sit out there; for another nobody has one."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(Net(), find_unused_parameters=True, bucket_cap_mb=0.01)
    plain = Net()
    never = copy.deepcopy(plain.never)
    wrap(hooked, **SETTINGS)
    sgd, voted = torch.optim.SGD(hooked.parameters(), lr=0.01), optimizer_on(plain)
    for step in range(4):
        takes_branch = (rank + step) % 2 == 0 or step == 3
        for net, optimizer in ((hooked, sgd), (plain, voted)):
            optimizer.zero_grad()
            loss_of(net, rank, step, takes_branch=takes_branch).backward()
            optimizer.step()
    assert_equal_weights(hooked.module, plain)
    assert_equal_weights(hooked.module.never, never)


def join():
    """Ranks with fewer batches sit out at the end."""
    rank = dist.get_rank()
    hooked, plain = DistributedDataParallel(model(), bucket_cap_mb=0.01), model()
    wrap(hooked, **SETTINGS)
    sgd, voted = torch.optim.SGD(hooked.parameters(), lr=0.01), optimizer_on(plain)
    num_batches = 2 + rank
    with Join([hooked]):
        for step in range(num_batches):
            sgd.zero_grad()
            loss_of(hooked, rank, step).backward()
            sgd.step()
    for step in range(1 + dist.get_world_size()):
        voted.zero_grad()
        if step < num_batches:
            loss_of(plain, rank, step).backward()
        voted.step()
    if rank == dist.get_world_size() - 1:
        assert_equal_weights(hooked.module, plain)


def infinite_gradients():
    """One rank's infinity sits out; where all have one, the scaler sees it and backs off."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    state = wrap(hooked, scale="mean_abs", **SETTINGS)
    sgd = torch.optim.SGD(hooked.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(6):
        poisoned = (step == 2 and rank == 0) or step == 4
        before = [parameter.clone() for parameter in hooked.parameters()]
        sgd.zero_grad()
        loss = loss_of(hooked, rank, step) * (float("inf") if poisoned else 1.0)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        moved = any(
            not torch.equal(now, then)
            for now, then in zip(hooked.parameters(), before, strict=True)
        )
        assert moved == (step != 4)
        assert scaler.get_scale() == (16.0 if step < 4 else 8.0)
    assert_all_ranks_alike(hooked)
    assert all(bool(bound.isfinite().all()) for bound in state.state_dict()["ranges"].values())


def infinite_exempt_gradients():
    """A NaN on one rank poisons no average either; one on all is seen."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    wrap(hooked, exempt_1d=True, **SETTINGS)
    for culprits in ({0}, set(range(dist.get_world_size()))):
        hooked.zero_grad()
        (loss_of(hooked, rank, 0) * (float("nan") if rank in culprits else 1.0)).backward()
        assert_all_ranks_alike_in([parameter.grad.nan_to_num(7) for parameter in
                                   hooked.parameters()])  # fmt: skip
        all_finite = all(bool(parameter.grad.isfinite().all()) for parameter in
                         hooked.parameters())  # fmt: skip
        assert all_finite == (culprits == {0})


def other_types():
    """Half-precision parameters, and another default type."""
    torch.set_default_dtype(torch.float64)
    for dtype in (torch.bfloat16, torch.float64):
        net = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 4)).to(dtype)
        hooked = DistributedDataParallel(net)
        wrap(hooked, scale="mean_abs", exempt_1d=True, **SETTINGS)
        inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(dist.get_rank()))
        hooked(inputs.to(dtype)).sum().backward()
        assert all(parameter.grad.dtype == dtype for parameter in net.parameters())
        assert_all_ranks_alike_in([parameter.grad for parameter in net.parameters()])
    torch.set_default_dtype(torch.float32)


def nobody_has_a_gradient():
    """A bucket in which nobody votes costs a header, no average."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(8, 8), nn.Linear(300, 300)

        def forward(self, inputs):
            return self.used(inputs)

    hooked = DistributedDataParallel(Idle(), find_unused_parameters=True, bucket_cap_mb=0.01)
    state = wrap(hooked, **SETTINGS)
    for _ in range(3):
        hooked.zero_grad()
        hooked(torch.ones(2, 8) + dist.get_rank()).sum().backward()
    assert all(t.collective != "all_reduce" for step in state.ledger.steps for t in step.transfers)


def disagreements():
    """What must be alike is compared before anything is voted on."""
    rank = dist.get_rank()
    for name, values in (
        ("seed", (1, 2)), ("num_bits", (3, 4)), ("scale", (1.0, "mean_abs")),
        ("exchange", ("all_gather", "scatter_reduce")), ("start_vote_iter", (0, 5)),
        ("exempt_1d", (False, True)),
    ):  # fmt: skip
        hooked = DistributedDataParallel(model())
        wrap(hooked, compile="off", **{name: values[min(rank, 1)]})
        with pytest.raises(Exception, match=f"disagree on {name}"):
            loss_of(hooked, rank, 0).backward()


def an_error_on_one_rank():
    """It goes on with nothing: later buckets would meet the wrong ones of others."""
    if dist.get_rank() != 0:
        return
    alone = DistributedDataParallel(model(), process_group=dist.new_group(
        [0], use_local_synchronization=True), bucket_cap_mb=0.01)  # fmt: skip
    state = wrap(alone, **SETTINGS)
    loss_of(alone, 0, 0).backward()
    cast, calls = BucketVote.cast, []

    def failing(self, *args):
        calls.append(1)
        raise ValueError("out of something")

    BucketVote.cast = failing
    with pytest.raises(Exception, match="out of something"):
        loss_of(alone, 0, 1).backward()
    BucketVote.cast = cast
    assert len(calls) == 1
    assert state.iteration == 2


def exempt_parameters():
    """Vectors and small tensors are averaged as plain DDP does it, the others voted on."""
    rank, size = dist.get_rank(), dist.get_world_size()
    hooked = DistributedDataParallel(model(), bucket_cap_mb=0.01)
    wrap(hooked, exempt_1d=True, min_compress_numel=100, **SETTINGS)
    plain = DistributedDataParallel(model())
    loss_of(hooked, rank, 0).backward()
    loss_of(plain, rank, 0).backward()
    for one, other in zip(hooked.parameters(), plain.parameters(), strict=True):
        if one.ndim == 1 or one.numel() < 100:
            assert torch.allclose(one.grad, other.grad, rtol=1e-5, atol=1e-8)
        else:
            assert set(one.grad.unique().tolist()) <= {-4, -3, -2, -1, 1, 2, 3, 4}
    assert size > 1


def mean_magnitudes():
    """scale="mean_abs": each tensor's mean magnitude is the mean of the workers'."""
    rank, size = dist.get_rank(), dist.get_world_size()
    hooked, plain = DistributedDataParallel(model()), model()
    state = wrap(hooked, scale="mean_abs", **SETTINGS)
    loss_of(hooked, rank, 0).backward()
    loss_of(plain, rank, 0).backward()
    for one, own in zip(hooked.parameters(), plain.parameters(), strict=True):
        mean = own.grad.abs().mean()
        dist.all_reduce(mean)
        assert torch.allclose(one.grad.abs().mean(), mean / size, rtol=1e-4)
    bare = DistributedDataParallel(model())
    bare_state = wrap(bare, **SETTINGS)
    loss_of(bare, rank, 0).backward()
    handed, bare_handed = (
        one.ledger.steps[0].transfers[0].handed_bytes for one in (state, bare_state)
    )
    num_shards = 1 if size == 2 else size
    assert handed - bare_handed == 4 * len(list(plain.parameters())) * num_shards


def mean_magnitudes_in_buckets():
    """They do not depend on how parameters are joined in buckets."""
    nets = [DistributedDataParallel(model(), bucket_cap_mb=size) for size in (25, 0.01)]
    for net in nets:
        wrap(net, scale="mean_abs", **SETTINGS)
        sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            sgd.zero_grad()
            loss_of(net, dist.get_rank(), step).backward()
            sgd.step()
    assert_equal_weights(*nets)


def subgroups():
    """Two halves that train by themselves."""
    rank, half = dist.get_rank(), dist.get_world_size() // 2
    groups = [dist.new_group(list(range(first, first + half))) for first in (0, half)]
    group = groups[rank // half]
    hooked = DistributedDataParallel(model(), process_group=group, bucket_cap_mb=0.01)
    state = wrap(hooked, **SETTINGS)
    loss_of(hooked, rank, 0).backward()
    assert state.voter.world_size == half
    weight = hooked.module[0].weight.grad
    everyones = [torch.empty_like(weight) for _ in range(2 * half)]
    dist.all_gather(everyones, weight)
    for other, theirs in enumerate(everyones):
        assert torch.equal(weight, theirs) == (other // half == rank // half)


def start_later():
    """Plain averages before start_vote_iter."""
    rank = dist.get_rank()
    hooked = DistributedDataParallel(model())
    wrap(hooked, start_vote_iter=2, **SETTINGS)
    for step in range(4):
        hooked.zero_grad()
        loss_of(hooked, rank, step).backward()
        levels = {float(level) for level in hooked.module[0].weight.grad.unique()}
        assert (levels <= {-4, -3, -2, -1, 1, 2, 3, 4}) == (step >= 2)


def checkpoint():
    """A state that is saved, pickled and loaded goes on as if nothing had happened."""
    rank = dist.get_rank()

    def start(net):
        hooked = DistributedDataParallel(net, bucket_cap_mb=0.01)
        state = wrap(hooked, **SETTINGS)
        return hooked, state, torch.optim.SGD(hooked.parameters(), lr=0.01)

    def train(hooked, sgd, steps):
        for step in steps:
            sgd.zero_grad()
            loss_of(hooked, rank, step).backward()
            sgd.step()

    whole, _, sgd = start(model())
    train(whole, sgd, range(6))
    first, state, sgd = start(model())
    train(first, sgd, range(3))
    saved = pickle.dumps(state.state_dict())
    second, state, sgd = start(copy.deepcopy(first.module))
    state.load_state_dict(pickle.loads(saved))
    train(second, sgd, range(3, 6))
    assert_equal_weights(whole.module, second.module)
    logging.getLogger("compsgd").setLevel(logging.ERROR)  # it says what it leaves out
    copied = pickle.loads(pickle.dumps(state))
    assert copied.process_group is None
    assert copied.iteration == 6
    assert copied.settings == state.settings
    for name, bound in state.state_dict()["ranges"].items():
        assert torch.equal(copied.state_dict()["ranges"][name], bound)
    other = VoteState(params=model().parameters(), num_bits=4)
    with pytest.raises(CompsgdError, match="num_bits=3"):
        other.load_state_dict(state.state_dict())


def mistakes():
    hooked = DistributedDataParallel(model())
    wrap(hooked)
    for mistake, expected in (
        (lambda: wrap(hooked), "takes no hook"),
        (lambda: wrap(model()), "takes a DistributedDataParallel"),
        (lambda: wrap(hooked, range_decay=0.9), "no setting range_decay; there are num_bits"),
        (lambda: wrap(hooked, params=[]), "no setting params"),
    ):
        with pytest.raises(CompsgdError, match=expected):
            mistake()
    cast = DistributedDataParallel(model())
    cast.mixed_precision = object()
    with pytest.raises(CompsgdError, match="mixed_precision"):
        wrap(cast)
    sparse = DistributedDataParallel(nn.Embedding(10, 4, sparse=True))
    wrap(sparse)
    with pytest.raises(Exception, match="sparse"):
        sparse(torch.tensor([1, 2])).sum().backward()
    lost = DistributedDataParallel(model())
    lost.register_comm_hook(VoteState(), vote_hook)
    loss = loss_of(lost, 0, 0)
    with pytest.raises(Exception, match="does not know the model's parameters"):
        loss.backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in sys.argv[1:]:
        print(name, flush=True)
        globals()[name]()
    dist.destroy_process_group()
