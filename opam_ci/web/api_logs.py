"""The operations of the JSON API with logs: the routes of `log_routes.py`, described."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from opam_ci.core.model import Frozen
from opam_ci.web.heads import HEADS, HeadPath
from opam_ci.web.job_logs import JobLogs
from opam_ci.web.log_routes import LONGEST_QUERY, MOST_LINES
from opam_ci.web.operation import Call, Handle, Operation

_LARGEST = 10**13


class AttemptName(Frozen):
    """Which attempt of a job.

    Attributes:
        attempt: `ROUND-NUMBER`, such as `1-2`; none for the last one that has a log, or runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    attempt: str | None = Field(default=None, pattern=r"^[0-9]{1,6}-[0-9]{1,6}$")


class _Place(AttemptName):
    """Which log of a job.

    Attributes:
        log: As pages have it: names the very log, so that an answer can be kept for good.
    """

    log: str | None = Field(default=None, max_length=20)


class LinesQuery(_Place):
    """Which lines of a log.

    Attributes:
        first: Number of the first one, from 1.
        count: Lines at most; fewer come where they are long.
        offset: In place of `from`: lines around this byte.
    """

    first: int = Field(default=1, ge=1, le=_LARGEST, alias="from")
    count: int = Field(default=500, ge=1, le=MOST_LINES)
    offset: int | None = Field(default=None, ge=0, le=_LARGEST)


class SearchQuery(_Place):
    """What is searched in a log.

    Attributes:
        q: A text of one line, literally.
        first: Number of the line to begin with: `next` of the answer before.
    """

    q: str = Field(min_length=1, max_length=LONGEST_QUERY)
    first: int = Field(default=1, ge=1, le=_LARGEST, alias="from")


class RawQuery(_Place):
    """Which bytes of a log; a `Range` goes before it.

    Attributes:
        start: Offset of the first byte.
        end: Offset behind the last one; none for the end of the log.
    """

    start: int = Field(default=0, ge=0, le=_LARGEST)
    end: int | None = Field(default=None, ge=0, le=_LARGEST)


class EventsQuery(_Place):
    """Where to begin; `Last-Event-ID` goes before it.

    Attributes:
        offset: Byte offset of the first line: `events_from` of lines read before.
    """

    offset: int = Field(default=0, ge=0, le=_LARGEST)


class LogLine(BaseModel):
    """A line of a log.

    Attributes:
        number: From 1.
        offset: Byte offset at which it begins: what identifies it.
        spans: Pieces of text, each with its classes if it has any.
        cut: First and last offset (excluded) of a line that is too long to be shown whole.
        partial: The line has not ended and may be sent again.
        notice: The line is the CI's own, in place of bytes that were cut.
    """

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    number: int
    offset: int
    spans: list[list[str]]
    cut: list[int] = []
    partial: bool = False
    notice: bool = False


class LogLines(BaseModel):
    """Lines of a log.

    Attributes:
        lines: The lines.
        next: Number of the next line, null at the end.
        total: Lines that the log has.
        size: Its bytes.
        closed: Whether nothing is added any more.
        events_from: From here on `events` has what follows.
    """

    lines: list[LogLine]
    next: int | None
    total: int
    size: int
    closed: bool
    events_from: int


class LogHit(BaseModel):
    """A line that has the text.

    Attributes:
        number: Its number, from 1.
        offset: Its byte offset.
        text: What is around the first place.
    """

    number: int
    offset: int
    text: str


class LogHits(BaseModel):
    """What a search found.

    Attributes:
        hits: Lines, in order.
        more: Whether it has stopped before the end of the log.
        next: Number of the line to go on with, null at the end.
    """

    hits: list[LogHit]
    more: bool
    next: int | None


_PROBLEMS = {
    410: "The log is not stored any more, or was never written.",
    502: "The stored log is damaged.",
}


def log_operations(logs: JobLogs) -> list[Operation]:
    """Returns the operations with logs of all jobs."""
    return [
        operation
        for head, _, job in HEADS
        for operation in _of_job(f"{head}/job/{{job}}", job, logs)
    ]


def _of_job(job: str, path_model: type[HeadPath], logs: JobLogs) -> list[Operation]:
    prefix = f"{job}/log"
    found = {
        route.path.removeprefix(f"{prefix}/"): _handle(route.endpoint) for route in logs.routes(job)
    }
    common: dict[Literal["path_model", "problems"], Any] = {
        "path_model": path_model, "problems": _PROBLEMS,
    }  # fmt: skip
    return [
        Operation(
            "GET", f"{prefix}/lines", "Lines of a log", found["lines"], LogLines,
            query_model=LinesQuery, **common,
        ),
        Operation(
            "GET", f"{prefix}/search", "Lines of a log that have a text", found["search"],
            LogHits, query_model=SearchQuery, **common,
        ),
        Operation(
            "GET", f"{prefix}/raw", "Bytes of a log", found["raw"], media_type="text/plain",
            query_model=RawQuery, more={206: "The bytes of a `Range`."},
            **(common | {"problems": _PROBLEMS | {416: "The log has no such bytes."}}),
        ),
        Operation(
            "GET", f"{prefix}/events", "What is added to a log, as server-sent events",
            found["events"], media_type="text/event-stream", query_model=EventsQuery, **common,
        ),
    ]  # fmt: skip


def _handle(endpoint: Callable[[Request], Awaitable[Response]]) -> Handle:
    async def handle(call: Call) -> Response:
        return await endpoint(call.request)

    return handle
