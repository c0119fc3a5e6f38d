"""Daemons on real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from opam_ci.cli.local import daemon, launcher, ports
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError

TIMEOUT = timedelta(seconds=10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., daemon.Daemon]]:
    """Starts daemons and ends them after the test."""
    started: list[daemon.Daemon] = []

    def start(*command: str, **notes: str) -> daemon.Daemon:
        log = tmp_path / "d.log"
        started.append(daemon.start(tmp_path / "d.json", log, command, notes=notes))
        return started[-1]

    yield start
    for each in started:
        daemon.stop(each, timeout=timedelta(0))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_daemon_is_found_again_and_ends_on_request(
    start: Callable[..., daemon.Daemon], tmp_path: Path
) -> None:
    running = start("/bin/sleep", "60", port="1")
    assert daemon.find(tmp_path / "d.json") == running
    assert running.notes == {"port": "1"}
    assert os.getsid(running.pid) == running.pid  # no terminal's end reaches it
    assert daemon.stop(running, timeout=TIMEOUT)
    assert daemon.find(tmp_path / "d.json") is None


def test_one_that_ignores_sigterm_is_killed_with_its_children(
    start: Callable[..., daemon.Daemon], tmp_path: Path
) -> None:
    running = start("/bin/sh", "-c", "trap '' TERM; sleep 61 & echo $!; wait; wait")
    wait_until(lambda: daemon.last_lines(tmp_path / "d.log"))
    child = int(daemon.last_lines(tmp_path / "d.log"))
    assert not daemon.stop(running, timeout=timedelta(seconds=0.1))
    wait_until(lambda: launcher.identity(child) is None)


def test_a_recycled_pid_is_not_touched(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        identity = launcher.identity(stranger.pid)
        assert identity is not None
        earlier = daemon.Daemon.model_validate(
            {"pid": stranger.pid, **identity, "started": 1, "notes": {}}
        )
        (tmp_path / "d.json").write_text(earlier.model_dump_json())
        assert daemon.find(tmp_path / "d.json") is None
        assert daemon.stop(earlier, timeout=TIMEOUT)
        assert stranger.poll() is None
        stranger.kill()


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["/bin/true"]) as zombie:
        wait_until(lambda: launcher.identity(zombie.pid) is None)
        assert Path(f"/proc/{zombie.pid}").exists()


def test_a_program_that_cannot_start_is_reported_and_leaves_nothing(
    start: Callable[..., daemon.Daemon], tmp_path: Path
) -> None:
    with pytest.raises(InfrastructureError, match=r"could not start /nowhere.*No such file"):
        start("/nowhere")
    assert not (tmp_path / "d.json").exists()


def test_a_broken_state_file_is_not_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"pid": 1')
    assert daemon.find(tmp_path / "d.json") is None


def test_a_huge_log_is_renamed(
    start: Callable[..., daemon.Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "LOG_LIMIT", 10)
    (tmp_path / "d.log").write_text("old " * 10)
    start("/bin/echo", "new")
    wait_until(lambda: daemon.last_lines(tmp_path / "d.log") == "new")
    assert (tmp_path / "d.old.log").read_text().startswith("old old")


def test_a_used_port_is_reported_with_its_program_and_the_option() -> None:
    with socket.socket() as listener:
        listener.bind((ports.LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            ports.require_free(port, option="--port")
    message = str(caught.value)
    assert f"port {port} is in use by " in message
    assert f"(pid {os.getpid()})" in message
    assert "--port" in message
    ports.require_free(port, option="--port")


def test_a_port_with_closed_connections_is_free() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((ports.LOOPBACK, port)):
            accepted, _ = server.accept()
            accepted.close()  # the server's side closes first: it keeps TIME_WAIT
    ports.require_free(port, option="--port")


def test_the_caller_may_be_killed_at_once(tmp_path: Path) -> None:
    """The daemon is on record and runs on after a SIGKILL of the command that started it."""
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from opam_ci.cli.local import daemon\n"
        "state, log = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "daemon.start(state, log, ['/bin/sleep', '60'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    state = tmp_path / "d.json"
    ended = subprocess.run(
        [sys.executable, "-c", script, state, tmp_path / "d.log"],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    running = daemon.find(state)
    assert running is not None
    assert daemon.stop(running, timeout=TIMEOUT)
