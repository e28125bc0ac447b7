"""An experiment as one page of HTML, which opens without a network."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from compsgd.workers.report.tables import option_text, result_table
from compsgd.workers.results.finished import Finished

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem; text-align: right; vertical-align: top }
tr { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; margin: .5rem; max-width: 100% } img { max-width: 100% }
.wide { overflow-x: auto }
"""


def report_page(found: Finished) -> str:
    """In HTML, with its figures inside: nothing of it is anywhere else."""
    title = escape(f"{found.name}: compsgd")
    parts = [
        f"<h1>{escape(found.name)}</h1>",
        f"<p>{escape(_sentence(found))}</p>",
        "<h2>Results</h2>",
        _table(*result_table(found.cells, found.labels, found.measure.columns)),
        *_notes(found),
        "<h2>Bytes</h2>",
        *_bytes(found),
        "<h2>Figures</h2>",
        *_figures(found),
        "<h2>Options</h2>",
        _table(("option", "value"), _pairs(found.options, "--")),
        "<h2>Run</h2>",
        _table(("of this run", ""), _pairs(found.config["run"])),
        _table(("version", ""), _pairs(found.config["versions"])),
        "<h2>Weights</h2>",
        _table(
            ("file", "SHA-256"), [(one["weights"], one["weights_sha256"]) for one in found.cells]
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _sentence(found: Finished) -> str:
    options, cell = found.options, found.cells[0]
    return (
        f"{options['optimizer']} trained {options['model']} ({cell['num_parameters']:,} "
        f"parameters) on {options['dataset']} with {options['num_workers']} workers, "
        f"{cell['num_steps']:,} steps of batches of {options['batch_size']}."
    )


def _notes(found: Finished) -> Iterator[str]:
    missing = len(found.histories) - len(found.cells)
    if missing:
        verb = "is" if missing == 1 else "are"
        yield f"<p>{missing} more of the sweep {verb} not finished.</p>"
    sat_out = sum(cell["num_non_finite"] for cell in found.cells)
    if sat_out:
        yield f"<p>{sat_out} gradients were not finite and sat out.</p>"


def _bytes(found: Finished) -> Iterator[str]:
    if not any(found.traffic.values()):
        yield (
            "<p>All workers were in one process, so that nothing was sent. Bytes per worker and "
            "step are what each would send if they were in processes of their own.</p>"
        )
        return
    rows = [(purpose, f"{count:,}") for purpose, count in found.traffic.items()]
    yield _table(("process 0 sent, in all", "bytes"), rows)
    verified = [
        (label, f"{cell['wire_bytes_sent']:,}", f"{cell['kernel_bytes_sent']:,}",
         f"{cell['kernel_to_ledger']:.5f}")
        for label, cell in zip(found.labels.values(), found.cells, strict=False)
        if "kernel_bytes_sent" in cell
    ]  # fmt: skip
    if verified:
        head = ("gradient bytes of all processes", "ledger", "kernel", "kernel / ledger")
        yield _table(head, verified)
    else:
        yield "<p>The kernel's counters were not read; <code>--verify_bytes</code> reads them.</p>"


def _figures(found: Finished) -> Iterator[str]:
    from compsgd.plots import experiment_figures, write_figure  # matplotlib takes a second

    figures = experiment_figures(found.histories, found.labels, title="", one_axis=True)
    for name, figure in figures.items():
        drawn = io.BytesIO()
        write_figure(figure, drawn, "svg")
        data = base64.b64encode(drawn.getvalue()).decode()
        alt = escape(name.removesuffix(".png").replace("_", " "))
        yield f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></figure>'


def _pairs(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    return [(f"{before}{name}", option_text(value)) for name, value in values.items()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in row) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n{line("th", head)}\n{body}\n</table></div>'
