"""3 bits against a majority vote of 1 bit, with 2, 4 and 8 workers, about 2,300 updates.

python scripts/reproduce/one_bit.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training, count
from reproducing import main

_EPOCHS = {2: 5, 4: 10, 8: 20}


def _cell(workers: int, num_bits: int, lr: float, decay: float, published: float,
          grid: str = SHORT) -> Cell:  # fmt: skip
    training = Training(lr, decay, _EPOCHS[workers], num_bits=num_bits, num_workers=workers)
    bits = count(num_bits, "bit")
    label = f"{workers} workers, {bits}, lr {lr:g}, decay {decay:g}"
    return Cell(label, training, (published,), grid=grid)


FAMILIES = (
    Family(
        "one_bit",
        "3 bits and 1 bit, 2 to 8 workers",
        "comparison_workers (about 2,300 updates)",
        "full-train accuracy",
        "3 bits and a tuned 1 bit (lr 3e-4) are equal within the noise with 2, 4 and 8 workers.",
        (
            _cell(2, 3, 1e-4, 0.3, 96.21),
            _cell(2, 1, 1e-4, 1.0, 94.44),
            _cell(2, 1, 3e-4, 1.0, 96.34),
            _cell(8, 3, 1e-4, 0.3, 96.38),
            _cell(8, 1, 3e-4, 1.0, 96.25),
            _cell(4, 3, 1e-4, 0.3, 96.03),
            _cell(4, 1, 3e-4, 1.0, 95.97),
            _cell(2, 3, 1e-4, 0.7, 96.06, FULL),
            _cell(4, 1, 1e-4, 1.0, 95.42, FULL),
            _cell(4, 3, 1e-4, 0.7, 96.07, FULL),
            _cell(8, 1, 1e-4, 1.0, 96.08, FULL),
            _cell(8, 3, 1e-4, 0.7, 96.26, FULL),
        ),
        tuple(
            Contrast(
                f"3 bits - 1 bit, {workers} workers",
                f"{workers} workers, 3 bits, lr 0.0001, decay 0.3",
                f"{workers} workers, 1 bit, lr 0.0003, decay 1",
            )
            for workers in _EPOCHS
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
