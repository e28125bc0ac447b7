"""Links of a network, as a model sees them: so many bits a second, and so long until the first."""

import re
from dataclasses import dataclass

from compsgd.workers.failures import UsageError

_RATES = r"(\d+(?:\.\d+)?)\s*([kmgt]?)bit(?:/s)?"
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
# Of a frame of 1,514 bytes on Ethernet, what is left behind the headers of IP and TCP.
_PAYLOAD = 1448 / 1514


@dataclass(frozen=True)
class Link:
    """Full duplex.

    Attributes:
        bits_per_s: in either direction.
        latency_s: one way.
    """

    bits_per_s: float
    latency_s: float

    def travel_s(self, num_bytes: float) -> float:
        """Of bytes behind one another, but for the latency."""
        return num_bytes * 8 / (self.bits_per_s * _PAYLOAD)


def parse_rate(text: str) -> float:
    """Bits a second.

    Raises:
        UsageError: it is no rate.

    Examples:
        >>> from compsgd.workers.prediction.links import parse_rate
        >>> parse_rate("2.5gbit")
        2500000000.0
    """
    found = re.fullmatch(_RATES, text.strip().lower())
    if found is None or not float(found[1]):
        raise UsageError(f"{text!r} is no rate of a link: write 100mbit, 1gbit or the like")
    return float(found[1]) * _UNITS[found[2]]


def rate_text(bits_per_s: float) -> str:
    """The inverse, to three digits."""
    for unit in ("t", "g", "m", "k"):
        if bits_per_s >= _UNITS[unit]:
            return f"{bits_per_s / _UNITS[unit]:.3g} {unit.upper() if unit != 'k' else unit}bit/s"
    return f"{bits_per_s:.3g} bit/s"
