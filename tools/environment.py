# ruff: noqa: INP001 - a folder of scripts, not a package
"""Where the virtual environment is, what it was made from, and whether it is current.

Imported at every start of `./opam-ci`, when only the standard library exists: this takes a few
milliseconds and must not take more.
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
"""Commands for developers of this project: scripts in tools/, not part of the product."""


def lock_files(command: str) -> tuple[Path, ...]:
    """Returns the lock files from which a command's environment must have been made."""
    names = ("main.txt", "dev.txt") if command in DEVELOPER_COMMANDS else ("main.txt",)
    return tuple(ROOT / "requirements" / name for name in names)


def location() -> frozenset[str]:
    """Returns the facts that no later installation can change.

    The programs of an environment contain the path where it was made, and its packages are
    for one release of Python: a moved clone or an upgraded system needs a new environment.
    """
    return frozenset({f"root {ROOT}", f"python {os.path.realpath(PYTHON)}"})


def facts(command: str) -> frozenset[str]:
    """Returns the facts that the environment must have for a command."""
    return location() | {
        f"{lock.name} {sha256(lock.read_bytes()).hexdigest()}" for lock in lock_files(command)
    }


def stamped() -> frozenset[str]:
    """Returns the facts of the existing environment: none if it is incomplete."""
    try:
        return frozenset(STAMP.read_text().splitlines())
    except FileNotFoundError:
        return frozenset()


def is_ready(command: str) -> bool:
    """Returns whether a command can be executed at once."""
    return facts(command) <= stamped() and os.access(PYTHON, os.X_OK)


def command_line(arguments: list[str]) -> list[str]:
    """Returns the command that `./opam-ci ARGUMENTS` executes."""
    if arguments and arguments[0] in DEVELOPER_COMMANDS:
        script = ROOT / "tools" / DEVELOPER_COMMANDS[arguments[0]]
        return [str(PYTHON), str(script), *arguments[1:]]
    # -P: no file of the current folder can shadow a module.
    return [str(PYTHON), "-P", "-m", "opam_ci.cli.main", *arguments]
