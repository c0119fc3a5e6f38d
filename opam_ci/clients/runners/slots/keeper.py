"""A program that runs one command of a job and outlives all its processes.

It is run as a file, as root where the job has a user of its own, and imports only the standard
library. When the command has ended, or the keeper gets SIGTERM, or the worker is gone, it kills
whatever the command left: all processes of the job's user, or, where the job runs as the worker's
own user, all descendants. On Linux these stay its descendants, however they daemonise
(PR_SET_CHILD_SUBREAPER); other systems have users for that.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVS = 38
"""Of prctl(2). With the latter no set-user-id program lets a process out of its user's reach."""

_LINUX = sys.platform == "linux"
_LOOK_EVERY = 0.5
"""Seconds between looks for the worker."""

_END_TIMEOUT = 30.0
_PAUSE = 0.01
_NOBODY_LEFT = 3
_NOT_STARTED = 255


def main() -> int:
    """Runs the command of the order, a file that is the only argument.

    Returns:
        The command's exit code, 128 and its signal, or `_NOT_STARTED`. The order's file `ended`
        says which, and is there only if no process is left.
    """
    order = json.loads(Path(sys.argv[1]).read_text())
    stopping: list[int] = []
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    if _LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Path(order["pid"]).write_text(str(os.getpid()))
    child, problem = _start(order)
    status = None
    while status is None and not stopping and os.getppid() == order["worker"]:
        if select.select([read_end], [], [], _LOOK_EVERY)[0]:
            os.read(read_end, 512)
        status = _reap().get(child)
    if not _end_all(order["user"], child):
        return _NOT_STARTED
    code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    found: dict[str, object] = {"exit": code} if code >= 0 else {"signal": -code}
    if problem:
        sys.stdout.write(f"{problem}\n")
        found = {"not_started": problem}
    Path(order["ended"]).write_text(json.dumps(found))
    if problem:
        return _NOT_STARTED
    return code if code >= 0 else 128 - code


def _start(order: dict[str, Any]) -> tuple[int, str]:
    """Starts the command; returns its process id, and why it could not be started, if so."""
    read_end, write_end = os.pipe()  # closed by a successful exec
    child = os.fork()
    if child == 0:
        try:
            _become_command(order)
        except BaseException as error:  # noqa: BLE001 - whatever it is, this process must end
            os.write(write_end, f"{order['argv'][0]}: {error}".encode())
        finally:
            os._exit(_NOT_STARTED)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as errors:
        return child, errors.read().decode(errors="replace")


def _become_command(order: dict[str, Any]) -> None:
    # Its own session, so that a signal to the job's group does not reach the keeper.
    os.setsid()
    signal.set_wakeup_fd(-1)
    # Python ignores the last two, and what is ignored remains so in the command.
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["processes"] is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (order["processes"],) * 2)
    if _LINUX:
        # When memory runs out, the kernel is to take a job before the worker.
        Path("/proc/self/oom_score_adj").write_text("1000")
        ctypes.CDLL(None, use_errno=True).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _become(order["user"])
    os.chdir(order["directory"])
    os.umask(0o022)
    os.execvpe(order["argv"][0], order["argv"], order["environment"])  # noqa: S606 - no shell


def _become(user: list[int] | None) -> None:
    if user is not None:
        os.setgroups([])
        os.setgid(user[1])
        os.setuid(user[0])


def _reap() -> dict[int, int]:
    """Waits for all that have ended; returns their statuses."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            found[ended[0]] = ended[1]
    return found


def _end_all(user: list[int] | None, child: int) -> bool:
    """Kills everything of the job; returns whether nothing is left."""
    deadline = time.monotonic() + _END_TIMEOUT
    while time.monotonic() < deadline:
        left = _kill_user(user) if user is not None else _kill_descendants(child)
        _reap()
        if not left:
            return True
        time.sleep(_PAUSE)
    return False


def _kill_user(user: list[int]) -> bool:
    """Kills all processes of a user; returns whether there may be more."""
    killer = os.fork()
    if killer == 0:
        try:
            _become(user)
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            os._exit(_NOBODY_LEFT)
        finally:
            os._exit(0)
    _, status = os.waitpid(killer, 0)
    if _LINUX:
        return _has_processes(user[0])  # it lets all signals through, also those to nobody
    return os.waitstatus_to_exitcode(status) != _NOBODY_LEFT


def _has_processes(uid: int) -> bool:
    """Returns whether a user has a process that has not ended, on Linux."""
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
            if str(uid) in fields["Uid"].split() and fields["State"].split()[0] not in "ZX":
                return True
    return False


def _kill_descendants(child: int) -> bool:
    """Kills all descendants; returns whether there may be more."""
    if not _has_children():
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    stopped: set[int] = set()
    # A process that is stopped starts no others: then none is missing among the killed.
    while new := _descendants() - stopped:
        _signal(new, signal.SIGSTOP)
        stopped |= new
    _signal(stopped, signal.SIGKILL)
    return _has_children()


def _has_children() -> bool:
    """Returns whether there are children, also ended ones: without any there are no descendants."""
    _reap()
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _signal(processes: set[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may have spaces and parentheses itself.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, generation = set[int](), {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation} - found
        found |= generation
    return found


if __name__ == "__main__":
    sys.exit(main())
