"""Two machines, as network namespaces with links between them: a run ends as in one process."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
from networks import INTERFACE, NETLAB, Link, needs_network, network
from processes import ROOT, finish, run_command, started_command

TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2",
]  # fmt: skip
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


@needs_network
@pytest.mark.parametrize(("exchange", "coding"), [("auto", "off"), ("hierarchical", "on")])
def test_two_machines_end_as_one_process(alone, tmp_path, exchange, coding):
    """With torchrun's static rendezvous."""
    options = [*TRAINING, "--log_dir", str(tmp_path), "--exp_name", "x", "--verify_bytes"]
    options += ["--exchange", exchange, "--entropy_coding", coding]
    torchrun = ["--torchrun", "--processes", "2", "--", "launch.py", *options]
    finished = run_command(*NETLAB, "run", "--hosts", "2", "--rate", "1gbit", *torchrun)
    assert finished.exit_code == 0, finished.stderr
    assert digest_in(tmp_path / "x") == alone


@needs_network
def test_two_machines_that_find_their_ranks_themselves(alone, tmp_path):
    """With torchrun's c10d rendezvous."""
    options = [*TRAINING, "--log_dir", str(tmp_path), "--exp_name", "x", "--verify_bytes"]
    with network(2, Link("1gbit")) as hosts, ExitStack() as stack:
        processes = []
        for node, host in enumerate(hosts):
            inside = [*host.prefix, "env", f"GLOO_SOCKET_IFNAME={INTERFACE}", *TORCHRUN]
            # Namespaces share this machine's host name, by which torchrun tells who is rank 0's.
            rendezvous = [
                "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].address}:29500",
                "--rdzv-id", "x", "--local-addr", host.address,
                "--rdzv-conf", f"is_host={int(node == 0)}",
            ]  # fmt: skip
            command = started_command(*inside, *rendezvous, "launch.py", *options)
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
