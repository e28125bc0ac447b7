"""A million random byte strings through `unpack`: each is refused, or is what `pack` makes of the
levels that it gives.

python scripts/robustness/fuzz_unpack.py --strings 1000000
"""

import random
import sys
from collections import Counter

import click
import torch

from compsgd import CompsgdError, pack, unpack
from compsgd.codec.packing import packed_num_bytes
from compsgd.workers.report.tables import markdown_table

MAX_NUMEL = 24


@click.command()
@click.option("--strings", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def main(strings: int, seed: int) -> None:
    """Prints how many strings were refused and accepted; exit code 1 if any was accepted wrongly,
    or met with anything but CompsgdError."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(strings):
        seen[outcome_of(draw)] += 1
    names = ("refused", "valid", "accepted but invalid", "crashes")
    click.echo(markdown_table(["unpack", "strings"], [[name, f"{seen[name]:,}"] for name in names]))
    sys.exit(1 if seen["accepted but invalid"] or seen["crashes"] else 0)


def outcome_of(draw: random.Random) -> str:
    """Any bits and length; mostly of the right size, or all would be refused for that."""
    numel, num_bits, zeros = draw.randrange(MAX_NUMEL), draw.randint(1, 8), draw.random() < 0.5
    size = packed_num_bytes(numel, num_bits, zeros)
    if draw.random() < 0.1:
        size = max(0, size + draw.randint(-2, 2))
    packed = torch.frombuffer(bytearray(draw.randbytes(size) + b"\0"), dtype=torch.uint8)[:size]
    try:
        levels = unpack(packed, numel, num_bits, zeros)
    except CompsgdError:
        return "refused"
    except Exception:
        return "crashes"
    largest = 2 ** (num_bits - 1)
    in_alphabet = bool(((levels.abs() <= largest) & (zeros | (levels != 0))).all())
    is_same = in_alphabet and torch.equal(pack(levels, num_bits, zeros), packed)
    return "valid" if is_same else "accepted but invalid"


if __name__ == "__main__":
    main()
