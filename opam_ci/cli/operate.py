"""What the commands that look at checks and steer them share."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from pydantic import BaseModel
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.cli.lookup import one_of
from opam_ci.cli.watch import with_phases
from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.summary import Summary
from opam_ci.settings import Settings
from opam_ci.workflows.pull_request import PullRequestWorkflow

TemporalOption = Annotated[
    str | None, typer.Option(help="Address of a Temporal server; default: the embedded one.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
_SPAN = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


async def summary_of(client: Client, workflow_id: str) -> Summary:
    """Asks a pull request's workflow how it stands.

    Raises:
        UsageError: There is no such workflow.
        InfrastructureError: It does not answer.
    """
    try:
        summary = await client.get_workflow_handle(workflow_id).query(PullRequestWorkflow.summary)
        described = await client.get_workflow_handle(workflow_id).describe()
        return await with_phases(client, described, summary)
    except RPCError as error:
        raise explained(error, workflow_id) from error
    except WorkflowQueryFailedError as error:
        raise InfrastructureError(
            f"the workflow {workflow_id} does not answer: {error}", cause=Cause.UNKNOWN
        ) from error


def explained(error: RPCError, workflow_id: str) -> UsageError | InfrastructureError:
    """Returns what an error of the server means for whoever asked for a workflow."""
    if error.status is RPCStatusCode.NOT_FOUND:
        return UsageError(
            f"there is no running check {workflow_id!r} on this server; `opam-ci status` lists them"
        )
    return InfrastructureError(
        f"Temporal does not answer for {workflow_id}: {error.message}", cause=Cause.UNKNOWN
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
            f"there is no index at {path} yet; check something first, or name the index of a "
            "fleet with OPAM_CI_INDEX=postgresql://USER@HOST/DATABASE"
        )
    index = Index.open(settings.index_url)
    try:
        yield index
    finally:
        index.close()


def cause_of(word: str | None) -> Cause | None:
    """Reads a cause.

    Raises:
        UsageError: There is no such cause.
    """
    return one_of(Cause, word, "cause")


def moment(words: str, now: datetime) -> datetime:
    """Reads a time: `90m`, `24h` or `7d` ago, or an ISO date or time (UTC unless it says).

    Raises:
        UsageError: It is none of these.
    """
    if found := _SPAN.fullmatch(words):
        return now - int(found[1]) * _UNITS[found[2]]
    try:
        parsed = datetime.fromisoformat(words)
    except ValueError as error:
        raise UsageError(f"{words!r} is no time; give 90m, 24h, 7d, or 2026-05-04T12:00") from error
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def ago(at: datetime, now: datetime) -> str:
    """Returns how long ago something was, in one unit, such as `5m`."""
    seconds = max(0, int((now - at).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def print_json(value: BaseModel | dict[str, object]) -> None:
    """Prints one line of JSON."""
    typer.echo(value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value))


def head_target(repository: str, target: str) -> str:
    """Returns how commands name a pull request of the index: OWNER/REPO/NUMBER, or a branch."""
    return f"{repository}/{target.removeprefix('pull/')}"
