"""Starts a program as a daemon, and writes its identity before it runs.

A script of the standard library alone, run in a process of its own by `daemon.start`:

    python launcher.py STATE_FILE LOG_FILE NOTES_JSON PROGRAM [ARGUMENT…]

The daemon writes its own identity and only then becomes the program, so that no kill at any
moment leaves a running program without a state file. Ends with 0 once the program runs.
"""

import json
import os
import signal
import sys
from pathlib import Path


def identity(pid: int) -> dict[str, object] | None:
    """Returns what distinguishes a process from all others with the same pid, before or after.

    Returns:
        The boot of the machine and the start of the process in clock ticks since then
        (field 22 of proc_pid_stat(5)); None if the process has ended or is a zombie.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may hold anything.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"boot": boot, "started": int(fields[19])}


def main(state_file: str, log_file: str, notes: str, *command: str) -> None:
    """Becomes two processes: the daemon, and one that ends when the daemon runs."""
    reader, writer = os.pipe()  # closed by the daemon's exec: both are not inheritable
    if os.fork() == 0:
        os.close(reader)
        _become(Path(state_file), log_file, json.loads(notes), list(command), writer)
    os.close(writer)
    with os.fdopen(reader) as errors:
        sys.exit(errors.read() or 0)


def _become(
    state_file: Path, log_file: str, notes: dict[str, object], command: list[str], writer: int
) -> None:
    try:
        os.setsid()
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        state = {"pid": os.getpid(), **(identity(os.getpid()) or {}), "notes": notes}
        new = state_file.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(state_file)
        # Python ignores SIGPIPE, and an ignored signal stays ignored after exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 - the caller's arguments, no shell
    except OSError as error:
        state_file.unlink(missing_ok=True)
        os.write(writer, str(error).encode())
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
