"""3 bits against 8, lin: one worker, 5 epochs.

python scripts/reproduce/many_bits.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training
from reproducing import main


def _cell(num_bits: int, lr: float, decay: float, published: float, grid: str = SHORT) -> Cell:
    training = Training(lr, decay, 5, num_bits=num_bits)
    return Cell(f"{num_bits} bits, lr {lr:g}, decay {decay:g}", training, (published,), grid=grid)


FAMILIES = (
    Family(
        "many_bits",
        "3 and 8 bits",
        "many_bits (5 epochs)",
        "full-train accuracy",
        "The best of 8 bits is 0.25 above the best of 3 bits, which is within the noise.",
        (
            _cell(8, 1e-5, 0.9, 96.72),
            _cell(3, 1e-4, 0.3, 96.47),
            _cell(8, 7.8125e-7, 0.9, 94.25),
            _cell(3, 1e-4, 0.7, 96.16, FULL),
            _cell(8, 7.8125e-7, 0.7, 95.17, FULL),
            _cell(8, 7.8125e-7, 0.3, 95.44, FULL),
            _cell(8, 1.5625e-6, 0.9, 95.25, FULL),
            _cell(8, 1.5625e-6, 0.7, 95.93, FULL),
            _cell(8, 1.5625e-6, 0.3, 96.10, FULL),
            _cell(8, 1e-5, 0.7, 96.55, FULL),
            _cell(8, 1e-5, 0.3, 95.46, FULL),
            _cell(8, 5e-6, 0.9, 96.59, FULL),
            _cell(8, 5e-6, 0.7, 96.47, FULL),
            _cell(8, 5e-6, 0.3, 96.63, FULL),
        ),
        (
            Contrast(
                "8 bits - 3 bits, the best of each",
                "8 bits, lr 1e-05, decay 0.9",
                "3 bits, lr 0.0001, decay 0.3",
            ),
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
