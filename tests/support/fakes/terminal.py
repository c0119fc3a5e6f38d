"""A pseudo terminal in the place of standard output."""

import contextlib
import os
import pty
import re
import termios
import threading
from collections.abc import Callable

HEIGHT = 50
"""Lines of the terminal."""


def in_terminal(columns: int, call: Callable[[], object]) -> str:
    """Returns what a call prints at a terminal, with escape codes.

    Args:
        columns: Of the terminal, as the kernel reports them.
        call: Prints to standard output.
    """
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (HEIGHT, columns))
    received: list[bytes] = []

    def read() -> None:
        # A read fails with EIO once no process has the terminal open.
        with contextlib.suppress(OSError):
            while data := os.read(primary, 65_536):
                received.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    # rich reads the size from these two, also if Python's streams are redirected.
    kept = {number: os.dup(number) for number in (0, 1)}
    try:
        for number in kept:
            os.dup2(secondary, number)
        with open(secondary, "w") as stream, contextlib.redirect_stdout(stream):  # noqa: PTH123 - no path
            call()
    finally:
        for number, saved in kept.items():
            os.dup2(saved, number)
            os.close(saved)
        reader.join()
        os.close(primary)
    return b"".join(received).decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    """Returns the text without colours and other codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
