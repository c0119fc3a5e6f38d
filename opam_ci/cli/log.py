"""`opam-ci log`: the log of a job, also while it grows."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

import typer
from temporalio.client import Client

from opam_ci.cli.operate import JsonOption, TemporalOption, summary_of, workflow_id_of
from opam_ci.cli.session import connected
from opam_ci.clients.logs import LogReader
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.errors import UsageError
from opam_ci.core.summary import JobState, JobStatus, Summary
from opam_ci.settings import Settings

_LOOK_INTERVAL = timedelta(seconds=2)
_END_GRACE = timedelta(seconds=5)
"""How long the end of a log may come after the end of its attempt: it is uploaded last."""


def log(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    job: Annotated[str, typer.Argument(help="Job id or part of it, such as `test cppo`.")],
    attempt: Annotated[
        int | None, typer.Option(help="A faulted attempt's log; default: the last one's.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it grows.")] = False,
    temporal: TemporalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prints the log of a job."""
    asyncio.run(_log(pull_request, job, attempt, temporal, follow=follow, as_json=as_json))


async def _log(
    pull_request: str,
    job: str,
    attempt: int | None,
    temporal: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    settings = Settings()
    client = await connected(settings, temporal=temporal)
    workflow_id = workflow_id_of(pull_request)
    row = find(await summary_of(client, workflow_id), job)
    key, number = row.log, row.attempt
    if attempt is not None and attempt != row.attempt:
        key = next((f.log for f in row.faults if f.attempt == attempt), None)
        number = attempt
    if key is None:
        raise UsageError(f"{row.job.id} has no log for that attempt (yet)")
    reader = LogReader(ArtifactStore.open(settings.store_url))
    if follow:
        over = asyncio.create_task(_ended(client, workflow_id, row.job.id, row.round, number))
        await follow_until(reader, key, over, as_json=as_json)
    else:
        _write(await reader.read(key), as_json=as_json)


async def follow_until(
    reader: LogReader, key: str, over: asyncio.Task[str], *, as_json: bool
) -> None:
    """Writes a log as it comes, until it is closed or its attempt is over.

    Args:
        reader: Of logs.
        key: Of this one.
        over: Ends when the attempt has ended, and says how: a killed worker closes no log.
        as_json: Write JSON lines.
    """

    async def write_all() -> None:
        async for chunk in reader.follow(key):
            _write(chunk, as_json=as_json)

    writing = asyncio.create_task(write_all())
    try:
        await asyncio.wait({writing, over}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            how = await over
            await asyncio.wait({writing}, timeout=_END_GRACE.total_seconds())
            if not writing.done():
                print(f"opam-ci: the log ends here: {how}", file=sys.stderr)
                return
        await writing
    finally:
        for task in (writing, over):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _ended(client: Client, workflow_id: str, job: str, round_: int, attempt: int) -> str:
    """Waits until an attempt is over and says how it ended."""
    while True:
        summary = await summary_of(client, workflow_id)
        row = next((row for row in summary.jobs if row.job.id == job), None)
        if row is None:
            return "the pull request has a new head"
        if (how := how_it_ended(row, round_, attempt)) is not None:
            return how
        await asyncio.sleep(_LOOK_INTERVAL.total_seconds())


def how_it_ended(row: JobStatus, round_: int, attempt: int) -> str | None:
    """Returns how an attempt of a job ended, None while it runs."""
    fault = next((fault for fault in row.faults if fault.attempt == attempt), None)
    if row.round == round_ and fault is not None:
        return fault.evidence.detail or f"attempt {attempt} met a fault ({fault.cause})"
    if row.round != round_:
        return "the job was restarted"
    if row.outcome is not None:
        return f"the job is decided: {row.outcome.kind}"
    if row.attempt > attempt or (row.attempt == attempt and row.state is JobState.RETRYING):
        return f"attempt {attempt} is over; its worker was lost or stopped"
    return None


def find(summary: Summary, job: str) -> JobStatus:
    """Returns the one job that words name: its id, whole words of it, or parts of it.

    Raises:
        UsageError: They name none, or several.
    """
    words = job.split()
    ways: tuple[Callable[[str], bool], ...] = (
        lambda name: name == " ".join(words),
        lambda name: all(word in name.split() for word in words),
        lambda name: all(word in name for word in words),
    )
    for way in ways:
        rows = [row for row in summary.jobs if way(row.job.id)]
        if len(rows) == 1:
            return rows[0]
    some = ", ".join(row.job.id for row in (rows or summary.jobs)[:8])
    raise UsageError(f"{job!r} matches {len(rows)} jobs; there are: {some}")


def _write(log: bytes, *, as_json: bool) -> None:
    """Writes a log to stdout; a terminal gets no escape codes, since a build wrote them."""
    if as_json:
        typer.echo(json.dumps({"text": log.decode(errors="replace")}))
        return
    if sys.stdout.isatty():
        log = re.sub(rb"[\x00-\x08\x0b-\x1f\x7f]", b"", log)
    sys.stdout.buffer.write(log)
    sys.stdout.buffer.flush()
