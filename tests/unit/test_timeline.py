"""`scripts/bench/timeline.py` without a network: what it says, and what it draws."""

import sys

import pytest
from processes import ROOT

from compsgd.plots import save_figure

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from timeline import Clock, draw, median_run, table

# In one piece everything waits for what comes before it; seconds.
WHOLE = {
    "seconds": 0.1,
    "events": [
        ("encode", 0.0, 0.02), ("ballots travel", 0.02, 0.05), ("count", 0.05, 0.06),
        ("results travel", 0.06, 0.09), ("decode", 0.09, 0.1),
    ],
}  # fmt: skip
# Two chunks are asked for at once; the second is on its way when the first is there.
CUT = {
    "seconds": 0.07,
    "events": [
        ("encode", 0.0, 0.01), ("ballots travel", 0.01, 0.03), ("encode", 0.01, 0.02),
        ("ballots travel", 0.02, 0.05), ("count", 0.05, 0.06), ("decode", 0.06, 0.07),
    ],
}  # fmt: skip
FOUND = [{"runs": [WHOLE] * 3, "sent_bytes": 5_000_000}, {"runs": [CUT], "sent_bytes": 5_000_000}]
NAMES = ["1 chunk", "chunks by size"]


def test_exchanges_stand_beside_the_time_of_their_bytes():
    rows = table(NAMES, FOUND, bits_per_s=1e9).splitlines()
    assert rows[-2:] == [
        "| 1 chunk | 100.0 | 40.0 | 2.50 |",
        "| chunks by size | 70.0 | 40.0 | 1.75 |",
    ]


def test_the_middle_one_is_drawn():
    runs = [{"seconds": seconds, "events": []} for seconds in (0.3, 0.1, 0.2)]
    assert median_run(runs)["seconds"] == 0.2


def test_what_has_happened_has_a_track_on_one_scale(tmp_path):
    figure = draw(NAMES, FOUND, "5 MB")
    assert [axis.get_title() for axis in figure.axes] == NAMES
    assert all(axis.get_xlim() == pytest.approx((0, 102)) for axis in figure.axes)
    for axis in figure.axes:
        assert [label.get_text() for label in axis.get_yticklabels()] == [
            "encode", "ballots travel", "count", "results travel", "decode"
        ]  # fmt: skip
    bars = {bar.get_label(): bar.get_paths() for bar in figure.axes[1].collections}
    spans = [tuple(path.get_extents().intervalx) for path in bars["ballots travel"]]
    assert spans == [pytest.approx((10, 30)), pytest.approx((30, 50))]
    assert len(bars["encode"]) == 1  # too near to be told apart
    assert bars["results travel"] == []
    (alone,) = draw(NAMES[1:], FOUND[1:], "5 MB").axes
    assert "results travel" not in [label.get_text() for label in alone.get_yticklabels()]
    assert save_figure(figure, tmp_path / "timeline.png").stat().st_size > 0


def test_what_is_waited_for_lasts_until_it_is_there():
    class Link:
        def send(self):
            return lambda: "there"

        def count(self):
            return 3

    clock = Clock()
    clock.timed_travel(Link, "send", "ballots travel")
    clock.timed(Link, "count", "count")
    clock.start()
    wait, counted = Link().send(), Link().count()
    assert (wait(), counted) == ("there", 3)
    (count, began, ended), (travel, left, arrived) = clock.events
    assert (count, travel) == ("count", "ballots travel")
    assert 0 <= left <= began <= ended <= arrived
