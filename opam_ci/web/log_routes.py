"""Logs over HTTP: lines, search, raw bytes, and what is added, as it is.

The routes know no pages: a `Resolve` names the log that a request is about. Anything that cannot be
given is a status code and a sentence, as JSON (RFC 9457).
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from opam_ci.clients.judge.judged import judged_of
from opam_ci.clients.logs.format import DamagedLogError, notice
from opam_ci.clients.logs.tail import LaggingError, LogTail
from opam_ci.clients.logs.view import BusyError, LogView, LogViews
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import label
from opam_ci.core.logs.line_json import LineJson, line_json
from opam_ci.core.text import log as texts

LINES, MOST_LINES = 500, 2000
"""Lines in an answer: by default, and at most."""
LONGEST_QUERY = 200
"""Characters of a text that is searched."""
_LARGEST = 10**13
_KEEP_ALIVE = timedelta(seconds=15)
_SEND_TIMEOUT = timedelta(seconds=30)
"""For a client to take an event: then it is dropped, and goes on from its last one."""
_RECONNECTION_MS = 1000
_EVENT_LINES = 500
_RANGE = re.compile(r"bytes=(\d{0,14})-(\d{0,14})")

_HEADERS: Final = {"x-content-type-options": "nosniff"}
_CHANGING: Final = {**_HEADERS, "cache-control": "no-store"}
_FIXED: Final = {**_HEADERS, "cache-control": "public, max-age=31536000, immutable"}


class LogPlace(NamedTuple):
    """The log that a request is about.

    Attributes:
        key: Its key in the store, None if nothing is known to be stored.
        is_over: Whether its attempt has ended.
        is_fixed: Whether the URL will always mean this attempt: then answers can be cached for
            good once the log is closed. That of "the last attempt" will not.
        verdict: How the attempt ended, such as `failed(build)`; empty while it runs.
    """

    key: str | None
    is_over: bool
    is_fixed: bool
    verdict: str = ""


class LogRefusalError(Exception):
    """A request gets this response.

    Attributes:
        status: Its status code.
        sentence: What is wrong, then what to do.
        headers: Further ones.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers or {}


Resolve = Callable[[Request], Awaitable[LogPlace]]
"""Names the log of a request; raises LogRefusalError where there is none, such as 404."""


def log_routes(views: LogViews, resolve: Resolve, prefix: str) -> list[Route]:
    """Returns the routes of logs.

    Args:
        views: The logs.
        resolve: Names the log of a request.
        prefix: Path of a log, such as `/{owner}/{repo}/pull/{number}/job/{job}/log`.
    """
    logs = _Logs(views, resolve)
    handlers = {
        "lines": logs.lines,
        "search": logs.search,
        "raw": logs.raw,
        "events": logs.events,
    }
    return [
        Route(f"{prefix}/{name}", _answering(handler), methods=["GET"])
        for name, handler in handlers.items()
    ]


class _Logs:
    """Answers requests about logs."""

    def __init__(self, views: LogViews, resolve: Resolve) -> None:
        self._views = views
        self._resolve = resolve

    async def lines(self, request: Request) -> Response:
        """Answers with lines from a number on, or around a byte."""
        count = _number(request, "count", LINES, least=1, most=MOST_LINES)
        first = _number(request, "from", 1, least=1)
        offset = _number(request, "offset", -1, least=0)
        place, view = await self._view(request)
        if offset >= 0:
            if offset >= max(view.size, 1):
                raise LogRefusalError(404, texts.no_such_offset(offset, view.size))
            first = max(await view.line_at(offset) - count // 2, 1)
        if first > max(view.line_count + (view.closed is None), 1):
            raise LogRefusalError(404, texts.no_such_line(first, view.line_count))
        found = await view.lines(first, count)
        last = found[-1] if found else None
        more = last is not None and last.number < view.line_count
        body = {
            "lines": [line_json(line) for line in found],
            "next": last.number + 1 if last is not None and more else None,
            "total": view.line_count,
            "size": view.size,
            "closed": view.closed is not None,
            # From here on `events` has what follows.
            "events_from": (last.end if last.is_complete else last.offset) if last else 0,
        }
        return JSONResponse(body, headers=_cached(place, view))

    async def search(self, request: Request) -> Response:
        """Answers with the lines that have a text."""
        wanted = request.query_params.get("q", "")
        if not 1 <= len(wanted) <= LONGEST_QUERY or "\n" in wanted or "\r" in wanted:
            raise LogRefusalError(400, texts.not_searchable(LONGEST_QUERY))
        first = _number(request, "from", 1, least=1)
        place, view = await self._view(request)
        try:
            found = await view.search(wanted, first)
        except BusyError as error:
            raise LogRefusalError(503, texts.BUSY, {"retry-after": "2"}) from error
        body = {
            "hits": [each._asdict() for each in found.hits],
            "more": found.next_line is not None,
            "next": found.next_line,
        }
        # What ran out of time may find more at another one.
        headers = _CHANGING if found.next_line is not None else _cached(place, view)
        return JSONResponse(body, headers=headers)

    async def raw(self, request: Request) -> Response:
        """Answers with the bytes of the log, or with a range of them."""
        start = _number(request, "start", 0, least=0)
        end = _number(request, "end", -1, least=0)
        place, view = await self._view(request)
        headers = dict(_cached(place, view), **{"accept-ranges": "bytes"})
        wanted = _RANGE.fullmatch(request.headers.get("range", ""))
        if wanted is None or wanted.group() == "bytes=-":
            part = _raw(view, start, view.size if end < 0 else min(end, view.size))
            return StreamingResponse(part, media_type="text/plain", headers=headers)
        first, after = _bounds(wanted, view.size)
        if first >= after or await _is_cut(view, first, after):
            sentence = texts.not_a_range(wanted.group(), view.size)
            raise LogRefusalError(416, sentence, {"content-range": f"bytes */{view.size}"})
        headers["content-range"] = f"bytes {first}-{after - 1}/{view.size}"
        headers["content-length"] = str(after - first)
        part = _raw(view, first, after)
        return StreamingResponse(part, 206, media_type="text/plain", headers=headers)

    async def events(self, request: Request) -> Response:
        """Answers with what is added to the log, until it ends."""
        last = request.headers.get("last-event-id", "")
        if last and not re.fullmatch(r"\d{1,14}", last):
            raise LogRefusalError(400, texts.not_a_number("Last-Event-ID", last, 0, _LARGEST))
        position = int(last) if last else _number(request, "offset", 0, least=0)
        place, view = await self._view(request)
        if position > view.size:
            raise LogRefusalError(404, texts.no_such_offset(position, view.size))
        events = self._events(request, place, view, position)
        return EventStream(events)

    async def _view(self, request: Request) -> tuple[LogPlace, LogView]:
        place = await self._resolve(request)
        if place.key is None:
            raise _nothing(place)
        view = await self._views.view(place.key, is_over=_known(place))
        if not view.size and view.closed is None:
            raise _nothing(place)
        return place, view

    async def _events(
        self, request: Request, place: LogPlace, view: LogView, position: int
    ) -> AsyncGenerator[str, None]:
        async def is_over() -> bool:
            try:
                return (await self._resolve(request)).is_over
            except LogRefusalError:
                return True

        yield f"retry: {_RECONNECTION_MS}\n\n"
        if view.closed is not None:
            async with aclosing(_stored(view, position, view.size)) as events:
                async for event in events:
                    yield event
        else:
            async with self._views.tails.tail(view.key, follows=True, is_over=is_over) as tail:
                try:
                    async with aclosing(self._live(tail, position)) as events:
                        async for event in events:
                            yield event
                except (LaggingError, InfrastructureError):
                    return  # the client connects again, and goes on from its last event
            view = await self._views.view(view.key, is_over=is_over)
        yield await self._end(request, place, view)

    async def _live(self, tail: LogTail, position: int) -> AsyncGenerator[str, None]:
        await tail.ready()
        while position < tail.lines_from:
            until = tail.lines_from
            view = await self._views.view(tail.key)
            async with aclosing(_stored(view, position, until)) as events:
                async for event in events:
                    yield event
            position = until
        at = tail.place_after(position)
        while True:
            try:
                batch = await asyncio.wait_for(tail.batch(at), _KEEP_ALIVE.total_seconds())
            except TimeoutError:
                yield ": still running\n\n"
                continue
            if batch is None:
                return
            if batch.cutter.line_offset >= position:
                yield _event(batch.json(), batch.next_line)
            else:
                lines = [line_json(line) for line in batch.lines() if line.end > position]
                yield _event(json.dumps(lines), batch.next_line)
            at += 1

    async def _end(self, request: Request, place: LogPlace, view: LogView) -> str:
        verdict = ""
        with suppress(InfrastructureError):
            judged = judged_of(view.closed, view.key)
            verdict = label(judged.outcome) if judged is not None else ""
        if not verdict:
            try:
                verdict = (await self._resolve(request)).verdict
            except (LogRefusalError, InfrastructureError):
                verdict = place.verdict
        body = {
            "verdict": verdict,
            "closed": view.closed is not None,
            "total": view.line_count,
            "size": view.size,
        }
        return f"event: end\nid: {view.size}\ndata: {json.dumps(body)}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events; a client that does not take them is dropped."""

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_CHANGING)
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Called by starlette."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                body = {"type": "http.response.body", "body": event.encode(), "more_body": True}
                try:
                    async with asyncio.timeout(_SEND_TIMEOUT.total_seconds()):
                        await send(body)
                except TimeoutError:
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _answering(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Returns a handler whose errors are responses."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except LogRefusalError as error:
            return problem(error.status, error.sentence, error.headers)
        except DamagedLogError:
            return problem(502, texts.DAMAGED)
        except InfrastructureError:
            return problem(503, texts.STORE_AWAY, {"retry-after": "60"})

    return answer


def problem(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a response that says what is wrong, then what to do."""
    return JSONResponse(
        {"title": HTTPStatus(status).phrase, "status": status, "detail": sentence},
        status,
        headers={**_CHANGING, **(headers or {})},
        media_type="application/problem+json",
    )


def _nothing(place: LogPlace) -> LogRefusalError:
    if place.is_over:
        return LogRefusalError(410, texts.GONE)
    return LogRefusalError(404, texts.NOT_STORED, {"retry-after": "2"})


def _known(place: LogPlace) -> Callable[[], Awaitable[bool]]:
    async def is_over() -> bool:
        return place.is_over

    return is_over


def _cached(place: LogPlace, view: LogView) -> Mapping[str, str]:
    return _FIXED if place.is_fixed and view.closed is not None else _CHANGING


def _number(request: Request, name: str, default: int, *, least: int, most: int = _LARGEST) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if re.fullmatch(r"\d{1,14}", text, re.ASCII) and least <= int(text) <= most:
        return int(text)
    raise LogRefusalError(400, texts.not_a_number(name, text, least, most))


def _bounds(wanted: re.Match[str], size: int) -> tuple[int, int]:
    first, last = wanted.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


async def _is_cut(view: LogView, start: int, end: int) -> bool:
    """Whether bytes of a range were cut."""
    if view.closed is not None and not view.closed.cut:
        return False
    position = start
    async with aclosing(view.slices(start, end)) as slices:
        async for chunk in slices:
            if chunk.offset > position:
                return True
            position = chunk.offset + len(chunk.data)
    return position < end


async def _raw(view: LogView, start: int, end: int) -> AsyncGenerator[bytes, None]:
    position = start
    async with aclosing(view.slices(start, end)) as slices:
        async for chunk in slices:
            yield notice(chunk.offset - position) + chunk.data
            position = chunk.offset + len(chunk.data)
    yield notice(end - position)


async def _stored(view: LogView, position: int, end: int) -> AsyncGenerator[str, None]:
    """Yields events of the complete lines between two offsets; of a closed log, of all lines."""
    waiting: list[LineJson] = []
    async with aclosing(view.batches(view.index.at_offset(position))) as batches:
        async for batch in batches:
            for line in batch:
                if line.end > end or not (line.is_complete or view.closed):
                    break
                if line.end > position:
                    waiting.append(line_json(line))
                    position = line.end
                if len(waiting) == _EVENT_LINES:
                    yield _event(json.dumps(waiting), position)
                    waiting = []
    if waiting:
        yield _event(json.dumps(waiting), position)


def _event(lines: str, position: int) -> str:
    return f'event: lines\nid: {position}\ndata: {{"lines": {lines}}}\n\n'
