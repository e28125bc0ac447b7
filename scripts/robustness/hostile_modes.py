"""What one process of several may do to the others, for hostile_peers.py: patches of its code."""

import functools
import itertools
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from compsgd.comm import exchanges
from compsgd.comm.group import averaging, messages
from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group.roll_call import RollCall
from compsgd.comm.membership import Membership
from compsgd.gradient import Gradient
from compsgd.optim.round_optimizer import RoundOptimizer
from compsgd.voting.aggregator import LevelAggregator
from compsgd.workers.launch.watchdog import _STOP_KEY
from compsgd.workers.options import Options

RANK = 1
# What a hostile rank prints when it does something else than it should.
TRIED = "hostile: tried"
# A few rounds are as they should be, so that the run is under way.
_HONEST_ROUNDS = 3
_ALL_GATHER, _SCATTER_REDUCE = "all_gather", "scatter_reduce"

Patch = Callable[[], None]
Alter = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Mode:
    """
    Attributes:
        name: for the table.
        patch: makes this process hostile.
        exchange: in which it is tried.
        verifies: whether every vote is counted again.
        clients: against which it means something.
    """

    name: str
    patch: Patch
    exchange: str = _ALL_GATHER
    verifies: bool = False
    clients: tuple[str, ...] = ("launch.py", "hook")


@functools.cache
def _tried() -> None:
    """Says, once, that a patch is reached: one that nobody runs into any more would harm nobody."""
    print(TRIED, flush=True)


# Ballots.


def _ballots(alter: Callable[[Tensor], None]) -> Patch:
    """Alters what goes out: uint8, shape (hosted, num_shards, num_bytes), behind a few rounds."""

    def patch() -> None:
        calls = itertools.count()

        def patched(original: Callable[..., Any]) -> Callable[..., Any]:
            def distribute(exchange: Any, rows: Tensor, format: Any) -> Any:
                is_of_levels = format is not None and format.ballot.alphabet is not None
                if is_of_levels and next(calls) >= _HONEST_ROUNDS:
                    honest = rows
                    rows = rows.clone()
                    alter(rows)
                    if not torch.equal(rows, honest):
                        _tried()
                return original(exchange, rows, format)

            return distribute

        for kind in (exchanges.AllGatherExchange, exchanges.ScatterReduceExchange):
            kind.distribute = patched(kind.distribute)  # type: ignore[method-assign]

    return patch


def _put(place: int, *values: int) -> Patch:
    def alter(rows: Tensor) -> None:
        rows[:, :, place : place + len(values)] = torch.tensor(values, dtype=torch.uint8)

    return _ballots(alter)


def _fill(value: int) -> Patch:
    """All codes, behind the longest header there is here."""

    def alter(rows: Tensor) -> None:
        rows[:, :, 64:-4] = value

    return _ballots(alter)


def _random_codes(rows: Tensor) -> None:
    codes = rows[:, :, 64:-4]
    codes.copy_(torch.randint(256, codes.shape, dtype=torch.uint8))


def _invert(rows: Tensor) -> None:
    rows[:, :, 64:-4] ^= 255


def _noise(rows: Tensor) -> None:
    rows.copy_(torch.randint(256, rows.shape, dtype=torch.uint8))


def _padding(rows: Tensor) -> None:
    rows[:, :, -1] |= 0x80


def _replayed() -> Patch:
    kept: list[Tensor] = []

    def alter(rows: Tensor) -> None:
        kept.append(rows.clone())
        rows.copy_(kept[0])

    return _ballots(alter)


def _magnitude(value: float) -> Patch:
    """What a header says of the gradient's size, for `scale="mean_abs"`."""

    def patch() -> None:
        original = LevelAggregator._means

        def means(aggregator: LevelAggregator, gradient: Gradient, sums: Any) -> Tensor | None:
            found = original(aggregator, gradient, sums)
            if found is not None:
                _tried()
                found.view(torch.float32).fill_(value)
            return found

        LevelAggregator._means = means  # type: ignore[method-assign]

    return patch


def _equivocate() -> None:
    """Rank 0 is sent other codes than the others."""
    original = Collectives._start_direct_gather
    calls = itertools.count()

    def start(collectives: Collectives, everyones: Tensor, mine: Tensor) -> list[Any]:
        if mine.numel() < 500 or next(calls) < _HONEST_ROUNDS:
            return original(collectives, everyones, mine)
        everyones[collectives.rank] = mine
        others = [rank for rank in range(collectives.world_size) if rank != collectives.rank]
        other_words = mine.clone()
        other_words[100:200] ^= 255
        _tried()
        group = collectives._group
        works: list[Any] = [
            dist.irecv(everyones[rank], group_src=rank, group=group) for rank in others
        ]
        for rank in others:
            words = other_words if rank == 0 else mine
            works.append(dist.isend(words, group_dst=rank, group=group))
        return works

    Collectives._start_direct_gather = start  # type: ignore[method-assign]


# Results of a shard.


def _results(alter: Callable[[Tensor], None], only_to_rank_0: bool = False) -> Patch:
    """Alters the packed results that this process hands to all, or lets one see others."""

    def patch() -> None:
        original = exchanges.ScatterReduceExchange.collect
        calls = itertools.count()

        def collect(exchange: Any, result: Tensor, format: Any) -> Any:
            if next(calls) >= _HONEST_ROUNDS:
                honest = result
                result = result.clone()
                alter(result)
                if not torch.equal(result, honest):
                    _tried()
            return original(exchange, result, format)

        exchanges.ScatterReduceExchange.collect = collect  # type: ignore[method-assign]
        if only_to_rank_0:
            _equivocate()

    return patch


def _lie(result: Tensor) -> None:
    result[10:20] ^= 255


def _nothing(result: Tensor) -> None:
    pass


# Messages.


def _text(text: Callable[[str], bytes]) -> Patch:
    """Another text than the JSON that is due."""

    def patch() -> None:
        original = json.dumps

        class Json:
            loads = staticmethod(json.loads)

            @staticmethod
            def dumps(message: Any) -> Any:
                _tried()
                return _Bytes(text(original(message)))

        messages.json = Json  # type: ignore[assignment]

    return patch


class _Bytes:
    """Text that encodes to given bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def encode(self) -> bytes:
        return self._data


def _announced(size: int) -> Patch:
    """Another size than that of the message that follows."""

    def patch() -> None:
        original = Collectives.all_gather

        def all_gather(collectives: Collectives, tensor: Tensor, logical: Any = None) -> Tensor:
            if tensor.dtype == torch.int64 and tensor.ndim == 0:
                _tried()
                tensor = torch.tensor(size)
            return original(collectives, tensor, logical)

        Collectives.all_gather = all_gather  # type: ignore[method-assign]

    return patch


# Sizes of collectives.


def _gathered(resize: Callable[[Tensor], Tensor]) -> Patch:
    """Hands over tensors of another size than all others."""

    def patch() -> None:
        original = Collectives.start_all_gather
        calls = itertools.count()

        def start(collectives: Collectives, tensor: Tensor, logical: Any = None) -> Any:
            if tensor.nbytes > 500 and next(calls) >= _HONEST_ROUNDS:
                _tried()
                tensor = resize(tensor.contiguous().flatten())
            return original(collectives, tensor, logical)

        Collectives.start_all_gather = start  # type: ignore[method-assign]

    return patch


def _longer(flat: Tensor) -> Tensor:
    return torch.cat([flat, flat, flat])


def _shorter(flat: Tensor) -> Tensor:
    return flat[: len(flat) // 2]


# What a process does, or does not.


def _in_round(act: Callable[[], None]) -> Patch:
    def alter(rows: Tensor) -> None:
        _tried()
        act()

    return _ballots(alter)


def _vanish() -> None:
    os._exit(0)


def _hang() -> None:
    time.sleep(1000)


def _fail() -> None:
    raise ValueError("something is wrong here")


def _interrupt_oneself() -> None:
    os.kill(os.getpid(), 2)


def _one_more() -> None:
    """A collective that nobody else has."""
    dist.all_reduce(torch.ones(1000))


def _gradients(alter: Callable[[Gradient], Gradient], alter_mean: Alter | None = None) -> Patch:
    """Of the model, before they are discretised; and those that are averaged."""

    def patch() -> None:
        original = LevelAggregator._written
        flattened = averaging._flat

        def written(
            aggregator: LevelAggregator, slot: int, gradient: Gradient, round_: int
        ) -> Iterator[int]:
            _tried()
            return original(aggregator, slot, alter(gradient), round_)

        def flat(gradients: Any) -> Tensor:
            found = flattened(gradients)
            if alter_mean is not None:
                alter_mean(found)
            return found

        LevelAggregator._written = written  # type: ignore[method-assign]
        averaging._flat = flat

    return patch


def _values(alter: Alter) -> Patch:
    def altered(gradient: Gradient) -> Gradient:
        for part in gradient.parts:
            alter(part.values)
        return gradient

    return _gradients(altered, alter)


# What must be alike.


def _other_seed() -> None:
    """Says what the others say, and does something else: another seed of random bits."""
    original = LevelAggregator.__init__

    def init(aggregator: LevelAggregator, *args: Any, **more: Any) -> None:
        original(aggregator, *args, **more)
        if aggregator._seed != 12345:
            _tried()
        aggregator._seed = 12345

    LevelAggregator.__init__ = init  # type: ignore[method-assign]


def _other_facts(change: Callable[[dict[str, str]], None]) -> Patch:
    def patch() -> None:
        original = Options.shared
        other = Membership._facts

        def shared(options: Options) -> Any:
            _tried()
            facts = dict(original(options))
            change(facts)
            return facts

        def facts_of(membership: Membership, params: Any) -> Any:
            _tried()
            facts = dict(other(membership, params))
            change(facts)
            return facts

        Options.shared = shared  # type: ignore[method-assign]
        Membership._facts = facts_of  # type: ignore[method-assign]

    return patch


def _change_a_fact(facts: dict[str, str]) -> None:
    facts[next(iter(facts))] = "something else"


def _leave_out_a_fact(facts: dict[str, str]) -> None:
    del facts[next(iter(facts))]


def _add_facts(facts: dict[str, str]) -> None:
    facts |= {f"fact {number}": "x" * 100 for number in range(1000)}


def _drift() -> None:
    """Moves its own weights a little further than the others."""
    original = RoundOptimizer.step

    def step(optimizer: RoundOptimizer, *args: Any) -> Any:
        found = original(optimizer, *args)
        _tried()
        with torch.no_grad():
            next(iter(optimizer.voted_parameters)).view(-1)[0] += 1e-3
        return found

    RoundOptimizer.step = step  # type: ignore[method-assign]


# The store.


def _keys(*pairs: tuple[str, str]) -> Patch:
    """Writes keys over and over, as anybody who reaches the store can."""

    def patch() -> None:
        from compsgd.comm.group import store as stores

        original = stores.BoundedStore.__init__

        def init(bounded: Any, store: Any, limit_s: float) -> None:
            original(bounded, store, limit_s)
            import threading

            forger = store.clone()

            def forge() -> None:
                while True:
                    for key, value in pairs:
                        forger.set(key, value)
                    _tried()
                    time.sleep(0.01)

            threading.Thread(target=forge, daemon=True).start()

        stores.BoundedStore.__init__ = init  # type: ignore[method-assign]

    return patch


class _Written:
    """A store that keeps which keys are set."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def set(self, key: str, value: str = "") -> None:
        self.keys.append(key)


def _roll_call_key(name: str) -> str:
    return RollCall(cast(Any, _Written()), RANK, 3, name, 1.0)._key


def _left_key(rank: int) -> str:
    written = _Written()
    RollCall(cast(Any, written), rank, 3, "urgent", 1.0).leave()
    (key,) = written.keys
    return key


def _header(field: int, value: int) -> Patch:
    """A 32-bit field of the header, by place."""
    return _put(field, *struct.pack("<i", value))


_LAUNCH = ("launch.py",)
_HOOK = ("hook",)
MODES = (
    Mode("ballot: wrong magic", _put(0, 0)),
    Mode("ballot: another version", _put(4, 2)),
    Mode("ballot: other bits", _put(5, 7)),
    Mode("ballot: another alphabet", _put(6, 1)),
    Mode("ballot: spare byte used", _put(7, 1)),
    Mode("ballot: of another worker", _header(8, 0)),
    Mode("ballot: of a worker that there is not", _header(8, 1 << 30)),
    Mode("ballot: of the round before", _replayed()),
    Mode("ballot: of another number of parameters", _header(16, 1 << 20)),
    Mode("ballot: names a parameter that there is not", _header(20, 1 << 20)),
    Mode("ballot: not finite, and takes part", _header(20, 0)),
    Mode("ballot: padding of the presence bits", _put(27, 255)),
    # The codes of the command's model fill their words.
    Mode("ballot: padding of the codes", _ballots(_padding), clients=_HOOK),
    Mode("ballot: noise", _ballots(_noise)),
    Mode("ballot: random codes", _ballots(_random_codes)),
    Mode("ballot: all codes 0", _fill(0)),
    Mode("ballot: all codes 255", _fill(255)),
    Mode("ballot: codes inverted", _ballots(_invert)),
    Mode("ballot: another one for rank 0", _equivocate),
    Mode("magnitude: 3e38", _magnitude(3e38), clients=_HOOK),
    Mode("magnitude: NaN", _magnitude(float("nan")), clients=_HOOK),
    Mode("magnitude: negative", _magnitude(-1.0), clients=_HOOK),
    Mode("magnitude: 0", _magnitude(0.0), clients=_HOOK),
    Mode("results: a lie to all, recounted", _results(_lie), _SCATTER_REDUCE, verifies=True),
    Mode("results: a lie to all, not recounted", _results(_lie), _SCATTER_REDUCE),
    Mode("results: other ones for rank 0", _results(_nothing, True), _SCATTER_REDUCE),
    Mode("results: padding", _results(lambda result: result[-1:].fill_(255)), _SCATTER_REDUCE),
    Mode("message: no JSON", _text(lambda text: b"\x80garbage")),
    Mode("message: nested 100,000 deep", _text(lambda text: b"[" * 100_000)),
    Mode("message: a list for a mapping", _text(lambda text: b"[1, 2]")),
    Mode("message: numbers for words", _text(lambda text: b'{"the iteration": 3, "x": {}}')),
    Mode("message: a number of 10,000 digits", _text(lambda text: b"9" * 10_000)),
    Mode("message: size 0 announced", _announced(0)),
    Mode("message: negative size announced", _announced(-5)),
    Mode("message: 1 TB announced", _announced(1 << 40)),
    Mode("facts: one differs", _other_facts(_change_a_fact)),
    Mode("facts: one is missing", _other_facts(_leave_out_a_fact)),
    Mode("facts: 1,000 more", _other_facts(_add_facts)),
    Mode("collective: three times as long", _gathered(_longer)),
    Mode("collective: half as long", _gathered(_shorter)),
    Mode("collective: one that nobody else has", _in_round(_one_more)),
    Mode("process: vanishes with exit code 0", _in_round(_vanish)),
    Mode("process: hangs", _in_round(_hang)),
    Mode("process: raises", _in_round(_fail)),
    Mode("process: interrupts itself", _in_round(_interrupt_oneself), clients=_LAUNCH),
    Mode("gradient: NaN", _values(lambda values: values.fill_(float("nan")))),
    Mode("gradient: 1e30", _values(lambda values: values.fill_(1e30))),
    Mode("gradient: negated", _values(lambda values: values.neg_())),
    Mode("gradient: never there", _gradients(Gradient.absent)),
    Mode("random bits of another seed", _other_seed),
    Mode("weights drift", _drift, clients=_LAUNCH),
    Mode("store: stop after garbage", _keys((_STOP_KEY, "x")), clients=_LAUNCH),
    Mode("store: stop after round 1", _keys((_STOP_KEY, "1")), clients=_LAUNCH),
    Mode("store: calls without end",
         _keys((_roll_call_key("urgent"), "9" * 12), (_roll_call_key("routine"), "abc")),
         clients=_LAUNCH),
    Mode("store: says that all have left", _keys(*((_left_key(rank), "") for rank in range(3))),
         clients=_LAUNCH),
)  # fmt: skip


def named(name: str) -> Mode:
    return next(mode for mode in MODES if mode.name == name)
