"""The layout of a log in the store.

A log is stored as `KEY/OFFSET.gz`, where OFFSET is that of the segment's first byte in the
original output, and `KEY/end.json`, written when the log is closed, which also holds the
last piece of it: a job that prints little costs a single object. After that, segments are
merged: the first one of each piece is replaced by the piece, `KEY/lines.gz` is the index of
lines, and the others are deleted. Beside them, `KEY/watched` is the mark of a log that
somebody follows (`watch.py`).
"""

import base64
import binascii
import gzip
import re
import zlib
from typing import NamedTuple

from pydantic import AwareDatetime

from opam_ci.clients.threads import STORE
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_GZIP_LEVEL = 4
"""Half the time of the default level on real build logs, for 5 % more bytes."""
_THREAD_BYTES = 32 * 1024
"""Below this, compressing takes less time than handing it to a thread."""
SEGMENT_NAME = re.compile(r"(\d{12,})\.gz")
"""What follows `KEY/` in the key of a segment."""


class LogEnd(Frozen):
    """What is written when a log is closed.

    Attributes:
        size: Bytes of the original output.
        cut: How many of them were cut for length.
        closed_at: When.
        last_offset: Offset of the piece that is held here.
        last_gzip: That piece, compressed, in base 64; empty if there is none.
        note: A text of the writer, such as facts as JSON; empty for none.
    """

    size: int
    cut: int
    closed_at: AwareDatetime
    last_offset: int
    last_gzip: str
    note: str = ""


class Segment(NamedTuple):
    """A stored segment.

    Attributes:
        offset: Offset of its first byte in the original output.
        key: Its key in the store.
        size: Its bytes there, 0 if unknown.
    """

    offset: int
    key: str
    size: int

    def size_of(self) -> int:
        """Returns its bytes in the store."""
        return self.size


class LogChunk(NamedTuple):
    """A piece of a log.

    Attributes:
        offset: Where it begins in the original output.
        data: The output itself.
    """

    offset: int
    data: bytes


async def compressed(data: bytes) -> bytes:
    """Compresses a piece of a log, on a thread if that takes a while."""
    if len(data) < _THREAD_BYTES:
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)
    return await STORE.run(gzip.compress, data, _GZIP_LEVEL, mtime=0)


async def decompressed(data: bytes, key: str) -> bytes:
    """Undoes `compressed`; damaged data is an InfrastructureError that names the key."""
    try:
        if len(data) < _THREAD_BYTES:
            return gzip.decompress(data)
        return await STORE.run(gzip.decompress, data)
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(key, error) from error


async def inline(end: LogEnd, key: str) -> bytes:
    """Returns the piece of output that the end of a log holds."""
    try:
        return await decompressed(base64.b64decode(end.last_gzip, validate=True), key)
    except binascii.Error as error:
        raise damaged(key, error) from error


class DamagedLogError(InfrastructureError):
    """What the store has of a log is invalid."""


def damaged(key: str, error: Exception) -> DamagedLogError:
    """Makes the error for an object whose content is invalid."""
    text = str(error).partition("\n")[0]
    return DamagedLogError(f"{key} in the log store is damaged: {text}", cause=Cause.STORAGE)


def clip(offset: int, data: bytes, start: int, end: int | None) -> LogChunk | None:
    """Returns the part of a piece that lies between two offsets, None if there is none."""
    first = max(start - offset, 0)
    piece = data[first : None if end is None else max(end - offset, 0)]
    return LogChunk(offset + first, piece) if piece else None


def notice(count: int) -> bytes:
    """The line in place of output that was cut, empty if nothing was cut."""
    if count <= 0:
        return b""
    text = f"[opam-ci: {count} bytes of output cut here; a log keeps its beginning and its end]"
    return f"\n{text}\n".encode()


def segment_key(key: str, offset: int) -> str:
    """Names a segment; the zeros let a listing sort by offset, up to a terabyte."""
    return f"{key}/{offset:012}.gz"


def lines_key(key: str) -> str:
    """Names the index of the lines of a log."""
    return f"{key}/lines.gz"


def end_key(key: str) -> str:
    """Names the object that closes a log."""
    return f"{key}/end.json"
