# ruff: noqa: INP001 - a folder of scripts, not a package
"""Writes the lock files in requirements/ from pyproject.toml: `./opam-ci lock [--upgrade]`.

Versions that still satisfy pyproject.toml are kept; `--upgrade` takes the newest ones that
do. The files have every wheel's hash for every Python from 3.11 on and all architectures,
and no index address: pip uses the index that the machine is configured for.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"

HEADER = "# Written by `./opam-ci lock` from pyproject.toml; do not edit.\n"

LOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("main.txt", ("pyproject.toml",)),
    # The development set includes the main set at the same versions, so that one pip call on
    # one file installs the whole environment.
    ("dev.txt", ("pyproject.toml", "--group", "dev", "--constraints", "requirements/main.txt")),
    ("lock.txt", ("requirements/lock.in",)),
)
"""Each lock file with uv's arguments for its sources, in the order of dependence."""


def main(arguments: list[str]) -> int:
    """Compiles all lock files.

    Args:
        arguments: `--upgrade` or nothing.

    Returns:
        Exit code: 0, or uv's or pip's own.
    """
    if set(arguments) - {"--upgrade"}:
        sys.stderr.write("usage: ./opam-ci lock [--upgrade]\n")
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        # uv is pinned and hashed too, and only needed here.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        code = _run([*pip, "--target", scratch, "-r", str(REQUIREMENTS / "lock.txt")])
        uv = Path(scratch) / "bin" / "uv"
        for name, source in LOCKS:
            code = code or _compile(uv, name, source, arguments)
        return code


def _compile(uv: Path, name: str, source: tuple[str, ...], arguments: list[str]) -> int:
    target = REQUIREMENTS / name
    code = _run(
        [
            *(str(uv), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-header", "--no-emit-index-url"),
            *source,
            *arguments,
            *("--output-file", str(target)),
        ]
    )
    if code == 0:
        text = target.read_text().removeprefix(HEADER)
        target.write_text(HEADER + text)
    return code


def _run(command: list[str]) -> int:
    # An active virtual environment must not influence the lock.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode  # noqa: S603 - fixed arguments


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
