"""`opam-ci restart` and `cancel`: for one pull request, or for everything that matches.

The workflows choose the jobs and answer what they took: nothing is selected here. The index only
says which pull requests are worth asking.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import typer
from pydantic import ValidationError

from opam_ci.cli.lookup import head_of, one_of, refused, target_of
from opam_ci.cli.operate import JsonOption, TemporalOption, cause_of, opened_index, print_json
from opam_ci.cli.session import connected
from opam_ci.clients.index import CURRENT, Index, JobFilter
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.restarts import orders_of, workflow_of
from opam_ci.core.job import JobKind
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.selector import (
    TAKEN_SHOWN,
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from opam_ci.core.summary import Standing
from opam_ci.gateway import PullRequests
from opam_ci.settings import Settings

_AT_ONCE = 20
"""Updates under way at the same time."""

_IDS_AT_ONCE = 1000
"""Ids in one update: a message of Temporal's is limited to two megabytes."""

_IDS_SHOWN = 5

PlatformOption = Annotated[str | None, typer.Option(help="Only on this platform.")]
PackageOption = Annotated[str | None, typer.Option(help="Only this package, or version of it.")]
KindOption = Annotated[str | None, typer.Option(help="Only this kind, such as build, revdep.")]
RevdepOption = Annotated[str | None, typer.Option(help="Only on this reverse dependency.")]
JobOption = Annotated[str | None, typer.Option("--job", help="Only the job with this id.")]
HeadOption = Annotated[
    str | None, typer.Option(help="Only if this commit is under test; seven characters do.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")]


class Answer(NamedTuple):
    """What one workflow said.

    Attributes:
        workflow_id: Whose answer.
        taken: What it took; None if it accepted and does it later, or did not take it.
        error: Why it did not take it.
    """

    workflow_id: str
    taken: Taken | None = None
    error: UsageError | InfrastructureError | None = None

    @property
    def refusal(self) -> str | None:
        """Why nothing happens, in a sentence; None if something does."""
        if self.error is not None:
            return str(self.error)
        return self.taken.refusal if self.taken is not None else None


def restart(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none for all that match.")
    ] = None,
    pr: Annotated[str | None, typer.Option("--pr", help="The same as the argument.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Failed jobs.")] = False,
    all_jobs: Annotated[bool, typer.Option("--all", help="All jobs.")] = False,
    platform: PlatformOption = None,
    package: PackageOption = None,
    kind: KindOption = None,
    revdep: RevdepOption = None,
    job: JobOption = None,
    cause: Annotated[str | None, typer.Option(help="Only errors with this cause.")] = None,
    incident: Annotated[int | None, typer.Option(help="Only what this incident hit.")] = None,
    head: HeadOption = None,
    dry_run: DryRunOption = False,
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
    narrowed = selector_of(platform, package, kind, revdep, job, head)
    which = RestartWhich.FAILED if failed else RestartWhich.ERRORED
    selector = RestartSelector(
        **narrowed.model_dump(), which=RestartWhich.ALL if all_jobs else which, cause=known
    )
    if incident is not None and (failed or all_jobs):
        raise UsageError("--incident is about errors: it excludes --failed and --all")
    named = pull_request or pr
    if named is not None:
        if incident is not None:
            raise UsageError("--incident knows its pull requests: give one of both")
        update = RestartUpdate(selector=selector, preview=dry_run)
        asyncio.run(_one(target_of(named).workflow_id, update, temporal, as_json=as_json))
        return
    if head is not None:
        raise UsageError("--head needs a pull request")
    if selector == RestartSelector() and incident is None:
        raise UsageError(
            "say what to restart: a pull request, --cause, --platform, --package, --kind, "
            "--revdep, --job or --incident"
        )
    if selector == RestartSelector(which=RestartWhich.ALL):
        raise UsageError(
            "--all needs a pull request, --platform, --package, --kind, --revdep or --job"
        )
    asyncio.run(_many(selector, incident, temporal, dry_run=dry_run, as_json=as_json))


def cancel(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    platform: PlatformOption = None,
    package: PackageOption = None,
    kind: KindOption = None,
    revdep: RevdepOption = None,
    job: JobOption = None,
    head: HeadOption = None,
    dry_run: DryRunOption = False,
    temporal: TemporalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stops jobs of a pull request, all that are undecided if nothing narrows them.

    `opam-ci restart` brings them back.
    """
    selector = selector_of(platform, package, kind, revdep, job, head)
    update = CancelUpdate(selector=selector, preview=dry_run)
    asyncio.run(_one(target_of(pull_request).workflow_id, update, temporal, as_json=as_json))


def selector_of(
    platform: str | None,
    package: str | None,
    kind: str | None,
    revdep: str | None,
    job: str | None,
    head: str | None,
) -> JobSelector:
    """Reads which jobs are meant.

    Raises:
        UsageError: An option is empty, too long, or no such kind or commit.
    """
    given = {"platform": platform, "package": package, "revdep": revdep, "job": job}
    for name, value in given.items():
        if value is not None and not value.strip():
            raise UsageError(f"--{name} is empty; leave it out to take all")
    try:
        return JobSelector.model_validate(
            given | {"kind": one_of(JobKind, kind, "kind"), "head": head_of(head) if head else None}
        )
    except ValidationError as error:
        raise refused(error) from error


async def _one(
    workflow_id: str,
    update: RestartUpdate | CancelUpdate,
    temporal: str | None,
    *,
    as_json: bool,
) -> None:
    pull_requests = PullRequests(await connected(Settings(), temporal=temporal))
    answer = await _ask(pull_requests, workflow_id, update)
    if answer.refusal is not None:
        raise UsageError(answer.refusal)
    if as_json:
        print_json(as_line(answer, preview=update.preview))
        return
    for line in lines_of(answer, update):
        typer.echo(line)


async def _ask(
    pull_requests: PullRequests, workflow_id: str, update: RestartUpdate | CancelUpdate
) -> Answer:
    if isinstance(update, RestartUpdate):
        taken = await pull_requests.restart_jobs(workflow_id, update)
    else:
        taken = await pull_requests.cancel_jobs(workflow_id, update)
    if taken is None and update.preview:
        raise InfrastructureError(
            f"{workflow_id} cannot tell now: the index may be away; nothing was changed",
            cause=Cause.STORAGE,
        )
    return Answer(workflow_id, taken)


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
        asked = await asyncio.to_thread(requests_for, index, selector, incident)
    if not asked:
        raise UsageError(
            "nothing matches at the current heads of open pull requests; `opam-ci errors` "
            "shows what is errored"
        )
    pull_requests = PullRequests(await connected(settings, temporal=temporal))
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(workflow_id: str, selectors: Sequence[RestartSelector]) -> Answer:
        async with limit:
            answers = []
            for each in selectors:
                update = RestartUpdate(selector=each, preview=dry_run)
                try:
                    answers.append(await _ask(pull_requests, workflow_id, update))
                except (UsageError, InfrastructureError) as error:
                    answers.append(Answer(workflow_id, error=error))
                    break
            return joined(workflow_id, answers)

    answers = await asyncio.gather(*(ask(name, selectors) for name, selectors in asked.items()))
    for answer in answers:
        if as_json:
            print_json(as_line(answer, preview=dry_run))
        else:
            typer.echo(brief(answer))
    if not as_json:
        typer.echo(tally(answers, preview=dry_run))
    silent = [each.error for each in answers if isinstance(each.error, InfrastructureError)]
    if silent:
        raise InfrastructureError(
            f"{len(silent)} of {len(answers)} pull requests did not answer; repeat the command: "
            "what was restarted is left alone",
            cause=silent[0].cause,
        )
    if all(each.refusal is not None for each in answers):
        raise UsageError("nothing was restarted: no pull request took it")


def requests_for(
    index: Index, selector: RestartSelector, incident: int | None
) -> dict[str, tuple[RestartSelector, ...]]:
    """Finds whom to ask for what, at the current heads of all open pull requests.

    Args:
        index: Where to look.
        selector: What to restart.
        incident: Of what this incident hit alone: then jobs are named by their ids.

    Returns:
        By workflow, those with most jobs first where it is about no incident.

    Raises:
        UsageError: There is no such incident.
        InfrastructureError: The index cannot be read.
    """
    if incident is None:
        testings = [
            testing
            for standing in _standings(selector)
            for testing in index.counts_by_testing(_filter(selector, standing))
        ]
        return {workflow_of(each): (selector,) for each in testings}
    if index.incident(incident) is None:
        raise UsageError(f"there is no incident {incident}; `opam-ci incidents` lists them")
    hit = (each for each in index.hit_jobs(incident) if selector.narrows_to(each.job))
    return {
        order.workflow_id: tuple(
            selector.model_copy(update={"jobs": ids, "head": order.revision.head})
            for ids in _portions(order.jobs)
        )
        for order in orders_of(hit)
    }


def _standings(selector: RestartSelector) -> Iterable[Standing]:
    """Returns how jobs stand for which a pull request is asked.

    Not cancelled ones by default: whoever stopped a pull request did not mean the restart of
    everything that some fault hit.
    """
    match selector.which:
        case RestartWhich.ERRORED:
            return (Standing.ERRORED, Standing.RETRYING)
        case _:
            return sorted(selector.standings)


def _filter(selector: RestartSelector, standing: Standing) -> JobFilter:
    return JobFilter(
        of=CURRENT,
        standing=standing,
        cause=selector.cause,
        platform=selector.platform,
        package=selector.package,
        kind=selector.kind,
        revdep=selector.revdep,
        name=selector.job,
    )


def _portions(ids: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (ids[first : first + _IDS_AT_ONCE] for first in range(0, len(ids), _IDS_AT_ONCE))


def joined(workflow_id: str, answers: Sequence[Answer]) -> Answer:
    """Makes one answer of those of one workflow: a refusal counts only where all are refusals."""
    for answer in answers:
        if answer.error is not None or answer.taken is None:
            return answer
    taken = [each.taken for each in answers if each.taken is not None]
    done = [each for each in taken if each.refusal is None]
    if not done:
        return answers[0]
    platforms = Counter[str]()
    for each in done:
        platforms.update(each.by_platform)
    first = tuple(job for each in done for job in each.first)[:TAKEN_SHOWN]
    jobs = sum(each.jobs for each in done)
    return Answer(workflow_id, Taken(jobs=jobs, by_platform=dict(platforms), first=first))


def as_line(answer: Answer, *, preview: bool) -> dict[str, object]:
    """Returns an answer as a line of JSON."""
    taken = answer.taken or Taken()
    return {
        "workflow": answer.workflow_id,
        "jobs": taken.jobs,
        "by_platform": taken.by_platform,
        "first": list(taken.first),
        "preview": preview,
        "pending": answer.taken is None and answer.error is None,
        "error": answer.refusal,
    }


def lines_of(answer: Answer, update: RestartUpdate | CancelUpdate) -> Iterable[str]:
    """Yields what people are told of the answer of one pull request."""
    name = answer.workflow_id.removeprefix("pr/")
    if answer.taken is None:
        yield pending(answer)
        return
    taken = answer.taken
    done = "restarted" if isinstance(update, RestartUpdate) else "cancelled"
    yield f"{_jobs(taken.jobs)} of {name} {_verb(taken.jobs, done, preview=update.preview)}"
    if len(taken.by_platform) > 1:
        for platform, number in sorted(taken.by_platform.items()):
            yield f"  {number:,} on {platform or 'no platform (analysis, lint)'}"
    shown = taken.first[:_IDS_SHOWN]
    for job in shown:
        yield f"  {job}"
    if taken.jobs > len(shown):
        yield f"  and {taken.jobs - len(shown):,} more; `opam-ci jobs {name}` lists jobs"


def brief(answer: Answer) -> str:
    """Returns one line about the answer of one of many pull requests."""
    name = answer.workflow_id.removeprefix("pr/")
    if answer.refusal is not None:
        return f"{name}: not restarted: {answer.refusal}"
    if answer.taken is None:
        return pending(answer)
    some = ", ".join(answer.taken.first[:3])
    more = answer.taken.jobs - len(answer.taken.first[:3])
    return f"{name}: {some}" + (f" and {more:,} more" if more > 0 else "")


def pending(answer: Answer) -> str:
    """Returns what is said of a request that is accepted, and not answered yet."""
    return (
        f"{answer.workflow_id.removeprefix('pr/')}: accepted, and not done yet: the index may be "
        "away. It is done as soon as that is back; nothing need be repeated"
    )


def tally(answers: Sequence[Answer], *, preview: bool) -> str:
    """Returns the sum of many answers."""
    done = [each.taken for each in answers if each.taken is not None and each.refusal is None]
    number = sum(each.jobs for each in done)
    where = f"{len(done)} pull request{'' if len(done) == 1 else 's'}"
    return f"{_jobs(number)} of {where} {_verb(number, 'restarted', preview=preview)}"


def _jobs(number: int) -> str:
    return f"{number:,} job{'' if number == 1 else 's'}"


def _verb(number: int, done: str, *, preview: bool) -> str:
    if preview:
        return f"would be {done}"
    return f"{'is' if number == 1 else 'are'} {done}"
