"""Packed codes through an entropy coder: the same weights, fewer bytes, and damage is told."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

import compsgd
from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.wire import WireFormat
from compsgd.comm import (
    Collectives,
    HierarchicalExchange,
    Ledger,
    Purpose,
    build_exchange,
    coded_messages,
    exchanges,
    register_vote_hook,
)
from compsgd.comm.coded_messages import CodedMessages
from compsgd.comm.traffic.ledger import Logical
from compsgd.errors import DamagedDataError, PeerError, SettingError

pytestmark = pytest.mark.heavy
NUMEL = 9 * 4096 + 77
FORMAT = WireFormat(NUMEL, ballot_alphabet(3, False), 12)


def collectives(num_workers):
    return Collectives(Ledger(), Purpose.GRADIENT, num_workers, dist.group.WORLD)


def rows_of(rank, size_bytes, num_rows=2):
    """Headers of noise, and packed codes that are mostly alike, up to where zeros must be."""
    generator = torch.Generator().manual_seed(rank)
    rows = torch.full((num_rows, size_bytes), 0b01101101, dtype=torch.uint8)
    rows[:, :12] = torch.randint(256, (num_rows, 12), generator=generator)
    rows[:, 100:200] = torch.randint(256, (num_rows, 100), generator=generator)
    return rows


def cleaned(rows, numel):
    """With zeros behind the codes, as packed."""
    rows[..., 12 + -(-3 * numel // 8) :] = 0
    if numel % 8:
        rows[..., 12 + 3 * numel // 8] &= (1 << 3 * numel % 8) - 1
    return rows


@on_ranks(1, 2, 3)
def test_gather():
    world_size, rank = dist.get_world_size(), dist.get_rank()
    one = collectives(2 * world_size)
    logical = Logical(FORMAT, 2 * world_size, 1)
    rows = [cleaned(rows_of(each, FORMAT.size_bytes(1)), NUMEL) for each in range(world_size)]
    plain = one.all_gather(rows[rank], logical)
    assert torch.equal(plain, torch.stack(rows))
    if world_size == 1:
        return
    assert torch.equal(CodedMessages(one).gather(rows[rank], 1, logical)(), plain)
    one.ledger.end_round(())
    whole, coded = one.ledger.steps[0].transfers
    assert coded.logical == whole.logical
    assert coded.wire.sent_bytes < 0.5 * whole.wire.sent_bytes
    sent = one.of_purpose(Purpose.BOOKKEEPING).all_gather(torch.tensor(list(coded.wire)))
    assert sent[:, 0].sum() == sent[:, 1].sum()


@on_ranks(2, 3)
def test_scatter():
    world_size, rank = dist.get_world_size(), dist.get_rank()
    one = collectives(2 * world_size)
    logical = Logical(FORMAT, *[2 * world_size] * 2)
    size_bytes = FORMAT.size_bytes(world_size)
    shards = [-(-NUMEL // world_size)] * (world_size - 1)
    shards.append(NUMEL - sum(shards))
    rows = torch.stack(
        [
            cleaned(rows_of(10 * rank + shard, size_bytes), shards[shard])
            for shard in range(world_size)
        ]
    )
    plain = one.all_to_all(rows, logical)
    assert torch.equal(CodedMessages(one).scatter(rows, logical)(), plain)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(500, 501), torch.nn.Linear(501, 4))


def train(net, optimizer):
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(3):
        optimizer.zero_grad()
        loss = net(torch.randn(4, 500, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("exchange", ["all_gather", "scatter_reduce"])
@pytest.mark.parametrize(
    "choices",
    [{"num_bits": 3}, {"num_bits": 8, "check_every": 1}, {"num_bits": 2, "verify_fraction": 1.0},
     {"num_bits": 3, "rand_zero": False}],
)  # fmt: skip
@on_ranks(3)
def test_optimizers(exchange, choices):
    found = {}
    for coding in ("off", "on"):
        net = model()
        optimizer = compsgd.CompressedSGDVote(
            net.parameters(), 0.01, process_group=dist.group.WORLD, exchange=exchange,
            entropy_coding=coding, compile="native", momentum=0.9, num_chunks=2, **choices,
        )  # fmt: skip
        ledger = optimizer.exchange.ledger
        found[coding] = train(net, optimizer), ledger.wire[Purpose.GRADIENT].sent_bytes
        assert sum(step.logical.sent_bytes for step in ledger.steps) > 0
    assert torch.equal(found["on"][0], found["off"][0])
    if choices.get("rand_zero", True):
        assert found["on"][1] < 0.9 * found["off"][1]
    else:
        assert found["on"][1] == found["off"][1]


@on_ranks(3)
def test_what_is_not_coded_travels_as_it_is():
    """Sums of three workers are no alphabet of the coder's, nor are signs."""
    for make in (compsgd.CompressedSGD, compsgd.SignSGD):
        weights = []
        for coding in ("off", "on"):
            net = model()
            optimizer = make(
                net.parameters(), 0.01, process_group=dist.group.WORLD, entropy_coding=coding
            )
            weights.append(train(net, optimizer))
        assert torch.equal(*weights)


@on_ranks(4)
def test_between_hosts():
    found = []
    for coding in ("off", "on"):
        net, ledger = model(), Ledger()
        exchange = HierarchicalExchange(
            Collectives(ledger, Purpose.GRADIENT, 4, dist.group.WORLD),
            processes_per_host=2, entropy_coding=coding,
        )  # fmt: skip
        optimizer = compsgd.CompressedSGDVote(net.parameters(), 0.01, exchange=exchange, num_bits=4)
        found.append((train(net, optimizer), ledger.wire[Purpose.GRADIENT].sent_bytes))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] < found[0][1]


@on_ranks(2)
def test_the_hook_and_the_aggregator():
    found = []
    for coding in ("off", "on"):
        net = torch.nn.parallel.DistributedDataParallel(model())
        state = register_vote_hook(net, scale="mean_abs", momentum=0.9, entropy_coding=coding)
        weights = train(net, torch.optim.SGD(net.parameters(), 0.1))
        own = model()
        aggregator = compsgd.VoteAggregator(own.parameters(), scale=0.1, entropy_coding=coding)
        sgd = torch.optim.SGD(own.parameters(), 0.01)
        sgd.register_step_pre_hook(lambda *_, one=aggregator: one.aggregate())
        found.append((torch.cat([weights, train(own, sgd)]), state.bytes_per_step))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] < 0.9 * found[0][1]


@pytest.mark.parametrize("is_slow", [True, False])
@on_ranks(2)
def test_auto_codes_where_the_link_is_slow(is_slow):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchanges, "_CODING_PAYS_S_PER_BYTE", 0.0 if is_slow else 1.0)
        patch.setattr(exchanges, "_FEWEST_CODED", 1000)
        found = {}
        for coding in ("auto", "off"):
            net = model()
            optimizer = compsgd.CompressedSGDVote(
                net.parameters(), 0.01, process_group=dist.group.WORLD, entropy_coding=coding
            )
            train(net, optimizer)
            found[coding] = optimizer.exchange.ledger.wire[Purpose.GRADIENT].sent_bytes
    assert (found["auto"] < found["off"]) == is_slow


@pytest.mark.parametrize("damage", ["cut", "length", "codes"])
@on_ranks(2)
def test_damage_names_who_has_sent_it(damage):
    """Rank 1 sends it; rank 0 says so."""
    original = coded_messages._RowCoder.encode

    def encode(self, rows, numel):
        message = original(self, rows, numel).clone()
        if dist.get_rank() == 0:
            return message
        if damage == "cut":
            return message[:30]
        if damage == "length":
            message[:4] = 255
        else:
            message[20:26] ^= 255
        return message

    one = collectives(2)
    rows = cleaned(rows_of(0, FORMAT.size_bytes(1), 1), NUMEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded_messages._RowCoder, "encode", encode)
        arrival = CodedMessages(one).gather(rows, 1, Logical(FORMAT, 2, 1))
        if dist.get_rank() == 0:
            with pytest.raises(DamagedDataError, match="rank 1 sends"):
                arrival()
        else:
            assert torch.equal(arrival()[0], rows)


@on_ranks(2)
def test_processes_that_disagree_are_told():
    net = model()
    coding = ["off", "on"][dist.get_rank()]
    optimizer = compsgd.CompressedSGDVote(
        net.parameters(), 0.01, process_group=dist.group.WORLD, entropy_coding=coding
    )
    with pytest.raises(PeerError, match="disagree on entropy_coding"):
        train(net, optimizer)


def test_what_there_is_not_is_told():
    alone = Collectives(Ledger(), Purpose.GRADIENT, 2)
    with pytest.raises(SettingError, match="is 'x'; it must be one of off, on, auto"):
        build_exchange("all_gather", alone, entropy_coding="x")
    with pytest.raises(SettingError, match="entropy_coding is 'x'"):
        compsgd.VoteSettings(entropy_coding="x")
