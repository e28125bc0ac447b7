"""The notebook of the examples runs from top to bottom, and what it says comes out."""

import json
import os
import subprocess
import sys

import pytest
from processes import ROOT

NOTEBOOK = ROOT / "scripts" / "examples" / "story.ipynb"


def test_the_saved_outputs_are_those_of_one_run_from_top_to_bottom():
    """Readers of the repository see them without running anything."""
    cells = [one for one in json.loads(NOTEBOOK.read_text())["cells"]
             if one["cell_type"] == "code"]  # fmt: skip
    assert [one["execution_count"] for one in cells] == list(range(1, len(cells) + 1))
    outputs = [output for one in cells for output in one["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    text = "".join("".join(output.get("text", "")) for output in outputs)
    assert text.startswith("40,000 bytes as float32, 3,750 bytes as levels")
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.heavy
def test_the_notebook_runs(tmp_path):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    sizes, *runs = finished.stdout.splitlines()
    assert sizes == "40,000 bytes as float32, 3,750 bytes as levels"
    accuracy = {line.split("%")[0].rsplit(None, 1)[0]: float(line.split("%")[0].split()[-1])
                for line in runs}  # fmt: skip
    assert set(accuracy) == {"float32", "3 bits", "1 bit"}
    assert min(accuracy.values()) > 85
    sent_mb = [float(line.split()[-3]) for line in runs]
    assert sent_mb[0] > 8 * sent_mb[1] > 16 * sent_mb[2]
