"""Looking at checks and steering them: `status`, `log`, `restart`, `cancel`."""

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.cli.render import print_summary
from opam_ci.cli.session import connected
from opam_ci.cli.watch import with_phases
from opam_ci.clients.logs import LogReader
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.errors import InfrastructureError, UsageError
from opam_ci.core.outcome import Cause
from opam_ci.core.requests import RestartSelector, RestartWhich
from opam_ci.core.summary import JobStatus, Summary
from opam_ci.settings import Settings
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow

TemporalOption = Annotated[
    str | None, typer.Option(help="Address of a Temporal server; default: the embedded one.")
]
_LISTED = 50


def _workflow_id(words: str) -> str:
    """Returns the workflow id for `owner/repo#7`, `owner/repo/7` or a full id.

    Raises:
        UsageError: It is none of these.
    """
    found = re.fullmatch(r"(?:pr/)?([\w.-]+)/([\w.-]+)[#/]([\w.-]+)", words)
    if found is None:
        raise UsageError(
            f"{words!r} names no pull request; write OWNER/REPO/NUMBER, as `opam-ci status` does"
        )
    return "pr/" + "/".join(found.groups())


def status(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none lists all.")
    ] = None,
    temporal: TemporalOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows one pull request's jobs, or the latest pull requests and what is wrong with them."""
    asyncio.run(_status(pull_request, temporal, as_json=as_json))


async def _status(pull_request: str | None, temporal: str | None, *, as_json: bool) -> None:
    client = await connected(Settings(), temporal=temporal)
    if pull_request is None:
        await _list(client, as_json=as_json)
        return
    summary = await _summary(client, _workflow_id(pull_request))
    if as_json:
        typer.echo(summary.model_dump_json())
    else:
        print_summary(Console(), summary)


async def _summary(client: Client, workflow_id: str) -> Summary:
    try:
        summary = await client.get_workflow_handle(workflow_id).query(PullRequestWorkflow.summary)
        described = await client.get_workflow_handle(workflow_id).describe()
        return await with_phases(client, described, summary)
    except RPCError as error:
        raise _explained(error, workflow_id) from error


def _explained(error: RPCError, workflow_id: str) -> UsageError | InfrastructureError:
    if error.status is RPCStatusCode.NOT_FOUND:
        return UsageError(
            f"there is no running check {workflow_id!r} on this server; `opam-ci status` lists them"
        )
    return InfrastructureError(
        f"Temporal does not answer for {workflow_id}: {error.message}", cause=Cause.UNKNOWN
    )


async def _list(client: Client, *, as_json: bool) -> None:
    found = [
        execution
        async for execution in client.list_workflows(
            "WorkflowType = 'PullRequestWorkflow'", limit=_LISTED
        )
    ]
    if as_json:
        for execution in found:
            typer.echo(_as_json(execution))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("pull request", "state", "causes", "head", "workflow", "since (UTC)"):
        table.add_column(column)
    for execution in found:
        values = _values(execution)
        table.add_row(*(str(values[key]) for key in values))
    Console().print(table if found else "no checks yet; `opam-ci check --help` tells how to start")


def _values(execution: WorkflowExecution) -> dict[str, Any]:
    attributes = execution.typed_search_attributes
    return {
        "id": execution.id.removeprefix("pr/"),
        "state": attributes.get(options.CI_STATE) or "pending",
        "causes": ", ".join(attributes.get(options.CI_CAUSES) or []),
        "head": (attributes.get(options.CI_HEAD) or "")[:12],
        "workflow": execution.status.name.lower() if execution.status else "",
        "since": f"{execution.start_time:%Y-%m-%d %H:%M}",
    }


def _as_json(execution: WorkflowExecution) -> str:
    import json  # noqa: PLC0415  the parameter of the commands has its name

    return json.dumps(_values(execution))


def log(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    job: Annotated[str, typer.Argument(help="Job id or part of it, such as `test cppo`.")],
    attempt: Annotated[
        int | None, typer.Option(help="A faulted attempt's log; default: the last one's.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while it grows.")] = False,
    temporal: TemporalOption = None,
) -> None:
    """Prints the log of a job."""
    asyncio.run(_log(pull_request, job, attempt, temporal, follow=follow))


async def _log(
    pull_request: str, job: str, attempt: int | None, temporal: str | None, *, follow: bool
) -> None:
    settings = Settings()
    client = await connected(settings, temporal=temporal)
    summary = await _summary(client, _workflow_id(pull_request))
    row = _find(summary, job)
    key = row.log
    if attempt is not None and attempt != row.attempt:
        key = next((f.log for f in row.faults if f.attempt == attempt), None)
    if key is None:
        raise UsageError(f"{row.job.id} has no log for that attempt (yet)")
    reader = LogReader(ArtifactStore.open(settings.store_url))
    if follow:
        async for chunk in reader.follow(key):
            _write(chunk)
        return
    _write(await reader.read(key))


def _find(summary: Summary, job: str) -> JobStatus:
    """Returns the one job that words name: its id, whole words of it, or parts of it."""
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


def _write(log: bytes) -> None:
    """Writes a log to stdout; a terminal gets no escape codes, since a build wrote them."""
    if sys.stdout.isatty():
        log = re.sub(rb"[\x00-\x08\x0b-\x1f\x7f]", b"", log)
    sys.stdout.buffer.write(log)
    sys.stdout.buffer.flush()


def restart(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    failed: Annotated[bool, typer.Option("--failed", help="Failed jobs.")] = False,
    all_jobs: Annotated[bool, typer.Option("--all", help="All jobs.")] = False,
    platform: Annotated[str | None, typer.Option(help="Only on this platform.")] = None,
    package: Annotated[str | None, typer.Option(help="Only this package.")] = None,
    cause: Annotated[
        str | None, typer.Option(help=f"Only errors with this cause: {', '.join(Cause)}.")
    ] = None,
    temporal: TemporalOption = None,
) -> None:
    """Starts jobs again: by default those that the CI itself lost."""
    if cause is not None and cause not in set(Cause):
        raise UsageError(f"no cause {cause!r}; there are: {', '.join(Cause)}")
    if failed and all_jobs:
        raise UsageError("--failed and --all exclude each other")
    which = RestartWhich.FAILED if failed else RestartWhich.ERRORED
    selector = RestartSelector(
        which=RestartWhich.ALL if all_jobs else which,
        platform=platform,
        package=package,
        cause=Cause(cause) if cause else None,
    )
    asyncio.run(_signal(pull_request, temporal, "restart", selector))


def cancel(
    pull_request: Annotated[str, typer.Argument(help="OWNER/REPO/NUMBER.")],
    temporal: TemporalOption = None,
) -> None:
    """Stops the running jobs of a pull request; `restart` brings them back."""
    asyncio.run(_signal(pull_request, temporal, "cancel", None))


async def _signal(
    pull_request: str, temporal: str | None, signal: str, argument: RestartSelector | None
) -> None:
    workflow_id = _workflow_id(pull_request)
    client = await connected(Settings(), temporal=temporal)
    handle = client.get_workflow_handle(workflow_id)
    try:
        await handle.signal(signal, args=[] if argument is None else [argument])
    except RPCError as error:
        raise _explained(error, workflow_id) from error
    typer.echo(f"{signal} sent to {workflow_id}")
