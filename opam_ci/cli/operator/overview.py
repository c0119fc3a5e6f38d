"""`opam-ci errors`, `workers`, `authors` and `jobs`: lists of the index, across pull requests."""

import asyncio
import sys
from collections import defaultdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel, ValidationError
from temporalio.client import Client

from opam_ci.app.connection import is_live, pollers
from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.tables import Column, Listing, note, print_listing
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import find_testing, target_of, totals
from opam_ci.cli.selection.operate import (
    ago,
    head_target,
    moment,
    opened_index,
    print_items,
    print_json,
)
from opam_ci.cli.selection.server import opened_listings
from opam_ci.clients.index import CURRENT, JobFilter, Listings, Place, RevisionFilter
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.overview import WorkerRow
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.text.status import CAUSE_TEXTS, problems, verdict, why
from opam_ci.workflows import options

_SHOWN = 5
"""Pull requests named for each cause at a terminal; a pipe gets them all."""

SinceOption = Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d, or a date (UTC).")]


def errors(as_json: opt.Json = False) -> None:
    """Lists infrastructure faults at the current heads by cause, with the pull requests they hit.

    In a pipe, tabs separate: cause, errored, retrying, since (UTC), last, hits.
    """
    with opened_index(Settings()) as index:
        groups = index.errors()
    now = datetime.now(UTC)
    listing = Listing(
        Column("cause", is_key=True),
        Column("errored", is_number=True),
        Column("retrying", is_number=True),
        Column("since (UTC)", drop=2),
        Column("last", drop=1),
        Column("hits", wraps=24),
    )
    most = _SHOWN if sys.stdout.isatty() else None
    for group in groups:
        hit = [
            f"{head_target(each.repository, each.target)} ({each.jobs})"
            for each in group.pull_requests
        ]
        more = f" and {len(hit[most:])} more" if most is not None and hit[most:] else ""
        listing.add(
            f"{group.cause.value}: {CAUSE_TEXTS[group.cause]}",
            str(group.errored),
            str(group.retrying),
            f"{group.since:%Y-%m-%d %H:%M}",
            f"{ago(group.last_at, now)} ago",
            ", ".join(hit[:most]) + more,
        )
    print_items(
        groups, listing, as_json=as_json, none="no errors: no job is errored or waits for a retry"
    )


def workers(
    since: SinceOption = "24h", temporal: opt.Temporal = None, as_json: opt.Json = False
) -> None:
    """Lists workers: which poll, and what each did (by whole days in UTC).

    In a pipe, tabs separate: worker, polls, queues, attempts, running, faults, last attempt.
    """
    asyncio.run(_workers(since, temporal, as_json=as_json))


class _Worker(BaseModel):
    """A worker in Temporal and in the index."""

    worker: str
    queues: tuple[str, ...]
    polls: bool
    polled_at: datetime | None
    record: WorkerRow | None


async def _workers(since: str, temporal: str | None, *, as_json: bool) -> None:
    settings, now = Settings(), datetime.now(UTC)
    begun = moment(since, now)
    client = await connected(settings, temporal=temporal)
    with opened_index(settings) as index:
        rows = index.workers(begun)
    pools = {each.name for each in load_platforms(settings.platforms).pools}
    pools |= {*(settings.pools or ()), *(row.pool for row in rows if row.pool)}
    queues = [options.ORCHESTRATION_QUEUE, *map(options.build_queue, sorted(pools))]
    found = await _polling(client, queues)
    known = {row.worker: row for row in rows}
    listed = [
        _Worker(
            worker=name,
            queues=tuple(sorted(found.get(name, {}))),
            polls=any(is_live(at, now) for at in found.get(name, {}).values()),
            polled_at=max(found.get(name, {}).values(), default=None),
            record=known.get(name),
        )
        for name in sorted({*found, *known})
    ]
    listed.sort(key=lambda each: not each.polls)
    listing = Listing(
        Column("worker", is_key=True),
        Column("polls"),
        Column("queues", wraps=16),
        Column("attempts", drop=2, is_number=True),
        Column("running", drop=1, is_number=True),
        Column("faults", wraps=16),
        Column("last attempt", drop=3),
    )
    for each in listed:
        row = each.record
        causes = ", ".join(f"{cause.value} {n}" for cause, n in row.causes.items()) if row else ""
        listing.add(
            each.worker,
            "yes" if each.polls else "no",
            ", ".join(each.queues) or (row.pool if row else ""),
            str(row.attempts if row else 0),
            str(row.running if row else 0),
            (f"{row.faults} ({causes})" if causes else "0") if row else "0",
            f"{ago(row.last_seen_at, now)} ago" if row and row.last_seen_at else "never",
        )
    server = client.service_client.config.target_host
    print_items(listed, listing, as_json=as_json, none=f"no worker polls {server}")


async def _polling(client: Client, queues: list[str]) -> dict[str, dict[str, datetime]]:
    """Returns the times of the last polls by worker and queue."""
    found: dict[str, dict[str, datetime]] = defaultdict(dict)
    for queue in queues:
        for worker, seen_at in (await pollers(client, queue)).items():
            found[worker][queue] = seen_at
    return found


def authors(since: SinceOption = "24h", as_json: opt.Json = False) -> None:
    """Lists authors by the processor time of their pull requests' jobs.

    Where none was measured, the time that an attempt took counts; infrastructure faults never do.
    In a pipe, tabs separate: author, repository, CPU hours, pull requests, attempts.
    """
    with opened_index(Settings()) as index:
        rows = index.authors(moment(since, datetime.now(UTC)))
    listing = Listing(
        Column("author", is_key=True),
        Column("repository"),
        Column("CPU hours", is_number=True),
        Column("pull requests", drop=1, is_number=True),
        Column("attempts", drop=2, is_number=True),
    )
    for row in rows:
        numbers = f"{row.cpu_hours:.2f}", str(row.pull_requests), str(row.attempts)
        listing.add(row.author, row.repository, *numbers)
    print_items(rows, listing, as_json=as_json, none=f"no job of an author ended since {since}")


def jobs(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none for all.")
    ] = None,
    standing: Annotated[
        Standing | None,
        typer.Option(
            *("--standing", "--is"),
            metavar="STANDING",
            help="Only these jobs, such as errored, failed, passed.",
        ),
    ] = None,
    cause: opt.Cause = None,
    reason: opt.Reason = None,
    kind: opt.Kind = None,
    platform: opt.Platform = None,
    package: opt.Package = None,
    revdep: opt.Revdep = None,
    job: opt.Job = None,
    worker: Annotated[
        str | None, typer.Option(help="Only those whose last attempt this worker ran.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: 90m, 24h, 7d, a date.")] = None,
    until: Annotated[str | None, typer.Option(help="Changed before.")] = None,
    head: opt.OldHead = None,
    all_heads: Annotated[
        bool, typer.Option("--all-heads", help="Not only current heads of open pull requests.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count them instead.")] = False,
    limit: opt.Limit = 50,
    after: Annotated[str | None, typer.Option(help="The next page of a listing.")] = None,
    as_json: opt.Json = False,
) -> None:
    """Lists or counts jobs: of a pull request, or of all; each option narrows the list.

    In a pipe, tabs separate: pull request, job, outcome, changed, why.
    """
    if head is not None and (pull_request is None or all_heads):
        raise UsageError(
            "--head needs one pull request: give OWNER/REPO/NUMBER, and not --all-heads"
        )
    now = datetime.now(UTC)
    try:
        wanted = JobFilter.model_validate({
            "standing": standing, "cause": cause, "failure_reason": reason, "kind": kind,
            "platform": platform, "package": package, "revdep": revdep, "name": job,
            "worker": worker,
            "since": moment(since, now) if since else None,
            "until": moment(until, now) if until else None,
        })  # fmt: skip
    except ValidationError as error:
        raise UsageError(problems(error)) from error
    with opened_listings(Settings()) as index:
        of = _of(index, pull_request, head, all_heads=all_heads)
        wanted = wanted.model_copy(update={"of": of})
        counts = index.counts(wanted)
        if count:
            if as_json:
                print_json(counts)
            else:
                typer.echo(totals(counts))
            return
        part = index.jobs(wanted, place=Place(limit=limit, after=after))
        existing = index.counts(JobFilter(of=of)) if not part.items else counts
    if as_json:
        for record in part.items:
            print_json(record)
        return
    if not part.items:
        note("no jobs match" + (f"; there are: {totals(existing)}" if existing.total else ""))
        return
    note(f"{totals(counts)}; {len(part.items):,} shown")
    listing = Listing(
        Column("pull request", is_key=True),
        Column("job", is_key=True),
        Column("outcome"),
        Column("changed", drop=1),
        Column("why", wraps=24),
    )
    for record in part.items:
        status = record.status
        listing.add(
            head_target(record.revision.repository, record.revision.target),
            status.job.id,
            verdict(status),
            f"{ago(record.updated_at, now)} ago",
            why(status),
        )
    print_listing(listing)
    if part.following is not None:
        note(f"more: --after {part.following}")


def _of(
    index: Listings, pull_request: str | None, head: str | None, *, all_heads: bool
) -> RevisionFilter:
    """Returns the filter of testings that the options describe.

    Raises:
        UsageError: No such pull request, or no such head of it.
    """
    if pull_request is None:
        return RevisionFilter() if all_heads else CURRENT
    found = find_testing(index, target_of(pull_request), head).key
    if all_heads:
        return RevisionFilter(repository=found.repository, number=found.number, branch=found.branch)
    return RevisionFilter(revision=found)
