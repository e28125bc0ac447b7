"""Compression rate against test accuracy for 1 to 8 bits: two workers, 2 epochs, decay 0.9.

python scripts/reproduce/compression.py --dataset_root data

Nobody has published this one. A level of 8 bits can be 128 times the lowest, so that one learning
rate would be for different steps; each line has one largest step instead, lr x 2^(num_bits - 1),
which is near what the published searches found best. The rate is against what a float32 ring
all-reduce sends.
"""

from cells import FULL, SHORT, Cell, Family, Training, count
from reproducing import main

_LARGEST_STEPS = {1e-3: SHORT, 4e-4: SHORT, 2e-4: FULL, 2e-3: FULL}
_NUM_BITS = (3, 1, 8, 5, 2, 4, 6, 7)


def _cell(num_bits: int, largest_step: float, grid: str) -> Cell:
    training = Training(largest_step / 2 ** (num_bits - 1), 0.9, 2, num_bits=num_bits,
                        num_workers=2)  # fmt: skip
    return Cell(f"{count(num_bits, 'bit')}, largest step {largest_step:g}", training, grid=grid)


FAMILIES = (
    Family(
        "compression",
        "Compression rate and accuracy, 1 to 8 bits",
        "nothing",
        "test accuracy, compression rate",
        "A new experiment.",
        (
            Cell(
                "32 bits, float32 SGD 0.5", Training(0.5, epochs=2, optimizer="sgd", num_workers=2)
            ),
            *(
                _cell(num_bits, largest_step, grid)
                for largest_step, grid in _LARGEST_STEPS.items()
                for num_bits in _NUM_BITS
            ),
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
