"""Decay of the range against learning rate, with 3 and with 5 bits: one worker, 7 epochs.

python scripts/reproduce/decays.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training
from reproducing import main

_EPOCHS = 7


def _cell(num_bits: int, lr: float, decay: float, published: float, grid: str = SHORT) -> Cell:
    training = Training(lr, decay, _EPOCHS, num_bits=num_bits)
    return Cell(f"{num_bits} bits, lr {lr:g}, decay {decay:g}", training, (published,), grid=grid)


FAMILIES = (
    Family(
        "decays_3_bits",
        "Decay and learning rate, 3 bits",
        "parameter_search, 3 bits (7 epochs)",
        "full-train accuracy",
        "1e-4 with decay 0.3 is best. At small learning rates a lower decay learns faster, at "
        "large ones the order reverses: less decay puts more levels into the outermost bins and "
        "so multiplies the step.",
        (
            _cell(3, 1e-4, 0.3, 96.88),
            _cell(3, 1e-3, 0.3, 76.14),
            _cell(3, 1e-4, 0.9, 95.77),
            _cell(3, 1e-3, 0.9, 93.58),
            _cell(3, 1e-4, 0.7, 95.98, FULL),
            _cell(3, 1e-3, 0.7, 89.02, FULL),
            _cell(3, 2.5e-4, 0.9, 96.30, FULL),
            _cell(3, 2.5e-4, 0.7, 95.81, FULL),
            _cell(3, 2.5e-4, 0.3, 95.42, FULL),
            _cell(3, 2.5e-5, 0.9, 94.55, FULL),
            _cell(3, 2.5e-5, 0.7, 95.46, FULL),
            _cell(3, 2.5e-5, 0.3, 95.38, FULL),
        ),
        (
            Contrast(
                "decay 0.3 - 0.9 at lr 1e-4",
                "3 bits, lr 0.0001, decay 0.3",
                "3 bits, lr 0.0001, decay 0.9",
            ),
            Contrast(
                "decay 0.3 - 0.9 at lr 1e-3",
                "3 bits, lr 0.001, decay 0.3",
                "3 bits, lr 0.001, decay 0.9",
            ),
        ),
    ),
    Family(
        "decays_5_bits",
        "Decay and learning rate, 5 bits",
        "parameter_search, 5 bits (7 epochs), and the best of its 3 bits",
        "last epoch's accuracy",
        "6.25e-5 with decay 0.9 is best; it is no better than the best of 3 bits.",
        (
            _cell(5, 6.25e-5, 0.9, 95.59),
            _cell(5, 1e-3, 0.3, 78.12),
            _cell(3, 1e-4, 0.3, 95.51),
            _cell(5, 1e-3, 0.9, 81.85, FULL),
            _cell(5, 1e-3, 0.7, 78.12, FULL),
            _cell(5, 1e-4, 0.9, 95.07, FULL),
            _cell(5, 1e-4, 0.7, 93.85, FULL),
            _cell(5, 1e-4, 0.3, 91.44, FULL),
            _cell(5, 6.25e-5, 0.7, 94.48, FULL),
            _cell(5, 6.25e-5, 0.3, 93.88, FULL),
            _cell(5, 6.25e-6, 0.9, 94.76, FULL),
            _cell(5, 6.25e-6, 0.7, 94.19, FULL),
            _cell(5, 6.25e-6, 0.3, 94.64, FULL),
        ),
        (
            Contrast(
                "5 bits - 3 bits, the best of each",
                "5 bits, lr 6.25e-05, decay 0.9",
                "3 bits, lr 0.0001, decay 0.3",
            ),
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
