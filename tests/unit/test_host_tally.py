"""Counting by hosts against counting all ballots at once."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compsgd.codec.alphabet import ballot_alphabet
from compsgd.codec.base import CodecSpec
from compsgd.codec.combine import MEAN, VOTE
from compsgd.codec.registry import codec_for
from compsgd.layout import FlatLayout, Workspace
from compsgd.rng import BitStream, derive_key
from compsgd.voting.ballot import BallotBox, header_num_bytes, voters_of
from compsgd.voting.chunks import cut
from compsgd.voting.host_tally import HostTally, sums_between_hosts

CPU = torch.device("cpu")
BITS = BitStream(derive_key(0, "ties"), 5)


class Level:
    """One process's end of an exchange that is gone through in lockstep: what is sent lies in
    `post` until the others ask for it."""

    def __init__(self, post, members, rank, hosted, num_workers, outer=None):
        self.post, self.members, self.outer = post, members, outer
        self.num_shards, self.shard = len(members), members.index(rank)
        self.rank, self.hosted, self.num_workers = rank, hosted, num_workers
        self.num_processes = max(1, num_workers // len(hosted))
        self.sent = 0

    def distribute(self, ballots, format):
        return self._send(ballots, lambda theirs: theirs[:, self.shard])

    def collect(self, result, format):
        return self._send(result, lambda theirs: theirs[None])

    def _send(self, value, taken):
        key = self.sent
        self.sent += 1
        self.post[tuple(self.members), self.rank, key] = value.clone()

        def arrival():
            found = [taken(self.post[tuple(self.members), one, key]) for one in self.members]
            return torch.stack(found).transpose(0, 1).reshape(-1, found[0].shape[-1])

        return arrival


def processes(num_hosts, per_host, hosted):
    """The exchanges of all processes, as of HierarchicalExchange."""
    world_size, post = num_hosts * per_host, {}
    num_workers = world_size * hosted
    for rank in range(world_size):
        inside = [one for one in range(world_size) if one // per_host == rank // per_host]
        peers = [one for one in range(world_size) if one % per_host == rank % per_host]
        outer = Level(post, peers, rank, [0], num_hosts)
        outer.num_processes = num_hosts
        own = range(rank, num_workers, world_size)
        yield Level(post, inside, rank, own, num_workers, outer)


class Round:
    """One round of so many hosts, processes on each and workers in each, in lockstep.

    Attributes:
        codes: of everybody's ballots, shape (num_workers, numel).
        voters: who votes where.
    """

    def __init__(self, shape, num_bits, zeros, combine, width, num_chunks, seed):
        self.exchanges = list(processes(*shape))
        self.layout = FlatLayout([width, 3, 2 * width])
        self.alphabet, self.combine = ballot_alphabet(num_bits, zeros), combine
        num_workers = self.exchanges[0].num_workers
        self.results = combine.alphabet(self.alphabet, num_workers)
        self.codec, self.result_codec = (
            codec_for(CodecSpec(one, None, "cpu", "off", False))
            for one in (self.alphabet, self.results)
        )
        generator = torch.Generator().manual_seed(seed)
        size = num_workers, self.layout.numel
        codes = torch.randint(self.alphabet.symbols, size, generator=generator)
        self.codes = codes.to(self.alphabet.code_dtype)
        self.present = (torch.rand(num_workers, 3, generator=generator) > 0.3).tolist()
        self.chunks = cut(
            self.layout, num_chunks, self.exchanges[0], (self.alphabet, self.results),
            header_num_bytes(3), False, sums_between_hosts(self.alphabet, self.exchanges[0]),
        )  # fmt: skip
        self.bits = None if zeros or not combine.breaks_ties else BITS

    def box(self, exchange):
        """With the ballots of one process."""
        formats = [chunk.format for chunk in self.chunks]
        num_bits = self.alphabet.largest.bit_length()
        box = BallotBox(self.layout, exchange, formats, num_bits, self.alphabet.zeros, CPU)
        for slot, worker in enumerate(exchange.hosted):
            box.put(slot, box.header(worker, 0, self.present[worker]))
            for index, chunk in enumerate(self.chunks):
                part = self.codes[worker][chunk.span.slice]
                for row, shard in zip(box.payload(slot, index), chunk.shards, strict=True):
                    self.codec.pack(row, part[shard.slice])
        return box

    def by_hosts(self):
        """The results on every process."""
        codecs = self.codec, self.result_codec, self.combine, CPU
        boxes = [self.box(one) for one in self.exchanges]
        arrivals = [[box.send(index) for index in range(len(self.chunks))] for box in boxes]
        tallies = [HostTally(one, *codecs, Workspace()) for one in self.exchanges]
        forwarded = [
            tally.forward(box, self.chunks, its_arrivals, 0)
            for tally, box, its_arrivals in zip(tallies, boxes, arrivals, strict=True)
        ]
        found = [self.counted(*one) for one in zip(tallies, boxes, forwarded, strict=True)]
        waits = [[send_on() for send_on in sent] for _, sent in found]
        for wait in itertools.chain(*waits):
            wait()
        return [torch.cat(codes) for codes, _ in found]

    def counted(self, tally, box, arrivals):
        """Results, a tensor for each chunk, that are there when what was sent has gone on."""
        rows = [one() for one in arrivals]
        headers = box.headers(tally.headers(rows[0], self.chunks[0]), 0)
        assert [header.worker for header in headers] == list(range(len(self.codes)))
        assert [list(header.present) for header in headers] == self.present
        self.voters = voters_of(headers, self.layout)
        codes, sent = [], []
        for chunk, its_rows in zip(self.chunks, rows, strict=True):
            own = torch.zeros(chunk.span.numel, dtype=self.results.code_dtype)
            shard = tally.shard(chunk)
            tally.count(own[shard.slice], its_rows, chunk, shard, self.voters, self.bits)
            codes.append(own)
            sent.append(tally.send_results(chunk, own))
        return codes, sent

    def at_once(self):
        """The results of all ballots in one place."""
        packed = torch.zeros(len(self.codes), 8 * self.layout.numel + 8, dtype=torch.uint8)
        for row, codes in zip(packed, self.codes, strict=True):
            self.codec.pack(row, codes)
        results = torch.zeros(self.layout.numel, dtype=self.results.code_dtype)
        self.codec.count(results, packed, self.voters, self.combine, self.bits)
        return results


SHAPES = st.sampled_from([(2, 2, 1), (3, 2, 1), (2, 3, 2)])


@settings(max_examples=40, deadline=None)
@given(
    shape=SHAPES,
    num_bits=st.sampled_from([1, 3, 8]),
    zeros=st.booleans(),
    combine=st.sampled_from([VOTE, MEAN]),
    width=st.sampled_from([1, 50, 5000, 100_000]),
    num_chunks=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_the_results_are_those_of_all_ballots_at_once(
    shape, num_bits, zeros, combine, width, num_chunks, seed
):
    check(Round(shape, num_bits, zeros, combine, width, num_chunks, seed))


def test_chunk_by_chunk():
    one = Round((2, 2, 1), 3, False, VOTE, 100_000, 3, 0)
    assert len(one.chunks) == 3
    check(one)


def check(one):
    everyones, expected = one.by_hosts(), one.at_once()
    for span, _ in one.voters:
        for found in everyones:
            assert torch.equal(found[span.slice], expected[span.slice])
