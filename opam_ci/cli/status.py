"""`opam-ci status`: pull requests and what is wrong with them, or one of them with its jobs."""

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from temporalio.client import Client, WorkflowExecution

from opam_ci.cli.lookup import target_of
from opam_ci.cli.operate import JsonOption, TemporalOption, print_table, summary_of
from opam_ci.cli.render import print_summary, whole_state
from opam_ci.cli.session import connected
from opam_ci.settings import Settings
from opam_ci.workflows import options

_LISTED = 50


def status(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none lists all.")
    ] = None,
    temporal: TemporalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Shows one pull request's jobs, or the latest pull requests and what is wrong with them."""
    asyncio.run(_status(pull_request, temporal, as_json=as_json))


async def _status(pull_request: str | None, temporal: str | None, *, as_json: bool) -> None:
    client = await connected(Settings(), temporal=temporal)
    if pull_request is None:
        await _list(client, as_json=as_json)
        return
    summary = await summary_of(client, target_of(pull_request).workflow_id)
    if as_json:
        typer.echo(json.dumps(whole_state(summary), ensure_ascii=False))
    else:
        print_summary(Console(), summary)


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
    if found:
        print_table(table)
    else:
        typer.echo("no checks yet; `opam-ci check --help` tells how to start")


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
    return json.dumps(_values(execution))
