"""`scripts/bench/netlab.py`: hosts on one machine, and that nothing of them is left."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from networks import NETLAB, Link, needs_network, network
from processes import ROOT, finish, run_command, started_command

# Tests of several processes run at a time.
NAME = f"csgdtest{os.environ.get('PYTEST_XDIST_WORKER', '')[2:]}"


def links():
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def everything():
    """Of the tests' name, in this machine."""
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    return sorted(re.findall(rf"{NAME}\w*(?:-\d+)?", links() + listed))


def sleepers():
    """Processes on the hosts."""
    found = subprocess.run(["ip", "netns", "pids", f"{NAME}-0"], capture_output=True, text=True,
                           check=False)  # fmt: skip
    return found.stdout.split()


def lab(*arguments, hosts=2):
    return run_command(*NETLAB, "run", "--hosts", str(hosts), "--name", NAME, *arguments)


@needs_network
def test_a_command_is_a_rank_on_each_host():
    asked = 'echo "$RANK of $WORLD_SIZE at $MASTER_ADDR by $GLOO_SOCKET_IFNAME"; echo dear >&2'
    finished = lab("--", "sh", "-c", asked, hosts=3)
    assert finished.exit_code == 0
    assert sorted(finished.stdout.splitlines()) == [
        f"[{rank}] {rank} of 3 at 10.213.0.1 by eth0" for rank in range(3)
    ]
    assert sorted(finished.stderr.splitlines()) == ["[0] dear", "[1] dear", "[2] dear"]
    assert everything() == []


@needs_network
def test_hosts_reach_each_other_over_links_of_the_rate():
    with network(2, Link("100mbit"), NAME) as (here, there):
        shapes = [
            subprocess.run([*prefix, "tc", "qdisc", "show", "dev", device], capture_output=True,
                           text=True, check=True).stdout
            for prefix, device in ((here.prefix, "eth0"), ([], there.outer))
        ]  # fmt: skip
        assert all("tbf" in shape and "rate 100Mbit" in shape for shape in shapes)
        subprocess.run([*here.prefix, "ip", "route", "get", there.address], check=True,
                       capture_output=True)  # fmt: skip
    assert everything() == []


@needs_network
def test_a_rank_that_fails_fails_the_command():
    finished = lab("--", "sh", "-c", 'test "$RANK" = 0')
    assert finished.exit_code == 1
    assert finished.stderr == "Error: host 1 ended with 1\n"
    assert everything() == []


@needs_network
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_takes_everything_down(number, code):
    command = [*NETLAB, "run", "--name", NAME, "--", "sh", "-c", "echo here; exec sleep 1000"]
    with started_command(*command) as process:
        assert process.stdout.readline().endswith("here\n")
        process.send_signal(number)
        ended = finish(process, 60)
    assert ended.exit_code == code
    assert ended.stderr == ""
    assert everything() == []


_ASKS = """
import sys
from pathlib import Path

sys.path.insert(0, "scripts/bench")
from netlab import ask_ranks, places

from compsgd.workers.failures import Interruption, terminated_like_interrupted

script = Path(sys.argv[1])
script.write_text("import time; time.sleep(1000)")
try:
    with terminated_like_interrupted(), places(2, None) as where:
        print("here", flush=True)
        ask_ranks(where, script, {})
except Interruption:
    print("interrupted", flush=True)
"""


def test_who_asks_ranks_and_is_interrupted_ends_them(tmp_path):
    program, script = tmp_path / "asks.py", tmp_path / "sleeps.py"
    program.write_text(_ASKS)
    with started_command(sys.executable, str(program), str(script)) as process:
        assert process.stdout.readline() == "here\n"
        while count_running(script) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        ended = finish(process, 30)
        assert count_running(script) == 0
    assert ended.stdout == "interrupted\n"


def count_running(script):
    """Processes whose program it is."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes().split(b"\0")[1:2] == [str(script).encode()]
    return found


@needs_network
def test_what_a_killed_run_leaves_is_removed_and_nothing_else():
    command = [*NETLAB, "run", "--name", NAME, "--", "sh", "-c", "echo here; exec sleep 1000"]
    with started_command(*command) as process:
        process.stdout.readline()
        refused = run_command(*NETLAB, "remove", NAME)
        assert refused.exit_code == 2
        assert f"{NAME} belongs to process {process.pid}, which is running" in refused.stderr
        taken = lab("--", "true")
        assert taken.exit_code == 2
        assert f"there is a {NAME}, which is not this run's" in taken.stderr
        process.kill()
        process.wait()
        assert len(everything()) == 5
        assert sleepers()
        removed = run_command(*NETLAB, "remove", NAME)
        assert not sleepers()
    assert removed.stdout == f"removed {NAME}\n"
    assert everything() == []


@needs_network
def test_names_of_others_are_refused():
    subprocess.run(["ip", "link", "add", NAME, "type", "bridge"], check=True)
    try:
        for arguments, words in (
            (["remove", NAME], f"{NAME} is nothing that netlab has made; it is left alone"),
            (["run", "--name", NAME, "--", "true"], f"there is a {NAME}, which is not this run's"),
        ):
            finished = run_command(*NETLAB, *arguments)
            assert finished.exit_code == 2
            assert words in finished.stderr
        assert everything() == [NAME]
    finally:
        subprocess.run(["ip", "link", "delete", NAME], check=True)


@needs_network
def test_a_network_that_cannot_be_finished_leaves_nothing():
    """Here because of the rate, which only tc finds out."""
    finished = lab("--rate", "0gbit", "--", "true")
    assert finished.exit_code == 2
    assert finished.stderr.count("Error: ") == 1
    assert everything() == []


@needs_network
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "fast", "--", "true"], "the rate 'fast' is none: write 10mbit"),
        (["--processes", "2", "--", "true"], "--processes is for --torchrun"),
        (["--name", "a name", "--", "true"], "the name 'a name' is none"),
        ([], "Missing argument 'COMMAND...'"),
    ],
)
def test_bad_input_is_a_line(arguments, words):
    finished = run_command(*NETLAB, "run", *arguments)
    assert finished.exit_code == 2
    assert words in finished.stderr


@needs_network
def test_others_than_root_are_told():
    # Another user may not even reach this interpreter.
    code = "import os; os.geteuid = lambda: 65534; import netlab; netlab.main()"
    bench = str(ROOT / "scripts" / "bench")
    command = ["env", f"PYTHONPATH={bench}", sys.executable, "-c", code, "run", "--", "true"]
    finished = run_command(*command)
    assert finished.exit_code == 2
    assert "network namespaces need root: run it with sudo" in finished.stderr


@needs_network
def test_without_iproute2_it_says_what_is_missing(tmp_path):
    finished = subprocess.run([*NETLAB, "run", "--", "true"], capture_output=True, text=True,
                              env=os.environ | {"PATH": str(tmp_path)}, check=False)  # fmt: skip
    assert finished.returncode == 2
    assert "there is no command ip; the package iproute2 has it" in finished.stderr
