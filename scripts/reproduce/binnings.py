"""Bins lin against exp, 3 bits: one worker, 5 epochs.

python scripts/reproduce/binnings.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training
from reproducing import main


def _cell(binning: str, lr: float, decay: float, published: float, grid: str = SHORT) -> Cell:
    training = Training(lr, decay, 5, binning=binning)
    return Cell(f"{binning}, lr {lr:g}, decay {decay:g}", training, (published,), grid=grid)


FAMILIES = (
    Family(
        "binnings",
        "Bins lin and exp, 3 bits",
        "comparison (5 epochs), seed 1917",
        "full-train accuracy",
        "The best of each, both 1e-4 with decay 0.3, are equal: no evidence that exp helps.",
        (
            _cell("lin", 1e-4, 0.3, 96.47),
            _cell("exp", 1e-4, 0.3, 96.46),
            _cell("exp", 1e-5, 0.3, 93.93),
            _cell("exp", 1e-4, 0.7, 95.77, FULL),
            _cell("lin", 1e-4, 0.7, 96.16, FULL),
            _cell("exp", 1e-4, 0.9, 95.30, FULL),
            _cell("exp", 5e-5, 0.9, 94.75, FULL),
            _cell("exp", 5e-5, 0.7, 95.69, FULL),
            _cell("exp", 5e-5, 0.3, 95.96, FULL),
            _cell("exp", 2e-4, 0.9, 95.27, FULL),
            _cell("exp", 2e-4, 0.7, 95.03, FULL),
            _cell("exp", 2e-4, 0.3, 94.60, FULL),
        ),
        tuple(
            Contrast(
                f"lin - exp, lr 1e-4, decay {decay}",
                f"lin, lr 0.0001, decay {decay}",
                f"exp, lr 0.0001, decay {decay}",
            )
            for decay in (0.3, 0.7)
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
