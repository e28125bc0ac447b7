"""Learning rates of SGD and signSGD: one worker, 3 epochs.

python scripts/reproduce/learning_rates.py --dataset_root data
"""

from cells import FULL, SHORT, Cell, Contrast, Family, Training
from reproducing import main

_MORE_SEEDS = (1337, 42)


def _cell(optimizer: str, lr: float, published: float, grid: str = SHORT) -> Cell:
    label = f"{'SGD' if optimizer == 'sgd' else 'signSGD'} {lr:g}"
    training = Training(lr, epochs=3, optimizer=optimizer)
    return Cell(label, training, (published,), _MORE_SEEDS, grid)


FAMILIES = (
    Family(
        "sgd_learning_rates",
        "Learning rates of SGD",
        "sgd (3 epochs, mean over three seeds)",
        "full-train accuracy",
        "0.5 is best, 0.3 equal within 0.2; 0.8 is unstable (95.46 to 98.84 by seed).",
        (
            _cell("sgd", 0.5, 99.29),
            _cell("sgd", 0.8, 97.55),
            _cell("sgd", 0.3, 99.13),
            _cell("sgd", 0.1, 98.33, FULL),
        ),
        (
            Contrast("best - worst", "SGD 0.5", "SGD 0.8"),
            Contrast("0.5 - 0.3", "SGD 0.5", "SGD 0.3"),
        ),
    ),
    Family(
        "sign_sgd_learning_rates",
        "Learning rates of signSGD",
        "sign_sgd (3 epochs, mean over three seeds)",
        "full-train accuracy",
        "5e-4 and 3e-4 are best and equal; 3e-3 deteriorates after an early peak.",
        (
            _cell("sign_sgd", 0.0005, 96.10),
            _cell("sign_sgd", 0.003, 86.69),
            _cell("sign_sgd", 0.0003, 96.04),
            _cell("sign_sgd", 0.0001, 94.57, FULL),
            _cell("sign_sgd", 0.001, 95.10, FULL),
        ),
        (
            Contrast("best - worst", "signSGD 0.0005", "signSGD 0.003"),
            Contrast("5e-4 - 3e-4", "signSGD 0.0005", "signSGD 0.0003"),
        ),
    ),
)

if __name__ == "__main__":
    main(FAMILIES)
