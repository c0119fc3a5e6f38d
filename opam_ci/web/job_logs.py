"""Logs of jobs on pages: which one a request is about, and what is shown of it without scripts."""

import hashlib
import re
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.routing import Route

from opam_ci.clients.index import AttemptFilter, Index, JobFilter, Place, RevisionFilter
from opam_ci.clients.logs.find import find_log
from opam_ci.clients.logs.format import DamagedLogError
from opam_ci.clients.logs.tail import IsOver
from opam_ci.clients.logs.view import LogView
from opam_ci.clients.runners.job import reproduction
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import label
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.logs.lines import RawLine
from opam_ci.core.logs.spans import Span, shown_text, spans
from opam_ci.core.text import log as texts
from opam_ci.web.addresses import requested_job
from opam_ci.web.head_pages import find
from opam_ci.web.log_routes import LogPlace, LogRefusalError, log_routes
from opam_ci.web.problems import PageError
from opam_ci.web.site import Site

_ATTEMPT = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
_LAST_LINES = 300
_AROUND = 20
_SHOWN_LINE = 2000
"""Bytes of a line that a page shows itself; the whole line is in the log as it is."""
_SHOWN_BYTES = 50_000
_MORE = Span(" …", "hidden")
_SCRIPT_LINES = 400
"""Lines of a log in which the script that reproduces the job is looked for."""


class ShownLine(NamedTuple):
    """A line of a log in a template.

    Attributes:
        number: From 1.
        spans: What is shown.
    """

    number: int
    spans: tuple[Span, ...]


class Excerpts(NamedTuple):
    """What a page shows of a log itself, for those who have no scripts.

    Attributes:
        evidence: Lines around the evidence; none if there is none.
        evidence_number: Number of the line of the evidence.
        last: The last lines.
        reproduction: The script at the head of the log; empty if there is none.
        problem: Why there is nothing, empty if there is something.
    """

    evidence: tuple[ShownLine, ...] = ()
    evidence_number: int | None = None
    last: tuple[ShownLine, ...] = ()
    reproduction: str = ""
    problem: str = ""


class JobLogs:
    """The logs of jobs."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._views = site.sources.views

    def routes(self, job: str) -> list[Route]:
        """Returns the routes of the log of a job.

        Args:
            job: Path of the job's page.
        """
        return log_routes(self._views, self._resolve, f"{job}/log")

    async def excerpts(self, attempt: AttemptRecord | None, offset: int | None) -> Excerpts:
        """Returns what a page shows of a log.

        Args:
            attempt: The attempt, None if there is none.
            offset: Of the evidence, None if there is none.
        """
        try:
            key = await find_log(self._site.sources.store, attempt) if attempt else None
            if attempt is None or key is None:
                return Excerpts(problem="No log is known of this job.")
            view = await self._views.view(key, is_over=_known(attempt))
            if not view.size:
                is_over = attempt.ended_at is not None
                return Excerpts(problem=_sentence(texts.GONE if is_over else texts.NOT_STORED))
            return await _excerpts(view, offset)
        except DamagedLogError:
            return Excerpts(problem=_sentence(texts.DAMAGED))
        except InfrastructureError:
            return Excerpts(problem=_sentence(texts.STORE_AWAY))

    async def _resolve(self, request: Request) -> LogPlace:
        try:
            attempt = await self._attempt(request)
        except PageError as error:
            raise LogRefusalError(error.status, str(error)) from error
        except UsageError as error:
            raise LogRefusalError(400, str(error)) from error
        if attempt is None:
            raise LogRefusalError(404, "no such attempt: see the page of the job")
        named = request.query_params.get("log")
        is_fixed = attempt.log_key is not None and named == digest(attempt.log_key)
        verdict = label(attempt.outcome) if attempt.outcome is not None else ""
        key = await find_log(self._site.sources.store, attempt)
        return LogPlace(key, attempt.ended_at is not None, is_fixed, verdict)

    async def _attempt(self, request: Request) -> AttemptRecord | None:
        key, name = await find(self._site, request), requested_job(request)
        ask = self._site.sources.ask
        of = RevisionFilter(revision=key)
        jobs = await ask(Index.jobs, JobFilter(of=of, name=name), place=Place(limit=1))
        if not jobs.items:
            return None
        job = jobs.items[0].status.job
        found = await ask(Index.attempts, AttemptFilter(of=of, job=job))
        return chosen(found.items, request.query_params.get("attempt"))


def chosen(attempts: tuple[AttemptRecord, ...], name: str | None) -> AttemptRecord | None:
    """Returns the attempt whose log is shown.

    Args:
        attempts: Of a job, the newest first.
        name: Its round and number, such as `1-2`; None for the newest that has a log, or runs: the
            index has the key of its log only once it has ended.
    """
    if name is None:
        return next((each for each in attempts if each.log_key or not each.ended_at), None)
    parts = _ATTEMPT.fullmatch(name)
    wanted = parts and (int(parts[1]), int(parts[2]))
    return next((each for each in attempts if (each.round, each.number) == wanted), None)


def query_of(attempt: AttemptRecord) -> str:
    """Returns the query that names an attempt and its log, which never means another one."""
    name = f"{attempt.round}-{attempt.number}"
    return urlencode({"attempt": name, "log": digest(attempt.log_key)})


def digest(log_key: str | None) -> str:
    """Returns what tells logs of one path apart, such as those of two testings of one commit."""
    return hashlib.sha256((log_key or "").encode()).hexdigest()[:12]


async def _excerpts(view: LogView, offset: int | None) -> Excerpts:
    evidence: list[RawLine] = []
    number = None
    if offset is not None and offset < view.size:
        number = await view.line_at(offset)
        evidence = await view.excerpt(offset, before=_AROUND, after=_AROUND)
    return Excerpts(
        evidence=_shown(evidence),
        evidence_number=number,
        last=_shown(await view.last_lines(_LAST_LINES)),
        reproduction=_script(await view.lines(1, _SCRIPT_LINES)),
    )


def _script(lines: list[RawLine]) -> str:
    """Returns the script at the head of a log; see `clients/runners/job/reproduction.py`."""
    found = [shown_text(line) for line in lines]
    starts = [at for at, text in enumerate(found) if text.startswith(reproduction.HEAD)]
    if not starts or "" not in found[starts[0] :]:
        return ""
    begin = found.index("", starts[0]) + 1
    if "" not in found[begin:]:
        return ""
    return "\n".join(found[begin : found.index("", begin)])


def _shown(lines: list[RawLine]) -> tuple[ShownLine, ...]:
    """Returns lines for a template; of many long ones the last that fit on a page."""
    found: list[ShownLine] = []
    left = _SHOWN_BYTES
    for line in reversed(lines):
        data = line.data[:_SHOWN_LINE]
        left -= len(data)
        if left < 0:
            break
        shown = spans(data, line.sgr)
        found.append(ShownLine(line.number, (*shown, _MORE) if data != line.data else shown))
    return tuple(reversed(found))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _known(attempt: AttemptRecord) -> IsOver:
    async def is_over() -> bool:
        return attempt.ended_at is not None

    return is_over
