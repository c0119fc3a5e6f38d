"""`opam-ci restart` and `cancel`: for one pull request, or for everything that matches."""

import asyncio
from collections import defaultdict
from typing import Annotated

import typer
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.cli.operate import (
    JsonOption,
    TemporalOption,
    cause_of,
    explained,
    opened_index,
    print_json,
    summary_of,
    workflow_id_of,
)
from opam_ci.cli.session import connected
from opam_ci.clients.index import CURRENT, Index, JobFilter, Place
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.model import HitJob
from opam_ci.core.incidents.restarts import RestartOrder, orders_of
from opam_ci.core.records import Standing
from opam_ci.core.requests import RestartSelector, RestartWhich
from opam_ci.core.summary import JobState, Summary
from opam_ci.settings import Settings

_PAGE = 1000
_AT_ONCE = 20
"""Signals under way at the same time."""


def restart(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none for all that match.")
    ] = None,
    pr: Annotated[str | None, typer.Option("--pr", help="The same as the argument.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failed jobs.")] = False,
    all_jobs: Annotated[bool, typer.Option("--all", help="All jobs.")] = False,
    platform: Annotated[str | None, typer.Option(help="Only on this platform.")] = None,
    package: Annotated[str | None, typer.Option(help="Only this package.")] = None,
    cause: Annotated[str | None, typer.Option(help="Only errors with this cause.")] = None,
    incident: Annotated[int | None, typer.Option(help="Only what this incident hit.")] = None,
    head: Annotated[str | None, typer.Option(help="Only if this commit is under test.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    temporal: TemporalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Starts jobs again: by default those that the CI itself lost.

    Without a pull request, everything that matches at the current heads of all open ones. A
    job that runs already is left alone, so two who restart the same restart it once.
    """
    if pull_request is not None and pr is not None and pull_request != pr:
        raise UsageError(f"give one pull request: {pull_request!r} or {pr!r}")
    if failed and all_jobs:
        raise UsageError("--failed and --all exclude each other")
    known = cause_of(cause)
    if known is not None and (failed or all_jobs):
        raise UsageError("--cause is about errors: it excludes --failed and --all")
    which = RestartWhich.FAILED if failed else RestartWhich.ERRORED
    selector = RestartSelector(
        which=RestartWhich.ALL if all_jobs else which,
        platform=platform,
        package=package,
        cause=known,
        head=head,
    )
    named = pull_request or pr
    if named is not None and incident is not None:
        raise UsageError("--incident knows its pull requests: give one of both")
    if named is not None:
        asyncio.run(_one(named, selector, temporal, dry_run=dry_run, as_json=as_json))
        return
    if head is not None:
        raise UsageError("--head needs a pull request")
    if selector == RestartSelector() and incident is None:
        raise UsageError(
            "say what to restart: a pull request, --cause, --platform, --package, or --incident"
        )
    if all_jobs and (platform or package or incident) is None:
        raise UsageError("--all needs a pull request, --platform, --package or --incident")
    asyncio.run(_many(selector, incident, temporal, dry_run=dry_run, as_json=as_json))


def cancel(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    temporal: TemporalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stops the running jobs of a pull request; `restart` brings them back."""
    asyncio.run(_cancel(pull_request, temporal, as_json=as_json))


async def _cancel(pull_request: str, temporal: str | None, *, as_json: bool) -> None:
    workflow_id = workflow_id_of(pull_request)
    client = await connected(Settings(), temporal=temporal)
    try:
        await client.get_workflow_handle(workflow_id).signal("cancel")
    except RPCError as error:
        raise explained(error, workflow_id) from error
    if as_json:
        print_json({"cancelled": workflow_id})
    else:
        typer.echo(f"cancel sent to {workflow_id}")


async def _one(
    pull_request: str,
    selector: RestartSelector,
    temporal: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    workflow_id = workflow_id_of(pull_request)
    client = await connected(Settings(), temporal=temporal)
    summary = await summary_of(client, workflow_id)
    if selector.head is not None:
        if not summary.head.startswith(selector.head):
            raise UsageError(
                f"head {selector.head} of {summary.pull_request} is superseded by "
                f"{summary.head[:12]}; nothing was restarted"
            )
        selector = selector.model_copy(update={"head": summary.head})
    jobs = chosen(summary, selector)
    if not jobs:
        raise UsageError(nothing_matches(summary, selector))
    if not dry_run:
        try:
            await client.get_workflow_handle(workflow_id).signal("restart", selector)
        except RPCError as error:
            raise explained(error, workflow_id) from error
    _tell({workflow_id: jobs}, {}, dry_run=dry_run, as_json=as_json)


def chosen(summary: Summary, selector: RestartSelector) -> tuple[str, ...]:
    """Returns the ids of the jobs that a selector takes from a pull request."""
    return tuple(
        row.job.id
        for row in summary.jobs
        if (row.outcome is not None and selector.takes(row.job, row.outcome))
        or (
            row.state is JobState.RETRYING
            and bool(row.faults)
            and selector.takes_waiting(row.job, row.faults[-1].cause)
        )
    )


def nothing_matches(summary: Summary, selector: RestartSelector) -> str:
    """Returns why a selector takes nothing, and what there is instead."""
    platforms = sorted({row.job.platform for row in summary.jobs if row.job.platform})
    if selector.platform is not None and selector.platform not in platforms:
        return (
            f"{summary.pull_request} has no job on {selector.platform!r}; it has jobs on: "
            f"{', '.join(platforms) or 'no platform'}"
        )
    what = {"errored": "errored or cancelled", "failed": "failed", "all": "decided"}
    there = ", ".join(
        f"{number} {name}" for name, number in summary.counts.model_dump().items() if number
    )
    cause = f" for {selector.cause}" if selector.cause else ""
    return (
        f"{summary.pull_request} at {summary.head[:12]} has no {what[selector.which.value]} job"
        f"{cause} that matches; it has: {there or 'no jobs'}"
    )


async def _many(
    selector: RestartSelector,
    incident: int | None,
    temporal: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    settings = Settings()
    with opened_index(settings) as index:
        hit = await asyncio.to_thread(matching, index, selector, incident)
    if not hit:
        raise UsageError(
            "nothing matches at the current heads of open pull requests; `opam-ci errors` "
            "shows what is errored"
        )
    orders = orders_of(hit)
    gone: dict[str, str] = {}
    if not dry_run:
        client = await connected(settings, temporal=temporal)
        limit = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(
            *(_send(client, order, selector.which, limit) for order in orders)
        )
        gone = {name: why for name, why in answers if why}
    jobs = {order.workflow_id: order.jobs for order in orders}
    _tell(jobs, gone, dry_run=dry_run, as_json=as_json)


def matching(index: Index, selector: RestartSelector, incident: int | None) -> tuple[HitJob, ...]:
    """Finds what to restart at the current heads of all open pull requests.

    Raises:
        UsageError: There is no such incident.
    """
    if incident is not None:
        if index.incident(incident) is None:
            raise UsageError(f"there is no incident {incident}; `opam-ci incidents` lists them")
        found = index.hit_jobs(incident)
        return tuple(each for each in found if selector.narrows_to(each.job))
    standings: tuple[Standing | None, ...] = {
        RestartWhich.ERRORED: (Standing.ERRORED, Standing.RETRYING),
        RestartWhich.FAILED: (Standing.FAILED,),
        RestartWhich.ALL: (
            Standing.PASSED,
            Standing.FAILED,
            Standing.SKIPPED,
            Standing.ERRORED,
            Standing.CANCELLED,
        ),
    }[selector.which]
    hit: dict[tuple[object, str], HitJob] = {}
    for standing in standings:
        wanted = JobFilter(
            of=CURRENT, standing=standing, cause=selector.cause, platform=selector.platform,
            package=selector.package,
        )  # fmt: skip
        place: Place | None = Place(limit=_PAGE)
        while place is not None:
            part = index.jobs(wanted, place=place)
            for record in part.items:
                job = record.status.job
                hit[record.revision, job.id] = HitJob(
                    revision=record.revision,
                    job=job,
                    automatic=record.status.automatic,
                )
            place = Place(limit=_PAGE, after=part.following) if part.following else None
    return tuple(hit.values())


async def _send(
    client: Client, order: RestartOrder, which: RestartWhich, limit: asyncio.Semaphore
) -> tuple[str, str | None]:
    """Sends one restart; returns why it could not, if the pull request is gone."""
    name = order.workflow_id
    async with limit:
        try:
            await client.get_workflow_handle(name).signal("restart", order.selector(which))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise explained(error, name) from error
            return name, "it has ended"
    return name, None


def _tell(
    jobs: dict[str, tuple[str, ...]], gone: dict[str, str], *, dry_run: bool, as_json: bool
) -> None:
    total = defaultdict[bool, int](int)
    for name, ids in jobs.items():
        why = gone.get(name)
        total[why is None] += len(ids)
        if as_json:
            print_json({
                "workflow": name, "jobs": list(ids), "sent": why is None and not dry_run,
                "error": why,
            })  # fmt: skip
        elif why is not None:
            typer.echo(f"{name}: not restarted: {why}")
        else:
            some = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")  # noqa: PLR2004  as many as fit a line
            typer.echo(f"{name}: {some}")
    if not as_json:
        words = "would be restarted" if dry_run else "restart"
        typer.echo(f"{total[True]} jobs of {len(jobs) - len(gone)} pull requests {words}")
