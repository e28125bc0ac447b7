"""Chunks: parts of a vector that travel one behind the other, so that one is coded while others
are on their way (design, section 3).

Neither results nor bytes depend on how a vector is cut: all chunks but the last are of whole
blocks, in whatever shards and alphabets they travel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compsgd.codec.alphabet import Alphabet
from compsgd.codec.bit_packing import group_for
from compsgd.codec.blocks import BLOCK_COLUMNS
from compsgd.codec.wire import RoundFormat, WireFormat
from compsgd.layout import FlatLayout, Span, shard_span
from compsgd.voting.exchange import Exchange

# A float32 for each parameter.
MAGNITUDE_BYTES = 4


# What coding an element takes, and what each chunk costs besides, on a core of 2025. The best
# number of chunks goes with the root of their ratio, so that it need not be exact.
_CODING_S = 4e-9
_CHUNK_S = 2e-3
_MOST_CHUNKS = 16


def best_num_chunks(numel: int, travel_s: float) -> int:
    """How many chunks take least. Coding and travelling overlap but for a chunk's share of the
    shorter of the two, and each chunk costs some time of its own.

    Args:
        numel: of the vector.
        travel_s: how long its ballots and results travel in one piece.
    """
    shorter_s = min(numel * _CODING_S, travel_s)
    return max(1, min(_MOST_CHUNKS, round(math.sqrt(shorter_s / _CHUNK_S))))


@dataclass(frozen=True)
class Chunk:
    """Some neighbouring elements of a vector.

    Attributes:
        span: of the vector.
        parameters: those that have elements in it, by index.
        layout: of their elements in it.
        ending: the parameters whose last element it has, by index; every parameter ends once.
        shards: of the chunk.
        format: of what travels of it.
    """

    span: Span
    parameters: range
    layout: FlatLayout
    ending: range
    shards: Sequence[Span]
    format: RoundFormat


def cut(
    layout: FlatLayout,
    num_chunks: int,
    exchange: Exchange,
    alphabets: tuple[Alphabet, Alphabet],
    header_bytes: int,
    carries_magnitudes: bool,
    sums: Sequence[Alphabet] = (),
) -> list[Chunk]:
    """Cuts a vector into so many chunks, or fewer where it is too short.

    Args:
        layout: of the vector.
        exchange: between whom; all chunks but the last can be cut evenly for its workers.
        alphabets: of ballots, and of results.
        header_bytes: what stands in front of the first chunk.
        carries_magnitudes: whether 4 bytes for each parameter travel with its last element.
        sums: alphabets of what travels besides.
    """
    groups = [group_for(alphabet).num_elements for alphabet in (*alphabets, *sums)]
    num_shards = exchange.num_shards
    unit = math.lcm(exchange.num_workers, num_shards) * BLOCK_COLUMNS * math.lcm(*groups)
    numel = unit * max(1, math.ceil(layout.numel / unit / num_chunks))
    spans = list(Span(0, layout.numel).chunks(numel)) or [Span(0, 0)]
    chunks: list[Chunk] = []
    first_ending = 0
    for span in spans:
        is_last = span.end == layout.numel
        end = len(layout.spans) if is_last else layout.first_ending_behind(span.end)
        ending = range(first_ending, end)
        extra_bytes = MAGNITUDE_BYTES * len(ending) if carries_magnitudes else 0
        own_header_bytes = (0 if chunks else header_bytes) + extra_bytes
        chunks.append(_chunk(layout, span, ending, num_shards, alphabets, own_header_bytes))
        first_ending = end
    return chunks


def _chunk(
    layout: FlatLayout,
    span: Span,
    ending: range,
    num_shards: int,
    alphabets: tuple[Alphabet, Alphabet],
    header_bytes: int,
) -> Chunk:
    ballots, results = alphabets
    # The first that does not end in it may have begun in it.
    begun = ending.stop < len(layout.spans) and layout.spans[ending.stop].start < span.end
    parameters = range(ending.start, ending.stop + begun)
    sizes = [layout.spans[index].within(span).numel for index in parameters]
    return Chunk(
        span,
        parameters,
        FlatLayout(sizes),
        ending,
        [shard_span(span.numel, num_shards, shard) for shard in range(num_shards)],
        RoundFormat(WireFormat(span.numel, ballots, header_bytes), WireFormat(span.numel, results)),
    )
