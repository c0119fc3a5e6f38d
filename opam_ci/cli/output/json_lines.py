"""JSON lines in, JSON lines out: what all batch commands share.

Every line is hostile: one that cannot be used has an error that names its place, and the
others are read all the same.
"""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from opam_ci.core.errors import UsageError
from opam_ci.core.text.status import problems

LINE_LIMIT: Final = 64 << 20
"""Bytes of a line; a log of more than that is cut before it is put in a line."""

Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BatchLine(Generic[Request]):
    """A line that is not blank.

    Attributes:
        place: `FILE:LINE`.
        record: The whole JSON object; empty if the line is not one.
        request: What the command reads of it; None if that is invalid.
        error: Why it is, beginning with the place.
    """

    place: str
    record: dict[str, Any] = field(default_factory=dict)
    request: Request | None = None
    error: str | None = None

    def result(self, keys: frozenset[str], **values: object) -> dict[str, Any]:
        """Returns the line with its result.

        Args:
            keys: All keys of results: they never come from the line itself.
            values: The result.
        """
        return {key: value for key, value in self.record.items() if key not in keys} | values


def read_lines(
    file: str, model: type[Request], *, limit: int = LINE_LIMIT
) -> Iterator[BatchLine[Request]]:
    """Reads a file line by line.

    Args:
        file: Its path, possibly compressed with gzip; `-` for standard input.
        model: What the command reads of a line.
        limit: Bytes of a line, above which it is invalid.

    Raises:
        UsageError: The file cannot be read.
    """
    shown = "<stdin>" if file == "-" else file
    try:
        with _open(file) as stream:
            number = 0
            while raw := stream.readline(limit + 1):
                number += 1
                place = f"{shown}:{number}"
                if len(raw) > limit:
                    _skip_line(stream)
                    yield BatchLine(place, error=f"{place}: longer than {limit >> 20} MiB")
                elif raw.strip():
                    yield _parsed(place, raw, model)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{shown} cannot be read: {reason}") from error


def print_line(record: dict[str, Any]) -> None:
    """Prints a line at once: the reader may wait for it."""
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def _parsed(place: str, raw: bytes, model: type[Request]) -> BatchLine[Request]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return BatchLine(place, error=f"{place}: not JSON: {error}")
    if not isinstance(record, dict):
        return BatchLine(place, error=f"{place}: not a JSON object")
    try:
        return BatchLine(place, record, model.model_validate(record))
    except ValidationError as error:
        return BatchLine(place, record, error=f"{place}: {problems(error)}")


def _skip_line(stream: BufferedIOBase | IO[bytes]) -> None:
    """Reads to the end of a line that is too long."""
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _open(file: str) -> BufferedIOBase | IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    with path.open("rb") as start:
        compressed = path.suffix == ".gz" or start.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")
