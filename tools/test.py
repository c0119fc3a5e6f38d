# ruff: noqa: INP001 - a folder of scripts, not a package
"""All gates of the project: `./opam-ci test`, or `./opam-ci test PYTEST-ARGUMENTS…`.

Every gate runs even if an earlier one failed. Without arguments the whole suite runs with
coverage; with arguments, pytest gets these, without coverage. The last line of the output is
pytest's.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from opam_ci.cli.local import system
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent

STATIC_GATES = {
    "format": ("ruff", "format", "--check", ".", "opam-ci"),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "imports": ("lint-imports",),
}
"""Name and command of each gate that runs no test."""

WHOLE_SUITE = ("-n", "3", "--dist", "loadgroup", "--cov", "--cov-report=term")

NO_TESTS_RAN = 5
"""pytest's exit code for a run without a single test."""

EXIT_USAGE = 2
EXIT_INTERNAL = 3

_CLOSING_LINE = re.compile(r"^=* ?\d+ \w+.* in [\d.]+s.*$")


def main(arguments: list[str]) -> int:
    """Runs all gates and returns 0 if every one passed, else 1."""
    try:
        system.install(_print)
    except UsageError as error:
        _print(f"opam-ci: {error}")
        return EXIT_USAGE
    except InfrastructureError as error:
        _print(f"opam-ci: {error}")
        return EXIT_INTERNAL
    results = {name: _run_static(name, command) for name, command in STATIC_GATES.items()}
    started = time.monotonic()
    code, closing_line = _run_pytest(arguments)
    results["tests"] = code, time.monotonic() - started
    _print("")
    for name, (result, seconds) in results.items():
        _print(f"{'passed' if result == 0 else 'FAILED':<7} {name:<8} {seconds:6.1f} s")
    if code == NO_TESTS_RAN:
        _print("no test ran: the arguments select none")
    _print(closing_line)
    return int(any(result for result, _ in results.values()))


def _run_static(name: str, command: tuple[str, ...]) -> tuple[int, float]:
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603 - the fixed commands above
        [str(PROGRAMS / command[0]), *command[1:]],
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    _print(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'} ({' '.join(command)})")
    if done.returncode != 0:
        _print(done.stdout)
    return done.returncode, seconds


def _run_pytest(arguments: list[str]) -> tuple[int, str]:
    """Runs pytest, prints its output at once, and returns its exit code and last line."""
    command = [str(PROGRAMS / "python"), "-m", "pytest", *(arguments or WHOLE_SUITE)]
    if not arguments:
        # Files of a killed run would be added to this coverage.
        for left in ROOT.glob(".coverage*"):
            left.unlink()
    _print(f"tests: {' '.join(command[2:])}")
    kept = bytearray()
    with subprocess.Popen(  # noqa: S603 - our own Python, no shell
        command,
        cwd=ROOT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as pytest:
        assert pytest.stdout is not None  # noqa: S101 - for mypy: it is a pipe
        while chunk := os.read(pytest.stdout.fileno(), 65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            kept += chunk
    lines = kept.decode(errors="replace").splitlines()
    closing = [line for line in lines if _CLOSING_LINE.match(line)]
    return pytest.returncode, closing[-1] if closing else "pytest did not finish"


def _environment() -> dict[str, str]:
    found = {
        **os.environ,
        # Tests use the programs of this environment, such as `temporal`, before any other.
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    # Tests start a thousand processes, and each would compile all modules for itself.
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
