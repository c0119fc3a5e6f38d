"""`opam-ci restart` and `cancel`: for one pull request, or for everything that matches.

The workflows select the jobs and return which: nothing is selected here. The index only lists
the pull requests with jobs that match.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import typer
from pydantic import ValidationError

from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.tables import print_text
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import find_incident, head_of, target_of
from opam_ci.cli.selection.operate import opened_index, print_json
from opam_ci.cli.selection.server import Updates, is_server_named, named_server
from opam_ci.clients.index import CURRENT, Index, JobFilter
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.restarts import orders_of, workflow_of
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.selector import (
    TAKEN_SHOWN,
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.text.status import problems
from opam_ci.core.text.taken import jobs_text, pending_sentence, taken_lines, verb

_AT_ONCE = 20
"""Concurrent updates."""

_IDS_AT_ONCE = 1000
"""Ids in one update: a message of Temporal's is limited to two megabytes."""

_OTHERS = "--failed, --stopped and --all"

HeadOption = Annotated[
    str | None,
    typer.Option(help="Only if this is the head under test: its hash, or seven characters of it."),
]


class Result(NamedTuple):
    """The result of an update of one workflow.

    Attributes:
        workflow_id: The workflow.
        taken: The jobs that it took; None if it accepted the update and executes it later, or if
            the update failed.
        error: Why the update failed.
    """

    workflow_id: str
    taken: Taken | None = None
    error: UsageError | InfrastructureError | None = None

    @property
    def name(self) -> str:
        """The pull request's name on the command line."""
        return self.workflow_id.removeprefix("pr/")

    @property
    def refusal(self) -> str | None:
        """Why nothing is done, in a sentence; None if something is."""
        if self.error is not None:
            return str(self.error)
        return self.taken.refusal if self.taken is not None else None


def restart(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none for all that match.")
    ] = None,
    pr: Annotated[str | None, typer.Option("--pr", help="The same as the argument.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failed jobs.")] = False,
    stopped: Annotated[
        bool, typer.Option("--stopped", help="Jobs that were not run because others fail alike.")
    ] = False,
    all_jobs: Annotated[bool, typer.Option("--all", help="All jobs.")] = False,
    platform: opt.Platform = None,
    package: opt.Package = None,
    kind: opt.Kind = None,
    revdep: opt.Revdep = None,
    job: opt.Job = None,
    cause: opt.Cause = None,
    incident: Annotated[int | None, typer.Option(help="Only jobs that this incident hit.")] = None,
    head: HeadOption = None,
    dry_run: opt.DryRun = False,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Restarts jobs, by default errored ones.

    Without a pull request, all jobs that match at the current heads of all open ones. A
    running job is left alone, so that two restarts of the same job restart it once.
    """
    if pull_request is not None and pr is not None and pull_request != pr:
        raise UsageError(f"two pull requests, {pull_request!r} and {pr!r}: give one")
    wanted = {
        RestartWhich.FAILED: failed,
        RestartWhich.STOPPED: stopped,
        RestartWhich.ALL: all_jobs,
    }
    chosen = [which for which, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise UsageError(f"{_OTHERS} exclude each other")
    for option, value in (("--cause", cause), ("--incident", incident)):
        if value is not None and chosen:
            raise UsageError(f"{option} selects errored jobs: it excludes {_OTHERS}")
    narrowed = selector_of(platform, package, kind, revdep, job, head)
    which = chosen[0] if chosen else RestartWhich.ERRORED
    selector = RestartSelector(**narrowed.model_dump(), which=which, cause=cause)
    named = pull_request or pr
    if named is not None:
        if incident is not None:
            raise UsageError("give either a pull request or --incident")
        update = RestartUpdate(selector=selector, preview=dry_run)
        asyncio.run(_one(target_of(named).workflow_id, update, temporal, as_json=as_json))
        return
    _check_many(selector, incident, head, temporal)
    asyncio.run(_many(selector, incident, temporal, dry_run=dry_run, as_json=as_json))


def cancel(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    platform: opt.Platform = None,
    package: opt.Package = None,
    kind: opt.Kind = None,
    revdep: opt.Revdep = None,
    job: opt.Job = None,
    head: HeadOption = None,
    dry_run: opt.DryRun = False,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Cancels jobs of a pull request, by default all undecided ones.

    `opam-ci restart` restarts them.
    """
    selector = selector_of(platform, package, kind, revdep, job, head)
    update = CancelUpdate(selector=selector, preview=dry_run)
    asyncio.run(_one(target_of(pull_request).workflow_id, update, temporal, as_json=as_json))


def _check_many(
    selector: RestartSelector, incident: int | None, head: str | None, temporal: str | None
) -> None:
    """Checks options that name no pull request.

    Raises:
        UsageError: They name too much, or a server, which acts on one pull request at a time.
    """
    if is_server_named(temporal):
        raise UsageError("give a pull request: a server restarts the jobs of one at a time")
    if head is not None:
        raise UsageError("--head needs a pull request")
    if selector == RestartSelector() and incident is None:
        raise UsageError(
            "give what to restart: a pull request, --cause, --platform, --package, --kind, "
            "--revdep, --job or --incident"
        )
    if selector == RestartSelector(which=RestartWhich.ALL):
        raise UsageError(
            "--all needs a pull request, --platform, --package, --kind, --revdep or --job"
        )


def selector_of(
    platform: str | None,
    package: str | None,
    kind: JobKind | None,
    revdep: str | None,
    job: str | None,
    head: str | None,
) -> JobSelector:
    """Returns the selector that the options describe.

    Raises:
        UsageError: An option is empty or too long, or the head is not a commit.
    """
    names = {"platform": platform, "package": package, "revdep": revdep, "job": job}
    for name, value in names.items():
        if value is not None and not value.strip():
            raise UsageError(f"--{name} is empty; leave it out to take all")
    try:
        return JobSelector.model_validate(
            {**names, "kind": kind, "head": head_of(head) if head else None}
        )
    except ValidationError as error:
        raise UsageError(problems(error)) from error


async def _one(
    workflow_id: str,
    update: RestartUpdate | CancelUpdate,
    temporal: str | None,
    *,
    as_json: bool,
) -> None:
    if is_server_named(temporal):
        with named_server() as server:
            result = await _update(server, workflow_id, update)
    else:
        pull_requests = PullRequests(await connected(Settings(), temporal=temporal))
        result = await _update(pull_requests, workflow_id, update)
    if result.refusal is not None:
        raise UsageError(result.refusal)
    if as_json:
        print_json(as_line(result, preview=update.preview))
        return
    for line in taken_lines(result.name, result.taken, update):
        print_text(line)


async def _update(
    updates: Updates, workflow_id: str, update: RestartUpdate | CancelUpdate
) -> Result:
    if isinstance(update, RestartUpdate):
        taken = await updates.restart_jobs(workflow_id, update)
    else:
        taken = await updates.cancel_jobs(workflow_id, update)
    if taken is None and update.preview:
        raise InfrastructureError(
            f"{workflow_id} did not return a preview in time: the index may be unavailable; "
            "nothing was changed",
            cause=Cause.STORAGE,
        )
    return Result(workflow_id, taken)


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
        updates = await asyncio.to_thread(selectors_for, index, selector, incident)
    if not updates:
        raise UsageError(
            "nothing matches at the current heads of open pull requests; `opam-ci errors` "
            "shows what is errored"
        )
    pull_requests = PullRequests(await connected(settings, temporal=temporal))
    limit = asyncio.Semaphore(_AT_ONCE)

    async def send(workflow_id: str, selectors: Sequence[RestartSelector]) -> Result:
        async with limit:
            results = []
            for each in selectors:
                update = RestartUpdate(selector=each, preview=dry_run)
                try:
                    results.append(await _update(pull_requests, workflow_id, update))
                except (UsageError, InfrastructureError) as error:
                    results.append(Result(workflow_id, error=error))
                    break
            return joined(workflow_id, results)

    results = await asyncio.gather(*(send(name, selectors) for name, selectors in updates.items()))
    for result in results:
        if as_json:
            print_json(as_line(result, preview=dry_run))
        else:
            print_text(brief(result))
    if not as_json:
        typer.echo(tally(results, preview=dry_run))
    failed = [each.error for each in results if isinstance(each.error, InfrastructureError)]
    if failed:
        raise InfrastructureError(
            f"{len(failed)} of {len(results)} pull requests did not answer; repeat the command: "
            "what was restarted is left alone",
            cause=failed[0].cause,
        )
    if all(each.refusal is not None for each in results):
        raise UsageError("nothing was restarted: all pull requests refused")


def selectors_for(
    index: Index, selector: RestartSelector, incident: int | None
) -> dict[str, tuple[RestartSelector, ...]]:
    """Finds the workflows whose jobs match, at the current heads of all open pull requests.

    Args:
        index: The job index.
        selector: What to restart.
        incident: Only jobs that this incident hit: these are selected by their ids.

    Returns:
        Selectors by workflow; without an incident, those with most jobs first.

    Raises:
        UsageError: There is no such incident.
        InfrastructureError: The index cannot be read.
    """
    if incident is None:
        filters = [_filter(selector, standing) for standing in _standings(selector)]
        filters += [
            _filter(selector, Standing.SKIPPED).model_copy(update={"skip_reason": reason})
            for reason in sorted(selector.skips)
        ]
        testings = [testing for each in filters for testing in index.counts_by_testing(each)]
        return {workflow_of(each): (selector,) for each in testings}
    find_incident(index, incident)
    hit = (each for each in index.hit_jobs(incident) if selector.narrows_to(each.job))
    return {
        order.workflow_id: tuple(
            selector.model_copy(update={"jobs": ids, "head": order.revision.head})
            for ids in _portions(order.jobs)
        )
        for order in orders_of(hit)
    }


def _standings(selector: RestartSelector) -> Iterable[Standing]:
    """Returns the standings of jobs for which a pull request gets an update.

    Not cancelled ones by default: a cancelled pull request is not to be restarted with everything
    that some fault hit.
    """
    if selector.which is RestartWhich.ERRORED:
        return (Standing.ERRORED, Standing.RETRYING)
    return sorted(selector.standings)


def _filter(selector: RestartSelector, standing: Standing) -> JobFilter:
    same = selector.model_dump(include={"cause", "platform", "package", "kind", "revdep"})
    return JobFilter(of=CURRENT, standing=standing, name=selector.job, **same)


def _portions(ids: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (ids[first : first + _IDS_AT_ONCE] for first in range(0, len(ids), _IDS_AT_ONCE))


def joined(workflow_id: str, results: Sequence[Result]) -> Result:
    """Joins the results of one workflow: a refusal counts only if all are refusals."""
    for result in results:
        if result.error is not None or result.taken is None:
            return result
    taken = [each.taken for each in results if each.taken is not None]
    done = [each for each in taken if each.refusal is None]
    if not done:
        return results[0]
    platforms = Counter[str]()
    for each in done:
        platforms.update(each.by_platform)
    first = tuple(job for each in done for job in each.first)[:TAKEN_SHOWN]
    jobs = sum(each.jobs for each in done)
    whole = Taken(
        jobs=jobs,
        by_platform=dict(platforms),
        first=first,
        total_seconds=sum(each.total_seconds for each in done),
        longest_seconds=max(each.longest_seconds for each in done),
    )
    return Result(workflow_id, whole)


def as_line(result: Result, *, preview: bool) -> dict[str, object]:
    """Returns a result as a line of JSON."""
    taken = result.taken or Taken()
    return {
        "workflow": result.workflow_id,
        "jobs": taken.jobs,
        "by_platform": taken.by_platform,
        "first": list(taken.first),
        "preview": preview,
        "pending": result.taken is None and result.error is None,
        "error": result.refusal,
    }


def brief(result: Result) -> str:
    """Returns the line that shows the result of one of many pull requests."""
    if result.refusal is not None:
        return f"{result.name}: not restarted: {result.refusal}"
    if result.taken is None:
        return pending_sentence(result.name)
    some = ", ".join(result.taken.first[:3])
    more = result.taken.jobs - len(result.taken.first[:3])
    return f"{result.name}: {some}" + (f" and {more:,} more" if more > 0 else "")


def tally(results: Sequence[Result], *, preview: bool) -> str:
    """Returns the line that sums up many results."""
    done = [each.taken for each in results if each.taken is not None and each.refusal is None]
    number = sum(each.jobs for each in done)
    where = f"{len(done)} pull request{'' if len(done) == 1 else 's'}"
    return f"{jobs_text(number)} of {where} {verb(number, 'restarted', preview=preview)}"
