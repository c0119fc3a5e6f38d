"""Exit codes and signals that have one meaning."""

from enum import IntEnum


class OpamExit(IntEnum):
    """opam's own exit codes (opam 2.0 to 2.5, OpamStd.Sys.exit_codes)."""

    SUCCESS = 0
    FALSE = 1
    BAD_ARGUMENTS = 2
    NOT_FOUND = 5
    ABORTED = 10
    LOCKED = 15
    NO_SOLUTION = 20
    FILE_ERROR = 30
    PACKAGE_OPERATION_ERROR = 31
    SYNC_ERROR = 40
    CONFIGURATION_ERROR = 50
    SOLVER_FAILURE = 60
    INTERNAL_ERROR = 99
    USER_INTERRUPT = 130


SIGNALS = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS",
           8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}  # fmt: skip
"""Names of the signals that end processes, with Linux's numbers."""

SIGILL = 4
SIGKILL = 9

SENT_FROM_OUTSIDE = frozenset({1, 2, 3, 9, 15})
"""Signals that another process sends; a program does not cause them by its own mistakes."""

SHELL_SIGNAL_BASE = 128
"""A shell, and bubblewrap, report the death by signal n as exit code 128 + n."""


def signal_of(exit_code: int | None, signal: int | None) -> int | None:
    """Return the signal that ended a command, None if it exited by itself."""
    if signal is not None:
        return signal
    if exit_code is not None and exit_code - SHELL_SIGNAL_BASE in SIGNALS:
        return exit_code - SHELL_SIGNAL_BASE
    return None


def signal_name(number: int) -> str:
    """Return a signal's name, such as `SIGKILL`."""
    return SIGNALS.get(number, f"signal {number}")
