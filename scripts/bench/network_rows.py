"""What network.py measures, as the lines of network.csv."""

from dataclasses import dataclass
from typing import NamedTuple

from netlab import LabError, Link

UNSHAPED = "unshaped"


class Cell(NamedTuple):
    """What is measured in one go."""

    model: str
    num_hosts: int
    rate: str


@dataclass(frozen=True)
class Row:
    """A line of network.csv: what rank 0 has measured.

    Attributes:
        kind: STEP or EXCHANGE.
        ms: the median of num_steps.
        sent_bytes: by a host in a step, as the kernel has counted them.
        day, where: of the measurement; see Provenance.
    """

    model: str
    num_hosts: int
    rate: str
    kind: str
    method: str
    ms: float
    num_steps: int
    sent_bytes: int
    day: str
    where: str

    def __post_init__(self) -> None:
        try:
            link_of(self.rate)
        except LabError as error:
            raise ValueError(str(error)) from error

    @property
    def cell(self) -> Cell:
        return Cell(self.model, self.num_hosts, self.rate)

    @property
    def bits_per_s(self) -> float:
        return link_of(self.rate).bits_per_s


def link_of(rate: str) -> Link:
    return Link(None if rate == UNSHAPED else rate)
