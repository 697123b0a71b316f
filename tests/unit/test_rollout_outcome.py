"""The end of a run: verdict, exit code, last line and JSON agree however it ends; and flags that are refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.simulated import World
from tests.unit.sites import SITE, write

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import os, signal, sys, time
from roles.rollout.outcome import outcome
from roles.site.secret import Secret
secret = Secret("s3cret-of-the-site")
outcome.arm()
outcome.json = True
"""
AGAIN = "the same command again finishes the job"
ABOVE = f"the cause is told above; {AGAIN}"
NOT_AT_ITS_END = "the run did not get to its end; the same command finishes it"
MAY_RUN = f"A command that was running on a node may still run there; {AGAIN}."


def run(code: str, *, before: str = BEGIN, **more) -> subprocess.CompletedProcess:
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60} | more
    return subprocess.run([sys.executable, "-c", before + code], cwd=ROOT, check=False, text=True, **more)


def told(done: subprocess.CompletedProcess) -> tuple[int, str, dict]:
    """Exit code, last line, and the one JSON object on standard output."""
    return done.returncode, done.stderr.splitlines()[-1], json.loads(done.stdout)


ENDS = {
    # name: (what the run does, exit code, verdict, reasons)
    "as declared": ("outcome.end('as declared', 'all 3 nodes', changes={})", 0, "as declared", ["all 3 nodes"]),
    "changed": ("outcome.end('failed', 'x'); outcome.end('changed', 'a, b')", 0, "changed", ["a, b"]),
    "would change": ("outcome.end('would change', 'a')", 0, "would change", ["a"]),
    "differs": ("outcome.end('differs', '1 of 9')", 1, "differs", ["1 of 9"]),
    "could not look": ("outcome.end('could not look', 'a', 'b')", 1, "could not look", ["a", "b"]),
    "refused": ("outcome.refused(['a', 'b'])", 1, "refused", ["a", "b"]),
    "refused, then exit 0": ("outcome.refused(['a']); sys.exit(0)", 1, "refused", ["a"]),
    "failed": ("outcome.end('changed', 'x'); outcome.failed('n: a\\nmore')", 1, "failed", ["n: a"]),
    "failed twice": ("[outcome.failed(x) for x in 'aba']; outcome.failed('a')", 1, "failed", ["a", "b"]),
    "failed at its step": ("outcome.end('failed', 'no end'); outcome.failed('a')", 1, "failed", ["a"]),
    "SIGINT": ("os.kill(os.getpid(), 2); time.sleep(9)", 130, "failed", [f"interrupted by SIGINT. {MAY_RUN}"]),
    "SIGTERM": ("os.kill(os.getpid(), 15); time.sleep(9)", 143, "failed", [f"interrupted by SIGTERM. {MAY_RUN}"]),
    "SIGINT after a failure": (
        "outcome.failed('a'); os.kill(os.getpid(), 2)", 130, "failed", ["a", f"interrupted by SIGINT. {MAY_RUN}"],
    ),
    "SIGINT at the end": (
        "outcome.end('changed', 'x'); os.kill(os.getpid(), 2)", 130, "failed", [f"interrupted by SIGINT. {MAY_RUN}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_exit_code_last_line_and_json_agree(name):
    code, exit_code, verdict, reasons = ENDS[name]
    rc, last, answer = told(run(code))
    assert rc == exit_code
    assert last == f"pyinfra-gitlab: {verdict}: {'; '.join(reasons)}"
    assert (answer["result"], answer["reasons"]) == (verdict, reasons)


@pytest.mark.parametrize("code", ["pass", "sys.exit(0)", "raise RuntimeError('x')"])
def test_a_run_that_did_not_get_to_its_end_failed(code):
    rc, last, answer = told(run(code))
    assert (rc, last, answer["result"]) == (1, f"pyinfra-gitlab: failed: {ABOVE}", "failed")


def test_details_are_in_the_json_and_without_json_nothing_is_on_standard_output():
    done = run("outcome.end('differs', 'a', checks=[{'node': 'n', 'found': 'ü\"'}])")
    assert json.loads(done.stdout)["checks"] == [{"node": "n", "found": 'ü"'}]
    done = run("outcome.json = False; outcome.end('differs', 'a')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "pyinfra-gitlab: differs: a\n")
    done = run("outcome.disarm(); sys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", ""), "a run that only asks has no verdict"


@pytest.mark.parametrize(
    "code",
    [
        "outcome.refused(['found ' + secret.reveal()])",
        "outcome.failed('found ' + secret.reveal())",
        "outcome.failed('found s3cret-of\\u002dthe-site\\n' + secret.reveal())",
        pytest.param(
            "outcome.end('differs', 'found ' + secret.reveal())",
        ),
    ],
)
def test_a_secret_is_never_told(code):
    done = run(code)
    rc, last, answer = told(done)
    assert rc == 1
    assert "s3cret" not in done.stdout + done.stderr
    assert last.endswith(": found ********")
    assert answer["reasons"] == ["found ********"]
    masked = run("outcome.end('changed', 'a', changes={'n': [secret.reveal()]})")
    assert told(masked)[2]["changes"] == {"n": ["********"]}


@pytest.mark.parametrize("deaf", ["stdout", "stderr", "encoding"])
def test_the_exit_code_is_right_even_when_nobody_can_be_told(deaf):
    read, pipe = os.pipe()
    os.close(read)
    more = {"env": os.environ | {"PYTHONIOENCODING": "latin-1"}} if deaf == "encoding" else {deaf: pipe}
    done = run("outcome.end('differs', 'reader 3.0 s ahead (\\u20ac)')", **more)
    os.close(pipe)
    assert done.returncode == 1


def test_the_json_has_the_reasons_of_the_last_line():
    _, last, answer = told(run("pass"))
    assert last.endswith("; ".join(answer["reasons"]) or "no reason")


def test_a_node_that_failed_in_another_deploy_leaves_no_good_verdict():
    failed = "o.state = types.SimpleNamespace(failed_hosts=[types.SimpleNamespace(name='n')])"
    code = f"import types; import roles.rollout.outcome as o; {failed}; outcome.end('changed', 'a')"
    rc, last, answer = told(run(code))
    assert (rc, last, answer["result"]) == (1, "pyinfra-gitlab: failed: n: see above", "failed")


@pytest.mark.parametrize(
    ("code", "verdict", "reasons"),
    [
        ("outcome.begin('a'); outcome.end('as declared', 'x', part='b')", "failed", [NOT_AT_ITS_END]),
        ("outcome.end('as declared', 'x', part='a'); outcome.end('changed', 'y', part='b')", "changed", ["y"]),
        ("outcome.end('would change', 'x', part='a'); outcome.end('changed', 'y', part='b')", "would change", ["x"]),
    ],
)
def test_the_worst_part_of_a_run_is_its_verdict(code, verdict, reasons):
    _, _, answer = told(run(code))
    assert (answer["result"], answer["reasons"]) == (verdict, reasons)


# --- with the real pyinfra ---


class Command:
    """pyinfra on a site whose nodes are a port of this machine where somebody counts who calls."""

    def __init__(self, folder: Path) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.door.setblocking(False)
        port = self.door.getsockname()[1]
        text = SITE.replace("nodes:\n", f"ssh: {{port: {port}}}\nnodes:\n", 1)
        write(folder, text.replace("10.0.0.", "127.0.0."))
        self.inventory = folder / "inventory.py"
        self.inventory.write_text((ROOT / "inventories/example/inventory.py").read_text())

    def run(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pyinfra", "-y", str(self.inventory), *words]
        env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(self.inventory.parent)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)

    def called(self) -> bool:
        try:
            self.door.accept()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def command(tmp_path):
    made = Command(tmp_path)
    yield made
    made.door.close()


FLAGS = [("--no-wait",), ("--serial",), ("--fail-percent", "10")]


@pytest.mark.parametrize(
    ("flags", "deploys"),
    [
        *(([*flag], ["deploys/site.py"]) for flag in FLAGS),
        (["--fail-percent", "100"], ["deploys/verify.py"]),
        (["--serial", "--fail-percent", "10", "--no-wait"], ["deploys/verify.py", "deploys/gitlab.py"]),
    ],
)
def test_flags_that_are_refused_before_any_connection(command, flags, deploys):
    rc, last, answer = told(command.run(*flags, *deploys, "--data", "format=json"))
    assert rc == 1
    assert last.startswith("pyinfra-gitlab: refused: ")
    assert answer["result"] == "refused"
    refused = [reason.partition(" is refused: ")[0] for reason in answer["reasons"]]
    assert refused == [flag[0] for flag in FLAGS if flag[0] in flags]
    assert last == f"pyinfra-gitlab: refused: {'; '.join(answer['reasons'])}"
    assert not command.called()


def test_a_wrong_site_file_ends_before_any_connection(command):
    file = command.inventory.with_name("site.yml")
    file.write_text(file.read_text().replace("reader: app-1", "reader: app-9"))
    rc, last, answer = told(command.run("deploys/site.py", "--data", "format = json"))
    assert (rc, answer["result"]) == (1, "failed")
    assert last.startswith("pyinfra-gitlab: failed: ")
    assert not command.called()


@pytest.mark.parametrize(("deploy", "verdict"), [("site", "failed"), ("verify", "could not look")])
def test_nodes_that_cannot_be_reached(command, deploy, verdict):
    command.door.close()
    done = command.run(f"deploys/{deploy}.py")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"pyinfra-gitlab: {verdict}: ")
    if deploy == "site":
        assert "app-1, app-2, gitaly-1 could not be reached. It might be reading mail, so nothing was changed" in last


def test_what_is_no_deploy_has_no_verdict_and_no_refusal(command):
    done = command.run("debug-inventory", "--serial")
    assert done.returncode == 0
    assert "pyinfra-gitlab:" not in done.stderr + done.stdout
    assert "password-of" not in done.stderr + done.stdout


SLOW = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import gevent
from roles.site.inventory import pyinfra_groups
from tests.unit import simulated
folder = Path(__file__).parent
act = simulated.World.act
def slow(world, name, command, stdin):
    if "gitlab-ctl reconfigure" in command:
        (folder / "reconfiguring").touch()
        gevent.sleep(60)
    return act(world, name, command, stdin)
simulated.World.act = slow
simulated.use(folder / "world.json")
gitlab = pyinfra_groups(folder / "site.yml")["gitlab"]
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_on_the_nodes(tmp_path, number):
    write(tmp_path, SITE)
    World(tmp_path / "world.json", ("app-1", "app-2", "gitaly-1"))
    (tmp_path / "inventory.py").write_text(SLOW)
    words = [sys.executable, "-m", "pyinfra", "-y", "inventory.py", str(ROOT / "deploys/gitlab.py")]
    words += ["--data", "format=json"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "reconfiguring").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    reason = f"interrupted by {number.name}. {MAY_RUN}"
    rc, last, answer = told(done)
    assert (rc, last) == (128 + number, f"pyinfra-gitlab: failed: {reason}")
    assert (answer["result"], answer["reasons"]) == ("failed", [reason])
