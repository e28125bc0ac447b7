"""What a family of published runs is made of: how each was trained, and what came out."""

from dataclasses import dataclass, replace

PUBLISHED_SEED = 1917
FIRST, SHORT, FULL = GRIDS = ("first", "short", "full")


def count(number: int, noun: str) -> str:
    """As in 1 worker, 2 workers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True)
class Training:
    """A run of `compsgd train`; what is not given is as in most of the published runs."""

    lr: float
    decay: float = 1.0
    epochs: int = 1
    optimizer: str = "compressed_sgd_vote"
    num_bits: int = 3
    binning: str = "lin"
    num_workers: int = 1
    rand_zero: bool = True
    count_usages: bool = False
    seed: int = PUBLISHED_SEED

    def options(self) -> list[str]:
        """Batches of 64 on vanilla_cnn are defaults already; momentum and a schedule, which the
        published algorithm has not, are defaults too.

        That the published runs did not shuffle is seen in their minibatch losses: those of worker 7
        of 8 rise and fall with the losses of batches 7, 15, 23, ... of the files' own order.
        """
        return [
            "--optimizer", self.optimizer,
            "--lr", f"{self.lr:.9g}",
            "--range_decay", f"{self.decay:g}",
            "--num_bits", str(self.num_bits),
            "--binning", self.binning,
            "--num_workers", str(self.num_workers),
            "--epochs", str(self.epochs),
            "--seed", str(self.seed),
            "--rand_zero", str(self.rand_zero).lower(),
            "--count_usages", str(self.count_usages).lower(),
            "--momentum", "0",
            "--lr_schedule", "constant",
            "--warmup", "0",
            "--l2", "0",
            "--shuffle", "false",
            "--threads", "1",
        ]  # fmt: skip

    @property
    def name(self) -> str:
        """Of the folder; no two trainings share one."""
        parts = [self.optimizer, f"n{self.num_bits}", self.binning, f"lr{self.lr:.9g}",
                 f"d{self.decay:g}", f"e{self.epochs}"]  # fmt: skip
        if not self.rand_zero:
            parts.append("zeros")
        if self.count_usages:
            parts.append("counted")
        return "_".join([*parts, f"Workers{self.num_workers}", f"Seed{self.seed}"])


@dataclass(frozen=True)
class Cell:
    """A published run, or the mean of one for each seed.

    Attributes:
        label: what tells it from the others of its family.
        published: in percent, as often as the family's measure gives numbers; empty for a new
            experiment.
        more_seeds: of the further runs that were averaged; they are left to the full grid.
        grid: the smaller of short and full that it belongs to.
    """

    label: str
    training: Training
    published: tuple[float, ...] = ()
    more_seeds: tuple[int, ...] = ()
    grid: str = SHORT

    def trainings(self, grid: str) -> list[Training]:
        """Those that the grid has of it, the published seed first."""
        if grid == FULL:
            return [self.training, *(replace(self.training, seed=seed) for seed in self.more_seeds)]
        return [self.training] if self.grid != FULL else []


@dataclass(frozen=True)
class Contrast:
    """A difference of two cells that a published claim rests on.

    Attributes:
        label: which.
        more, less: labels of the cells.
    """

    label: str
    more: str
    less: str


@dataclass(frozen=True)
class Family:
    """Cells that one published table or figure compares.

    Attributes:
        name: of its figure's file.
        title: above its table and its figure.
        source: the published table.
        measure: which of MEASURES is compared.
        claim: what was concluded from the published cells.
        cells: the most needed first.
    """

    name: str
    title: str
    source: str
    measure: str
    claim: str
    cells: tuple[Cell, ...]
    contrasts: tuple[Contrast, ...] = ()

    def chosen(self, grid: str) -> list[Cell]:
        """The cells that the grid has of it: the first alone, those that are needed, or all."""
        chosen = [cell for cell in self.cells if cell.trainings(grid)]
        return chosen[:1] if grid == FIRST else chosen
