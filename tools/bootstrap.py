# ruff: noqa: INP001 - a folder of scripts, not a package
"""Makes `.venv`: a virtual environment with exactly the packages of the lock files.

One process at a time makes it, under a file lock. Meanwhile the lock file contains `building`: a
process that gets the lock and finds that text starts from nothing, since the last one was killed.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn, TextIO

from opam_ci.cli import debian
from tools import environment
from tools.environment import PYTHON, ROOT, STAMP, VENV

LOCK = VENV / ".opam-ci.lock"
INSTALLING_COMMANDS = ("up", "test")
"""Only these install Debian packages; all others print which are missing."""

EXIT_USAGE = 2
EXIT_INTERNAL = 3
EXIT_INTERRUPTED = 130

FOREIGN_SETTINGS = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
"""Variables that would make pip install elsewhere than into `.venv`."""


def report(text: str) -> None:
    """Prints a line about the set-up to standard error, apart from the command's output."""
    sys.stderr.write(f"opam-ci: {text}\n")
    sys.stderr.flush()


def give_up(text: str, code: int) -> NoReturn:
    """Prints a last line and exits."""
    report(text)
    sys.exit(code)


def set_up(command: str) -> None:
    """Makes or renews the environment for a command; a second caller waits for the first."""
    started = time.monotonic()
    try:
        VENV.mkdir(exist_ok=True)
        with LOCK.open("a+") as lock:
            _take(lock)
            if not environment.is_ready(command):
                _build(command, lock)
                report(f"the Python packages are ready ({time.monotonic() - started:.0f} s)")
    except PermissionError as error:
        give_up(
            f"no permission to write {error.filename}: run this as the owner of the clone, or make "
            "a clone of your own",
            EXIT_USAGE,
        )
    except KeyboardInterrupt:
        give_up("interrupted; the next run starts from nothing", EXIT_INTERRUPTED)


def _take(lock: TextIO) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report("waiting for another opam-ci that sets up .venv")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _build(command: str, lock: TextIO) -> None:
    lock.seek(0)
    interrupted = bool(lock.read())
    unusable = interrupted or not _is_usable()
    lock.write("building\n")
    lock.flush()
    os.fsync(lock.fileno())
    STAMP.unlink(missing_ok=True)
    if unusable:
        _make_empty(command)
    _install(command)
    new_stamp = STAMP.with_suffix(".new")
    new_stamp.write_text("\n".join(sorted(environment.facts(command))) + "\n")
    new_stamp.replace(STAMP)
    lock.truncate(0)


def _is_usable() -> bool:
    """Returns whether packages can be added to the existing environment."""
    if stamped := environment.stamped():
        return environment.location() <= stamped
    # No stamp and no trace of a killed set-up: an environment that a developer has made.
    return (VENV / "pyvenv.cfg").exists() and os.access(PYTHON, os.X_OK)


def _make_empty(command: str) -> None:
    # If `.venv` itself is active, its python is about to be removed.
    python = getattr(sys, "_base_executable", sys.executable)
    _require_venv_module(python, command)
    report(f"making a virtual environment in {VENV}")
    for entry in VENV.iterdir():
        if entry == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    _run([python, "-m", "venv", str(VENV)], "could not make a virtual environment")


def _install(command: str) -> None:
    # The last lock file has all packages of those before it.
    packages = environment.lock_files(command)[-1]
    report(f"installing the Python packages of {packages.relative_to(ROOT)}")
    _run(
        [
            *(str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            # The lock is complete and hashed: nothing is resolved, and no code of a package runs.
            *("--no-input", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *("--requirement", str(packages)),
        ],
        "could not install the Python packages; is the package index reachable?",
    )
    # The clone itself is not installed but put on the path: an edit takes effect at once.
    for site_packages in (VENV / "lib").glob("python3.*/site-packages"):
        (site_packages / "opam-ci.pth").write_text(f"{ROOT}\n")


def _run(command: list[str], problem: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN_SETTINGS}
    code = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        command, cwd=ROOT, env=inherited, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    ).returncode
    if code != 0:
        give_up(f"{problem} ({Path(command[0]).name} ended with {code})", EXIT_INTERNAL)


def _require_venv_module(python: str, command: str) -> None:
    """Ensures that `python -m venv` works: Debian has a part of it in another package."""
    probe = [python, "-I", "-c", "import ensurepip, venv"]
    if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:  # noqa: S603 - fixed arguments
        return
    if not debian.has_apt():
        give_up(f"{python} lacks the modules venv and ensurepip; install them first", EXIT_USAGE)
    # All missing packages at once, so that a person installs once.
    missing = [f"python3.{sys.version_info.minor}-venv", *debian.missing()]
    if command not in INSTALLING_COMMANDS or not debian.may_install():
        give_up(
            f"Debian packages are missing ({', '.join(missing)}); run this first: "
            f"{debian.command_for_people(missing)}",
            EXIT_USAGE,
        )
    report(f"installing the Debian packages {' '.join(missing)}")
    for step in debian.commands(missing):
        _run(step, "could not install Debian packages")
