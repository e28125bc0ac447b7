"""Two machines, as network namespaces with links between them: a run ends as in one process."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest
from processes import ROOT, finish, run_command, started_command

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from links import INTERFACE, address, shaped_namespaces

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
TRAINING = [
    "--model", "mlp", "--epochs", "1", "--batch_size", "64", "--num_workers", "4", "--threads", "1",
]  # fmt: skip

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights of a single process."""
    folder = tmp_path_factory.mktemp("alone")
    finished = run_command(sys.executable, "-m", "compsgd", "train", *TRAINING,
                           "--log_dir", str(folder), "--exp_name", "x")  # fmt: skip
    assert finished.exit_code == 0, finished.stderr
    return digest_in(folder / "x")


def digest_in(folder):
    return json.loads((folder / "result.json").read_text())["cells"][0]["weights_sha256"]


@pytest.fixture
def machines():
    """Names of two namespaces."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need Linux, root, and the command ip")
    try:
        with shaped_namespaces(2, "1gbit") as names:
            yield names
    except RuntimeError as error:
        pytest.skip(f"no network namespaces here: {error}")


RENDEZVOUS = {
    "static": lambda node: [
        "--node-rank", str(node), "--master-addr", address(0), "--master-port", "29500",
    ],
    "c10d": lambda node: [
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{address(0)}:29500", "--rdzv-id", "x",
        # Namespaces share this machine's host name, by which torchrun tells who is rank 0's.
        "--local-addr", address(node), "--rdzv-conf", f"is_host={int(node == 0)}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("rendezvous", RENDEZVOUS)
def test_two_machines_end_as_one_process(rendezvous, machines, alone, tmp_path):
    options = [*TRAINING, "--log_dir", str(tmp_path), "--exp_name", "x", "--verify_bytes"]
    with ExitStack() as stack:
        processes = []
        for node, name in enumerate(machines):
            inside = ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={INTERFACE}"]
            torchrun = [*TORCHRUN, "--nproc-per-node", "2", *RENDEZVOUS[rendezvous](node)]
            command = started_command(*inside, *torchrun, "launch.py", *options)
            processes.append(stack.enter_context(command))
        ends = [finish(process, 120) for process in processes]
    assert [end.exit_code for end in ends] == [0, 0], ends
    assert digest_in(tmp_path / "x") == alone


SRUN = """#!/bin/bash
# Two tasks, as srun starts them.
shift
for node in 0 1; do SLURM_NODEID=$node SLURM_NNODES=2 "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""


@pytest.fixture
def slurm(tmp_path):
    """Runs the script with stand-ins for what is Slurm's, and for torchrun; all on this machine."""

    def run(torchrun, *options, **variables):
        stand_ins = {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}
        for name, text in (stand_ins | {"torchrun": f"#!/bin/bash\n{torchrun}\n"}).items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        found = subprocess.run(
            [ROOT / "scripts" / "examples" / "slurm.sh", *options],
            capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
            env=os.environ | variables | {
                "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12345",
                "SLURM_JOB_NODELIST": "n[0-1]", "PROCESSES": "2", "GLOO_SOCKET_IFNAME": "lo",
            },
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


def test_the_script_for_slurm(slurm, alone, tmp_path):
    torchrun = f'exec {sys.executable} -m torch.distributed.run "$@"'
    slurm(torchrun, *TRAINING, "--log_dir", str(tmp_path))
    assert digest_in(tmp_path / "slurm_12345") == alone


@pytest.mark.parametrize("num_restarts", ["0", "1"])
def test_a_job_that_slurm_starts_again_goes_on(num_restarts, slurm):
    lines = slurm('echo "$@"', "--dataset", "MNIST", SLURM_RESTART_COUNT=num_restarts).splitlines()
    assert len(lines) == 2
    more = " --resume" * int(num_restarts)
    assert all(line.endswith(f"--exp_name slurm_12345 --dataset MNIST{more}") for line in lines)
