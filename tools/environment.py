# ruff: noqa: INP001 - a folder of scripts, no package
"""Where the virtual environment is, what it was made from, and whether that still holds.

Imported on every start of `./opam-ci` before there is anything to import but the standard
library: it costs a few milliseconds and must stay so.
"""

import os
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".opam-ci.stamp"
"""Written last: the facts that a finished environment was made from, one a line."""

DEVELOPER_COMMANDS = {"test": "test.py", "lock": "lock.py"}
"""Commands for people who work on this project: scripts in tools/, no part of the product."""


def lock_files(command: str) -> tuple[Path, ...]:
    """Returns the lock files that a command's environment must have been made from."""
    names = ("main.txt", "dev.txt") if command in DEVELOPER_COMMANDS else ("main.txt",)
    return tuple(ROOT / "requirements" / name for name in names)


def place() -> frozenset[str]:
    """Returns the facts that no later installation can mend.

    The programs of an environment name the place where it was made, and its packages are
    for one release of Python: a moved clone or an upgraded system needs a new one.
    """
    return frozenset({f"root {ROOT}", f"python {os.path.realpath(PYTHON)}"})


def facts(command: str) -> frozenset[str]:
    """Returns all that must hold of the environment for a command."""
    return place() | {
        f"{lock.name} {sha256(lock.read_bytes()).hexdigest()}" for lock in lock_files(command)
    }


def stamped() -> frozenset[str]:
    """Returns the facts of the environment there is: none if it was never finished."""
    try:
        return frozenset(STAMP.read_text().splitlines())
    except FileNotFoundError:
        return frozenset()


def is_ready(command: str) -> bool:
    """Tells whether a command can start at once."""
    return facts(command) <= stamped() and os.access(PYTHON, os.X_OK)


def command_line(arguments: list[str]) -> list[str]:
    """Returns what `./opam-ci ARGUMENTS` becomes."""
    if arguments and arguments[0] in DEVELOPER_COMMANDS:
        script = ROOT / "tools" / DEVELOPER_COMMANDS[arguments[0]]
        return [str(PYTHON), str(script), *arguments[1:]]
    # -P: no file of the folder it is called from can stand in for a module.
    return [str(PYTHON), "-P", "-m", "opam_ci.cli.main", *arguments]
