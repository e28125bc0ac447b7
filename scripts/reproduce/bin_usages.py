"""How the elements of the updates spread over the levels, zeros kept included: 3 bits, lr 1e-4.

python scripts/reproduce/bin_usages.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training, count
from reproducing import main

_ZEROS_KEPT = Training(1e-4, 0.7, rand_zero=False, count_usages=True)
_ZEROS_BROKEN = Training(1e-4, 0.7, count_usages=True)


def _cell(binning: str, workers: int, decay: float, *published: float, epochs: int = 1,
          grid: str = SHORT) -> Cell:  # fmt: skip
    training = Training(1e-4, decay, epochs, binning=binning, num_workers=workers,
                        count_usages=True)  # fmt: skip
    label = f"{binning}, {count(workers, 'worker')}, decay {decay:g}"
    label += f", {epochs} epochs" if epochs > 1 else ""
    return Cell(label, training, published, grid=grid)


FAMILIES = (
    Family(
        "bin_usages",
        "Bin usage",
        "bin_usages (percent of all counts, levels -4 to 4)",
        "bin usage",
        "The lower the decay the more levels are outermost (54 % at 0.3, 3 % at 1.0): decay "
        "multiplies the step. More workers' means spread over the inner levels. About two thirds "
        "of the levels -1 and 1 are coin flips on zeros. exp hardly differs from lin.",
        (
            _cell("lin", 1, 0.7, 21.4, 2.7, 3.4, 22.8, 0.0, 22.6, 3.3, 2.6, 21.1),
            Cell(
                "lin, 1 worker, decay 0.7, zeros kept",
                _ZEROS_KEPT,
                (20.8, 2.6, 3.5, 7.6, 31.9, 7.2, 3.4, 2.6, 20.4),
            ),
            _cell("lin", 1, 1.0, 1.3, 1.8, 6.0, 41.5, 0.0, 40.4, 5.8, 1.8, 1.3),
            _cell("lin", 1, 0.3, 27.2, 1.0, 1.2, 21.0, 0.0, 20.8, 1.2, 1.0, 26.5),
            _cell("lin", 8, 0.7, 6.5, 8.4, 10.8, 25.3, 0.0, 25.0, 10.3, 7.8, 5.8),
            _cell("exp", 1, 0.7, 26.0, 4.4, 3.4, 16.6, 0.0, 16.6, 3.5, 4.2, 25.3),
            _cell("lin", 4, 0.7, 8.2, 5.8, 12.3, 24.3, 0.0, 24.2, 11.9, 5.5, 7.7),
            _cell("lin", 1, 0.9, 14.6, 4.3, 6.0, 25.6, 0.0, 25.2, 5.8, 4.2, 14.4),
            _cell("exp", 4, 0.7, 9.5, 4.7, 13.3, 23.2, 0.0, 23.1, 12.8, 4.5, 8.8),
            _cell("exp", 8, 0.7, 6.7, 8.5, 10.6, 25.3, 0.0, 25.0, 10.0, 7.9, 5.9),
            _cell("lin", 8, 1.0, 0.0, 0.2, 3.6, 47.3, 0.0, 45.4, 3.3, 0.2, 0.0, epochs=8,
                  grid=FULL),
        ),
    ),
    Family(
        "zeros_kept",
        "Zeros kept and zeros broken",
        "caveats: a single epoch, and the broken run is the fifth of its sweep",
        "last epoch's accuracy",
        "Coin flips on zeros may cost accuracy rather than help.",
        (
            Cell("zeros kept", _ZEROS_KEPT, (89.77,)),
            Cell("zeros broken", _ZEROS_BROKEN, (87.65,)),
        ),
        (Contrast("kept - broken", "zeros kept", "zeros broken"),),
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(FAMILIES)
