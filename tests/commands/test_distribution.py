"""What a user gets: the wheel, the sample scripts, the commands of the README."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def what_a_clone_lacks(folder, names):
    everywhere = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")(folder, names)
    at_the_top = {"logs", "data", "build", "dist", "reproduced"} if Path(folder) == ROOT else set()
    return everywhere | at_the_top


def test_the_wheel_holds_the_declared_packages_and_works_elsewhere(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=what_a_clone_lacks)
    # The wheel is built from what the source distribution holds.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(build, check=True, timeout=200, cwd=tmp_path, capture_output=True)
    made = sorted(tmp_path.glob("compsgd-*"))
    assert [path.name.rpartition(".")[2] for path in made] == ["whl", "gz"]
    check = [sys.executable, "-m", "twine", "check", "--strict", *made]
    subprocess.run(check, check=True, timeout=60, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    packages = {str(Path(name).parent) for name in names if name.endswith(".py")}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options"]["packages"].split()
    assert packages == {package.replace(".", "/") for package in declared}
    assert not any(Path(name).name == "launch.py" for name in names)
    assert "compsgd/py.typed" in names
    code = "import compsgd.workers.commands.cli, compsgd.comm; print(compsgd.__file__)"
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout.strip() == str(tmp_path / "installed" / "compsgd" / "__init__.py")


@pytest.mark.parametrize("script", ["compressed_sgd.sh", "sgd.sh", "sign_sgd.sh"])
def test_sample_scripts_run(script, tmp_path):
    small = {
        "NUM_WORKERS": "1", "DATASET": "digits", "MODEL": "mlp", "EPOCHS": "1", "EVAL_EVERY": "10",
        "LR": "0.001 0.002", "DECAY": "1.0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    command = [str(ROOT / "scripts" / script), "--log_dir", str(tmp_path), "--exp_name", "sample"]
    subprocess.run(command, env=os.environ | small, check=True, timeout=120, capture_output=True)
    assert len(list((tmp_path / "sample" / "weights").iterdir())) == 2


def test_ci_calls_the_test_command_of_the_readme():
    (command,) = (
        line for line in (ROOT / "README.md").read_text().splitlines() if "'.[test]'" in line
    )
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
