"""`opam-ci status`: the latest pull requests and their states, or one with its jobs."""

import asyncio
import json
from typing import Annotated

import typer
from temporalio.client import Client, WorkflowExecution

from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.render import print_summary, whole_state
from opam_ci.cli.output.tables import Column, Listing, output
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import target_of
from opam_ci.cli.selection.operate import print_items, summary_of
from opam_ci.workflows import options

_LISTED = 50


def status(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none lists all.")
    ] = None,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Shows one pull request's jobs, or the latest pull requests and their states.

    The first is a report. Of the second, in a pipe, tabs separate: pull request, state, causes,
    head, workflow, since (UTC).
    """
    asyncio.run(_status(pull_request, temporal, as_json=as_json))


async def _status(pull_request: str | None, temporal: str | None, *, as_json: bool) -> None:
    client = await connected(Settings(), temporal=temporal)
    if pull_request is None:
        await _list(client, as_json=as_json)
        return
    summary = await summary_of(client, target_of(pull_request).workflow_id)
    if as_json:
        typer.echo(json.dumps(whole_state(summary)))
    else:
        print_summary(output(), summary)


async def _list(client: Client, *, as_json: bool) -> None:
    found = [
        _values(execution)
        async for execution in client.list_workflows(
            "WorkflowType = 'PullRequestWorkflow'", limit=_LISTED
        )
    ]
    listing = Listing(
        Column("pull request", is_key=True),
        Column("state"),
        Column("causes", wraps=16),
        Column("head", drop=3),
        Column("workflow", drop=1),
        Column("since (UTC)", drop=2),
    )
    for values in found:
        listing.add(*values.values())
    print_items(found, listing, as_json=as_json, none="no checks yet; see `opam-ci check --help`")


def _values(execution: WorkflowExecution) -> dict[str, str]:
    attributes = execution.typed_search_attributes
    return {
        "id": execution.id.removeprefix("pr/"),
        "state": attributes.get(options.CI_STATE) or "pending",
        "causes": ", ".join(attributes.get(options.CI_CAUSES) or []),
        "head": (attributes.get(options.CI_HEAD) or "")[:12],
        "workflow": execution.status.name.lower() if execution.status else "",
        "since": f"{execution.start_time:%Y-%m-%d %H:%M}",
    }
