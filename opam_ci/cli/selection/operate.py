"""What the operator's commands share: the index, queries of workflows, times and JSON lines."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import typer
from pydantic import BaseModel
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.app.settings import Settings
from opam_ci.cli.output.tables import Listing, note, print_listing
from opam_ci.cli.output.watch import with_phases
from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import Summary
from opam_ci.workflows.pull_request import PullRequestWorkflow

_DURATION = re.compile(r"(\d{1,5})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


async def summary_of(client: Client, workflow_id: str) -> Summary:
    """Queries a pull request's workflow.

    Raises:
        UsageError: There is no such workflow.
        InfrastructureError: The query failed.
    """
    try:
        summary = await client.get_workflow_handle(workflow_id).query(PullRequestWorkflow.summary)
        described = await client.get_workflow_handle(workflow_id).describe()
        return await with_phases(client, described, summary)
    except RPCError as error:
        raise explained(error, workflow_id) from error
    except WorkflowQueryFailedError as error:
        raise InfrastructureError(
            f"the query of the workflow {workflow_id} failed: {error}", cause=Cause.UNKNOWN
        ) from error


def explained(error: RPCError, workflow_id: str) -> UsageError | InfrastructureError:
    """Returns the error that a user sees when a request about a workflow failed."""
    if error.status is RPCStatusCode.NOT_FOUND:
        return UsageError(
            f"no running check {workflow_id!r} on this server; `opam-ci status` lists them"
        )
    return InfrastructureError(
        f"Temporal failed for {workflow_id}: {error.message}", cause=Cause.UNKNOWN
    )


@contextlib.contextmanager
def opened_index(settings: Settings) -> Iterator[Index]:
    """Opens the job index for a command.

    Raises:
        UsageError: There is none yet, or it is of a newer version.
        InfrastructureError: It cannot be read.
    """
    path = settings.home / "index.sqlite"
    if not settings.index and not path.exists():
        raise UsageError(
            f"no index at {path} yet; check something first, or name the index of a "
            "fleet with OPAM_CI_INDEX=postgresql://USER@HOST/DATABASE"
        )
    index = Index.open(settings.index_url)
    try:
        yield index
    finally:
        index.close()


def moment(text: str, now: datetime, *, ahead: bool = False) -> datetime:
    """Parses a time: `90m`, `24h` or `7d` ago, or an ISO date or time, in UTC without a zone.

    Args:
        text: The time.
        now: The time from which it is reckoned.
        ahead: Whether `7d` is in seven days.

    Raises:
        UsageError: It is none of these.
    """
    if found := _DURATION.fullmatch(text):
        return now + (1 if ahead else -1) * int(found[1]) * _UNITS[found[2]]
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"invalid time {text!r}: write 90m, 24h, 7d, or 2026-05-04T12:00"
        ) from error
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def ago(at: datetime, now: datetime) -> str:
    """Returns the time since then in one unit, such as `5m`."""
    seconds = max(0, int((now - at).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def print_json(value: BaseModel | Mapping[str, object]) -> None:
    """Prints one line of JSON."""
    if isinstance(value, BaseModel):
        typer.echo(value.model_dump_json(ensure_ascii=True))
    else:
        typer.echo(json.dumps(value))


def print_items(
    items: Sequence[BaseModel | Mapping[str, object]], listing: Listing, *, as_json: bool, none: str
) -> None:
    """Prints items as JSON lines, or their listing, or a note that there are none."""
    if as_json:
        for each in items:
            print_json(each)
    elif items:
        print_listing(listing)
    else:
        note(none)


def head_target(repository: str, target: str) -> str:
    """Returns the name of a pull request on the command line: OWNER/REPO/NUMBER, or a branch."""
    return f"{repository}/{target.removeprefix('pull/')}"
