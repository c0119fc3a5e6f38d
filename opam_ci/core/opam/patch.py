"""Changes of files as patches, in the form that `git apply` and `patch -p1` take."""

import difflib
import re
from typing import Final

_LINES: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_NO_NEWLINE: Final = b"\n\\ No newline at end of file\n"


def patch(path: str, before: bytes, after: bytes) -> bytes:
    """Returns what turns one text of a file into another; empty if they are the same.

    Args:
        path: Of the file, below the repository.
        before: The text that the repository has.
        after: The text that it is to have.
    """
    lines = difflib.diff_bytes(
        difflib.unified_diff,
        _LINES.findall(before),
        _LINES.findall(after),
        f"a/{path}".encode(),
        f"b/{path}".encode(),
    )
    return b"".join(line if line.endswith(b"\n") else line + _NO_NEWLINE for line in lines)
