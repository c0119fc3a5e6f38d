"""Daemons: programs that continue when the command that started them ends.

A daemon's state file has its pid and its start time, so that another process with a recycled pid
is never mistaken for it, and never killed.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from opam_ci.cli.local import launcher
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

LOG_LIMIT = 10_000_000
"""A log of more bytes than this is renamed at the next start; one old log is kept."""


class Daemon(Frozen):
    """A running daemon.

    Attributes:
        pid: Its process, which leads a session and a process group of its own.
        boot: Id of the machine's boot in which it runs.
        started: When it started, in clock ticks since that boot.
        notes: Of the command that started it.
    """

    pid: int
    boot: str
    started: int
    notes: dict[str, str] = Field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether this process still runs."""
        return launcher.identity(self.pid) == {"boot": self.boot, "started": self.started}


def find(state_file: Path) -> Daemon | None:
    """Returns the daemon of a state file if it runs.

    None too for a file that a full disk or a crash left incomplete.
    """
    try:
        daemon = Daemon.model_validate_json(state_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return daemon if daemon.alive else None


def start(
    state_file: Path,
    log_file: Path,
    command: Sequence[str],
    *,
    notes: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Daemon:
    """Starts a daemon; its output is appended to its log.

    Args:
        state_file: Receives its identity; its folder exists.
        log_file: Receives its output.
        command: Absolute path of the program, and its arguments.
        notes: For `Daemon.notes`.
        environment: Variables in addition to the caller's.

    Raises:
        InfrastructureError: The program could not be started.
    """
    if log_file.exists() and log_file.stat().st_size > LOG_LIMIT:
        log_file.replace(log_file.with_suffix(".old.log"))
    arguments = [str(state_file), str(log_file), json.dumps(dict(notes or {})), *command]
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        [sys.executable, "-I", "-S", launcher.__file__, *arguments],
        cwd=state_file.parent,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InfrastructureError(
            f"could not start {command[0]}: {done.stderr.strip()}", cause=Cause.UNKNOWN
        )
    # Not `find`: a daemon that ended at once is returned too, for the caller to report.
    return Daemon.model_validate_json(state_file.read_bytes())


def stop(daemon: Daemon, *, timeout: timedelta) -> bool:
    """Ends a daemon, by SIGTERM and, after a timeout, its whole group by SIGKILL.

    Args:
        daemon: The daemon; if it has ended, nothing happens, even if another process has its pid.
        timeout: How long it may take to end by itself.

    Returns:
        Whether it ended by itself.
    """
    try:
        # From here on the handle refers to this process, even if its pid is recycled.
        handle = os.pidfd_open(daemon.pid)
    except ProcessLookupError:
        return True
    try:
        if not daemon.alive:
            return True
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if select.select([handle], [], [], timeout.total_seconds())[0]:
            return True
        os.killpg(daemon.pid, signal.SIGKILL)
        select.select([handle], [], [])
        return False
    finally:
        os.close(handle)


def last_lines(log_file: Path, count: int = 5) -> str:
    """Returns the end of a log, for messages."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])
