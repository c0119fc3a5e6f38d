"""`opam-ci log`: the log of a job's attempt, also while it grows.

It needs no Temporal: the index has the jobs and their attempts, the store has the logs; or a server
has both.
"""

import asyncio
import codecs
import contextlib
import json
import sys
from asyncio import to_thread
from datetime import timedelta
from typing import Annotated

import typer

from opam_ci.app.settings import Settings
from opam_ci.cli.output.tables import note
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.job_search import JobSearch, attempts_of, choose_attempt, find_job
from opam_ci.cli.selection.logs import Logs, opened_logs
from opam_ci.cli.selection.lookup import find_testing, target_of
from opam_ci.cli.selection.server import opened_listings
from opam_ci.clients.index import Listings
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Reused, label, reused_of
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey
from opam_ci.core.jobs.summary import JobState
from opam_ci.core.printable import readable
from opam_ci.core.text.status import verdict, why

_POLL_INTERVAL = timedelta(seconds=2)
_END_GRACE = timedelta(seconds=5)
"""How long after its attempt a log may end: the end is uploaded last."""


def log(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    words: Annotated[
        list[str] | None, typer.Argument(help="Words of the job's id, such as `test cppo.1.8.0`.")
    ] = None,
    job: opt.Job = None,
    kind: opt.Kind = None,
    platform: opt.Platform = None,
    revdep: opt.Revdep = None,
    head: opt.OldHead = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="Of this round: a restart begins another one.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(help="Of this attempt; default: the last one.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added until the attempt ends.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Prints the log of the one job whose id has all these words, or parts of words."""
    wanted = JobSearch(
        words=tuple(word for each in words or () for word in each.split()),
        job=job,
        kind=kind,
        platform=platform,
        revdep=revdep,
    )
    target = target_of(pull_request)
    if wanted == JobSearch():
        raise UsageError(
            "give the job: words of its id, --job, --kind, --platform or --revdep; "
            f"`opam-ci jobs {target.title}` lists them"
        )
    settings = Settings()
    with opened_listings(settings) as index:
        found = find_job(index, find_testing(index, target, head).key, target.title, wanted)

        async def show() -> None:
            async with opened_logs(settings.store_url) as logs:
                record = found
                reused = reused_of(found.status.outcome)
                # One that ended once it had a solution has a log, which says where the other is.
                if reused is not None and not found.status.attempt:
                    record = _ran_instead(index, found, reused)
                run = AttemptLog(index, logs, record, round_, attempt)
                await (run.follow(as_json=as_json) if follow else run.show(as_json=as_json))

        asyncio.run(show())


class AttemptLog:
    """The log of one attempt of a job."""

    def __init__(
        self,
        index: Listings,
        logs: Logs,
        record: JobRecord,
        round_: int | None = None,
        number: int | None = None,
    ) -> None:
        """Selects the attempt.

        Args:
            index: The job index, or a server.
            logs: Of the store, or of a server.
            record: The job.
            round_: Number of a round, None for the last one.
            number: Number of the attempt, None for the last one.
        """
        self._index = index
        self._logs = logs
        self._record = record
        self._round = round_
        self._number = number

    async def show(self, *, as_json: bool) -> None:
        """Prints what is stored of it.

        Raises:
            UsageError: Nothing is stored, or there is no such attempt.
            InfrastructureError: The index or the store cannot be read.
        """
        attempt = await self._attempt()
        if attempt is None:
            raise UsageError(not_run(self._record))
        key = await self._logs.find(attempt)
        data = await self._logs.read(key) if key is not None else b""
        if not data:
            raise UsageError(no_log(self._record, attempt))
        if self._is_before_restart(attempt):
            _note(
                f"{verdict(self._record.status)} after a restart; this is the log of round "
                f"{attempt.round}"
            )
        _Output(as_json=as_json).write(data, final=True)

    async def follow(self, *, as_json: bool) -> None:
        """Prints it while it is written, from the start of the attempt to its end.

        Raises:
            UsageError: The attempt ended without a log, or there is no such attempt.
            InfrastructureError: The store cannot be read; before the log begins, the index.
        """
        waits_for = ""
        while True:
            attempt = await self._attempt()
            if attempt is not None and self._is_before_restart(attempt):
                attempt = None
            key = await self._logs.find(attempt) if attempt is not None else None
            if attempt is not None and key is not None:
                break
            if self._record.status.state is JobState.DECIDED:
                raise UsageError(
                    no_log(self._record, attempt) if attempt else not_run(self._record)
                )
            what = "its log" if attempt else "its start"
            if what != waits_for:
                _note(f"{self._record.status.job.id}: waiting for {what}")
            waits_for = what
            await asyncio.sleep(_POLL_INTERVAL.total_seconds())
            await self._reload()
        over = asyncio.create_task(self._ended(attempt))
        await follow_until(self._logs, key, over, as_json=as_json)

    async def _ended(self, attempt: AttemptRecord) -> str:
        """Waits until an attempt is over and returns how it ended."""
        is_unavailable = False
        while True:
            try:
                await self._reload()
                attempts = await to_thread(attempts_of, self._index, self._record)
                if (end := how_it_ended(self._record, attempts, attempt)) is not None:
                    return end
            except InfrastructureError as error:
                # The log is in the store, and may be closed there meanwhile.
                if not is_unavailable:
                    _note(f"the index is unavailable, so the job may have ended: {error}")
                is_unavailable = True
            await asyncio.sleep(_POLL_INTERVAL.total_seconds())

    async def _attempt(self) -> AttemptRecord | None:
        attempts = await to_thread(attempts_of, self._index, self._record)
        return choose_attempt(attempts, round_=self._round, number=self._number)

    async def _reload(self) -> None:
        """Reads the job again."""
        wanted = JobSearch(job=self._record.status.job.id)
        testing = self._record.revision
        self._record = await to_thread(find_job, self._index, testing, testing.target, wanted)

    def _is_before_restart(self, attempt: AttemptRecord) -> bool:
        """Whether an attempt that the user did not choose is of an earlier round than the job's."""
        chosen = self._round is not None or self._number is not None
        return not chosen and attempt.round < self._record.status.round


async def follow_until(logs: Logs, key: str, over: asyncio.Task[str], *, as_json: bool) -> None:
    """Prints a log while it is written, until it is closed or its attempt is over.

    Args:
        logs: Where it is.
        key: What identifies it there.
        over: Returns how the attempt ended: a killed worker closes no log.
        as_json: Write JSON lines.
    """
    output = _Output(as_json=as_json)

    async def write_all() -> None:
        async for chunk in logs.output(key):
            output.write(chunk)

    writing = asyncio.create_task(write_all())
    try:
        await asyncio.wait({writing, over}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            end = await over
            await asyncio.wait({writing}, timeout=_END_GRACE.total_seconds())
            if not writing.done():
                _note(f"the log ends here: {end}")
                return
        await writing
    finally:
        for task in (writing, over):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def how_it_ended(
    record: JobRecord, attempts: tuple[AttemptRecord, ...], attempt: AttemptRecord
) -> str | None:
    """Returns how an attempt ended, None while it runs.

    Args:
        record: Its job, as it is now.
        attempts: All attempts of the job, as they are now.
        attempt: Which.
    """
    this = (attempt.round, attempt.number)
    now = next((each for each in attempts if (each.round, each.number) == this), attempt)
    status = record.status
    if now.outcome is not None:
        return f"attempt {attempt.number} ended with {label(now.outcome)}"
    if record.status.round != attempt.round:
        return "the job was restarted"
    if status.outcome is not None:
        return f"the job is decided: {label(status.outcome)}"
    if status.attempt > attempt.number or status.state is JobState.RETRYING:
        return f"attempt {attempt.number} is over; its worker was lost or stopped"
    return None


def _ran_instead(index: Listings, record: JobRecord, reused: Reused) -> JobRecord:
    """Returns the job with the same inputs that ran in place of one."""
    job_id, testing = (reused.job or record.status.job).id, RevisionKey.of(reused)
    title = f"{testing.repository}/{testing.branch or testing.number}"
    _note(
        f"{record.status.job.id} was not run: this is the log of the same job for {title} at "
        f"{testing.head[:12]}, which had the same inputs"
    )
    return find_job(index, testing, title, JobSearch(job=job_id))


def not_run(record: JobRecord) -> str:
    """Returns why a job has no attempts."""
    status = record.status
    if status.outcome is None:
        return (
            f"{status.job.id} has not started: it is {verdict(status)}; "
            "`opam-ci log -f` waits for it"
        )
    return f"{status.job.id} has no log: it is {verdict(status)} without a run: {why(status)}"


def no_log(record: JobRecord, attempt: AttemptRecord) -> str:
    """Returns why an attempt has no log."""
    which = f"attempt {attempt.number} of round {attempt.round} of {record.status.job.id}"
    if attempt.outcome is None:
        return f"nothing of the log of {which} is stored yet; `opam-ci log -f` waits for it"
    reason = why(record.status)
    return f"{which} has no log (any more); it ended with {label(attempt.outcome)}" + (
        f": {reason}" if reason else ""
    )


def _note(text: str) -> None:
    note(f"opam-ci: {text}")


class _Output:
    """Standard output for a log, which a build wrote: a terminal gets no control characters.

    Args:
        as_json: Write JSON lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes, *, final: bool = False) -> None:
        """Prints what follows of the log; a character may be in two parts unless it is final."""
        if self._as_json:
            typer.echo(json.dumps({"text": self._decoder.decode(data, final)}))
            return
        if sys.stdout.isatty():
            data = readable(self._decoder.decode(data, final)).encode()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
