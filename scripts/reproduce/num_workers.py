"""1, 2, 4 and 8 workers after as many updates, about 1,800; lin, 3 bits, lr 1e-4.

python scripts/reproduce/num_workers.py --dataset_root data

So W workers see W times the data. In the published runs the last round of an epoch needed all
workers; in ours those take part that have a batch left, which makes 1,880 and 1,888 updates of 4
and 8 workers out of 1,872.
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training, count
from reproducing import main

_EPOCHS_A_WORKER = 2


def _cell(workers: int, decay: float, published: float, grid: str = SHORT) -> Cell:
    training = Training(1e-4, decay, _EPOCHS_A_WORKER * workers, num_workers=workers)
    return Cell(f"{count(workers, 'worker')}, decay {decay:g}", training, (published,), grid=grid)


FAMILIES = (
    Family(
        "num_workers",
        "1 to 8 workers at equal updates",
        "num_workers (about 1,800 updates)",
        "full-train accuracy",
        "From 1 to 8 workers about half a point is gained, with 8 times the data.",
        (
            _cell(1, 0.3, 95.82),
            _cell(2, 0.3, 96.23),
            _cell(1, 0.7, 95.67),
            _cell(8, 0.3, 96.20),
            _cell(4, 0.3, 95.80),
            _cell(2, 0.7, 95.77, FULL),
            _cell(4, 0.7, 95.74, FULL),
            _cell(8, 0.7, 95.85, FULL),
        ),
        tuple(
            Contrast(
                f"8 workers - 1, decay {decay}",
                f"8 workers, decay {decay}",
                f"1 worker, decay {decay}",
            )
            for decay in (0.3, 0.7)
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
