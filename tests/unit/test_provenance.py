"""When and where figures were measured."""

import re
from datetime import date

from compsgd.workers.bench.provenance import Provenance, footer, here_today


def test_each_machine_stands_once_with_its_days_the_older_first():
    days = ["2026-11-28", "2026-11-26", "2026-11-27"]
    measured = [Provenance(day, "a PC") for day in days] + [Provenance("2026-11-25", "a laptop")]
    assert footer(measured) == "*2026-11-25, a laptop; 2026-11-26 to 2026-11-28, a PC*"
    assert footer([]) == ""


def test_here_is_this_machine():
    found = here_today()
    assert found.day == date.today().isoformat()
    assert re.fullmatch(r".+, \d+ cores?, \d+ GiB, torch \d+\.\d+.*", found.where)
