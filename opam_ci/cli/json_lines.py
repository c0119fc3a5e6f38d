"""JSON lines from a file or standard input: what all batch commands read.

Every line is hostile: one that cannot be used has a fault that names its place, and the
others are read all the same.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, Final

from opam_ci.core.errors import UsageError

LINE_LIMIT: Final = 64 << 20
"""Bytes of a line; a log of more than that is cut before it is put in a line."""


@dataclass(frozen=True, slots=True)
class JsonLine:
    """A line that is not blank.

    Attributes:
        place: `FILE:LINE`.
        record: All that it says; empty if it has a fault.
        fault: Why it says nothing, beginning with its place.
    """

    place: str
    record: dict[str, Any]
    fault: str | None = None


def read_lines(file: str, *, stdin: str = "<stdin>", limit: int = LINE_LIMIT) -> Iterator[JsonLine]:
    """Reads a file line by line.

    Args:
        file: Its path, possibly compressed with gzip; `-` for standard input.
        stdin: What standard input is called in places.
        limit: Bytes of a line, above which it has a fault.

    Raises:
        UsageError: The file cannot be read.
    """
    shown = stdin if file == "-" else file
    try:
        with _open(file) as stream:
            number = 0
            while raw := stream.readline(limit + 1):
                number += 1
                place = f"{shown}:{number}"
                if len(raw) > limit:
                    _skip_line(stream)
                    yield JsonLine(place, {}, f"{place}: longer than {limit >> 20} MiB")
                elif raw.strip():
                    yield _parsed(place, raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{shown} cannot be read: {reason}") from error


def _parsed(place: str, raw: bytes) -> JsonLine:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return JsonLine(place, {}, f"{place}: no JSON: {error}")
    if not isinstance(record, dict):
        return JsonLine(place, {}, f"{place}: no JSON object")
    return JsonLine(place, record)


def _skip_line(stream: BufferedIOBase | IO[bytes]) -> None:
    """Reads to the end of a line that is too long."""
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _open(file: str) -> BufferedIOBase | IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    with path.open("rb") as start:
        zipped = path.suffix == ".gz" or start.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")
