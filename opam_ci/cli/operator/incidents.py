"""`opam-ci incidents`: lists, shows and resolves incidents."""

import asyncio
import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.tables import Column, Listing, print_text
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.lookup import find_incident
from opam_ci.cli.selection.operate import ago, explained, opened_index, print_items, print_json
from opam_ci.clients.index import IncidentFilter, Place
from opam_ci.core.errors import UsageError
from opam_ci.core.incidents.messages import INCIDENT_WORKFLOW, IncidentState, workflow_id
from opam_ci.core.incidents.model import Incident, Scope
from opam_ci.core.incidents.restarts import orders_of, restart_plan
from opam_ci.core.text.status import incident_title
from opam_ci.workflows import options

app = typer.Typer(
    name="incidents",
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Lists incidents; `show` and `resolve` take one. In a pipe, tabs separate: #, cause, "
    "where, first, last, faults, jobs, prs, state.",
)
NumberArgument = Annotated[int, typer.Argument(help="Number of the incident.", min=1)]


@app.callback()
def listing(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also resolved ones and those of a single fault.")
    ] = False,
    cause: opt.Cause = None,
    limit: opt.Limit = 50,
    as_json: opt.Json = False,
) -> None:
    """Lists open incidents of two faults or more, last seen first."""
    if context.invoked_subcommand is not None:
        return
    # A single fault whose retry succeeds is hardly an incident.
    wanted = IncidentFilter(
        is_open=None if everything else True,
        least_faults=1 if everything else 2,
        cause=cause,
    )
    with opened_index(Settings()) as index:
        found = index.incidents(wanted, place=Place(limit=limit)).items
    now = datetime.now(UTC)
    table = Listing(
        Column("#", is_key=True, is_number=True),
        Column("cause", is_key=True),
        Column("where", is_key=True),
        Column("first", drop=1),
        Column("last", drop=2),
        Column("faults", drop=3, is_number=True),
        Column("jobs", is_number=True),
        Column("prs", is_number=True),
        Column("state", wraps=16),
    )
    for each in found:
        state = "open"
        if each.resolved_at is not None:
            state = f"resolved {ago(each.resolved_at, now)} ago by {each.resolved_by}"
        table.add(
            str(each.id), each.cause.value, _where(each),
            f"{ago(each.first_seen_at, now)} ago", f"{ago(each.last_seen_at, now)} ago",
            str(each.faults), str(each.jobs), str(each.pull_requests), state,
        )  # fmt: skip
    print_items(found, table, as_json=as_json, none="no open incidents; --all lists the others")


@app.command()
def show(number: NumberArgument, as_json: opt.Json = False) -> None:
    """Shows one incident: its evidence, and the jobs that are still errored by it."""
    with opened_index(Settings()) as index:
        incident = find_incident(index, number)
        hit = index.hit_jobs(number)
        undecided = index.undecided_jobs(number)
    orders = orders_of(hit)
    if as_json:
        print_json(
            {
                "incident": incident.model_dump(mode="json"),
                "errored": [order.model_dump(mode="json") for order in orders],
                "undecided": undecided,
            }
        )
        return
    evidence = incident.evidence
    print_text(f"incident {number}: {incident_title(incident)}")
    print_text(
        f"first seen {incident.first_seen_at:%Y-%m-%d %H:%M:%S} UTC, last "
        f"{incident.last_seen_at:%Y-%m-%d %H:%M:%S} UTC, {incident.faults} faults"
    )
    if incident.resolved_at is not None:
        print_text(
            f"resolved {incident.resolved_at:%Y-%m-%d %H:%M:%S} UTC by {incident.resolved_by}"
        )
    print_text(f"evidence [{evidence.rule}]: {evidence.detail or ''}")
    for line in evidence.lines:
        print_text(f"  {line.text}")
    print_text(f"{len(hit)} jobs are errored by it, {undecided} are undecided")
    for order in orders:
        print_text(f"  {order.workflow_id}: {', '.join(order.jobs)}")


@app.command()
def resolve(
    number: NumberArgument,
    dry_run: opt.DryRun = False,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Resolves a repaired incident: restarts one job, and if that does not err all others."""
    asyncio.run(_resolve(number, temporal, dry_run=dry_run, as_json=as_json))


async def _resolve(number: int, temporal: str | None, *, dry_run: bool, as_json: bool) -> None:
    settings = Settings()
    with opened_index(settings) as index:
        incident = find_incident(index, number)
        plan = restart_plan(index.hit_jobs(number))
    if not incident.is_open:
        raise UsageError(
            f"incident {number} was resolved at {incident.resolved_at:%Y-%m-%d %H:%M} UTC by "
            f"{incident.resolved_by}; `opam-ci restart --incident {number}` restarts what is left"
        )
    if not dry_run:
        client = await connected(settings, temporal=temporal)
        try:
            await client.start_workflow(
                INCIDENT_WORKFLOW,
                IncidentState(incident=number, intervals=settings.incident_intervals),
                id=workflow_id(number),
                task_queue=options.ORCHESTRATION_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="repaired",
                start_signal_args=[getpass.getuser()],
            )
        except RPCError as error:
            raise explained(error, workflow_id(number)) from error
    if as_json:
        print_json(
            {"incident": number, "jobs": plan.jobs, "spent": len(plan.spent), "sent": not dry_run}
        )
        return
    trial = plan.trial.jobs[0] if plan.trial is not None else "none"
    will = "would restart" if dry_run else "restarts"
    typer.echo(
        f"incident {number} {will} {plan.jobs} jobs in {len(plan.windows)} windows after the "
        f"trial ({trial})"
    )
    if plan.spent:
        typer.echo(
            f"{len(plan.spent)} jobs have used their automatic restarts: "
            f"`opam-ci restart --incident {number}` restarts these too"
        )


def _where(incident: Incident) -> str:
    place = incident.place
    if place.scope is Scope.ALL:
        return "several pools"
    return place.worker or f"pool {place.pool}"
