"""`opam-ci status`: the latest pull requests and their states, or one with its jobs."""

import asyncio
import contextlib
import json
from typing import Annotated

import typer
from temporalio.client import Client, WorkflowExecution

from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.render import print_summary, whole_state
from opam_ci.cli.output.tables import Column, Listing, output
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import Target, find_testing, target_of
from opam_ci.cli.selection.operate import head_target, opened_index, print_items, summary_of
from opam_ci.cli.selection.server import is_server_named, opened_listings
from opam_ci.clients.index import Place, RevisionFilter
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.records import RevisionRecord
from opam_ci.core.jobs.summary import State, Summary
from opam_ci.workflows import options

_LISTED = 50


def status(
    pull_request: Annotated[
        str | None, typer.Argument(help="OWNER/REPO/NUMBER; none lists all.")
    ] = None,
    head: opt.OldHead = None,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Shows one pull request's jobs, or the latest pull requests and their states.

    The first is a report. Of the second, in a pipe, tabs separate: pull request, state, causes,
    head, workflow, since (UTC).
    """
    if head is not None and pull_request is None:
        raise UsageError("--head needs a pull request")
    if is_server_named(temporal) or head is not None:
        _status_of_index(pull_request, head, as_json=as_json)
    else:
        asyncio.run(_status(pull_request, temporal, as_json=as_json))


def _status_of_index(pull_request: str | None, head: str | None, *, as_json: bool) -> None:
    """Shows what a server or the index has: without Temporal, and of older heads."""
    with opened_listings(Settings()) as index:
        if pull_request is None:
            page = index.revisions(RevisionFilter(newest=True), place=Place(limit=_LISTED))
            _print_list([_values_of(each) for each in page.items], as_json=as_json)
            return
        testing = find_testing(index, target_of(pull_request), head)
        summary = index.summary(testing.key)
    if summary is not None:
        _print_one(summary, as_json=as_json)


async def _status(pull_request: str | None, temporal: str | None, *, as_json: bool) -> None:
    client = await connected(Settings(), temporal=temporal)
    if pull_request is None:
        await _list(client, as_json=as_json)
        return
    target = target_of(pull_request)
    summary = await summary_of(client, target.workflow_id)
    _print_one(_with_estimate(summary, target), as_json=as_json)


def _with_estimate(summary: Summary, target: Target) -> Summary:
    """Adds when it will be done: the workflow knows the first estimate, the index may be away."""
    if summary.state is State.PENDING:
        with (
            contextlib.suppress(UsageError, InfrastructureError),
            opened_index(Settings()) as index,
        ):
            found = index.summary(find_testing(index, target, None).key)
            if found is not None and found.head == summary.head:
                notices = (*summary.notices, *found.notices)
                newest = {"notices": notices, "estimated_until": None}
                return summary.model_copy(update=newest)
    return summary


def _print_one(summary: Summary, *, as_json: bool) -> None:
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
    _print_list(found, as_json=as_json)


def _print_list(found: list[dict[str, str]], *, as_json: bool) -> None:
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


def _values_of(record: RevisionRecord) -> dict[str, str]:
    return {
        "id": head_target(record.key.repository, record.key.target),
        "state": record.state.value,
        "causes": "",
        "head": record.key.head[:12],
        "workflow": "open" if record.is_open else "closed",
        "since": f"{record.key.opened_at:%Y-%m-%d %H:%M}",
    }
