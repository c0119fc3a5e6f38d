"""`opam-ci waivers`: lists, adds and removes waivers of known failures."""

import asyncio
import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from opam_ci.app.pull_requests import PullRequests
from opam_ci.app.settings import Settings
from opam_ci.cli.local.session import connected
from opam_ci.cli.output.tables import Column, Listing, print_text
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.operate import moment, opened_index, print_items, print_json
from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.waiver import Waiver, duplicate, refusal
from opam_ci.core.printable import flat
from opam_ci.core.text.waiver import added_lines, removed_line, state_text

app = typer.Typer(
    name="waivers",
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Lists waivers of known failures, which are shown and do not count; `add` and `remove` "
    "one. In a pipe, tabs separate: #, failures, by, state, because.",
)
NumberArgument = Annotated[int, typer.Argument(help="Number of the waiver.", min=1)]
ByOption = Annotated[str | None, typer.Option(help="Who decides that; default: your account.")]


@app.callback()
def listing(context: typer.Context, as_json: opt.Json = False) -> None:
    """Lists waivers in force, the next to expire first, and those that ended within 30 days."""
    if context.invoked_subcommand is not None:
        return
    now = datetime.now(UTC)
    with opened_index(Settings()) as index:
        found = index.waivers(now)
    table = Listing(
        Column("#", is_key=True, is_number=True),
        Column("failures", is_key=True, wraps=20),
        Column("by", drop=1),
        Column("state", wraps=16),
        Column("because", wraps=20),
    )
    for each in found:
        table.add(str(each.id), each.scope, each.login, state_text(each, now), each.because)
    print_items(found, table, as_json=as_json, none="no waivers; `opam-ci waivers add` adds one")


@app.command()
def add(
    package: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE",
            help="Glob of the package that fails, such as lwt, 'coq-*' or 'lwt.5.*': "
            "of a reverse dependency, if it is one.",
        ),
    ],
    because: Annotated[str, typer.Option(help="Why the failures do not count: a link is best.")],
    until: Annotated[
        str, typer.Option(help="When they count again: 30d, or 2026-12-24; 180 days at most.")
    ],
    platform: Annotated[str, typer.Option(help="Only on platforms of this glob.")] = "*",
    kind: opt.Kind = None,
    reason: opt.Reason = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Only failures that look the same: what follows `group:` in a page's filter."
        ),
    ] = None,
    by: ByOption = None,
    dry_run: opt.DryRun = False,
    temporal: opt.Temporal = None,
    as_json: opt.Json = False,
) -> None:
    """Adds a waiver: failures of builds and tests in its scope are shown and do not count.

    Those of the current heads of open pull requests are waived at once; --dry-run counts them.

    \b
      opam-ci waivers add lwt_ssl --kind revdep-test --platform 'alpine-*' \\
        --until 30d --because https://github.com/ocsigen/lwt/issues/1
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    now = datetime.now(UTC)
    waiver = Waiver(
        package=package,
        platform=platform,
        kind=kind,
        reason=reason,
        cause_group=group,
        because=flat(because),
        login=_login(by),
        created_at=now,
        expires_at=moment(until, now, ahead=True),
    )
    if (problem := refusal(waiver)) is not None:
        raise UsageError(problem)
    asyncio.run(_add(waiver, temporal, dry_run=dry_run, as_json=as_json))


@app.command()
def remove(number: NumberArgument, by: ByOption = None, as_json: opt.Json = False) -> None:
    """Removes a waiver; failures that it took count again once their jobs are restarted."""
    with opened_index(Settings()) as index:
        waiver = index.remove_waiver(number, login=_login(by), at=datetime.now(UTC))
    if as_json:
        print_json(waiver)
    else:
        print_text(removed_line(waiver))


def _login(by: str | None) -> str:
    try:
        return flat(getpass.getuser() if by is None else by)
    except (KeyError, OSError) as error:
        raise UsageError("your account has no name: give in --by who decides that") from error


async def _add(waiver: Waiver, temporal: str | None, *, dry_run: bool, as_json: bool) -> None:
    settings = Settings()
    with opened_index(settings) as index:
        # Before anything is changed: without Temporal, heads would stay red.
        pull_requests = PullRequests(await connected(settings, temporal=temporal))
        in_force = index.waivers(waiver.created_at)
        if dry_run:
            if (problem := duplicate(waiver, in_force)) is not None:
                raise UsageError(problem)
        else:
            waiver = index.add_waiver(waiver)
        taken = await apply(index, pull_requests, waiver, preview=dry_run)
    if as_json:
        line = waiver.model_dump(mode="json")
        print_json({**line, "failures": sum(taken.values()), "preview": dry_run})
        return
    others = [each for each in in_force if waiver.overlaps(each)]
    for text in added_lines(waiver, others, list(taken.values()), preview=dry_run):
        print_text(text)


async def apply(
    index: Index, pull_requests: PullRequests, waiver: Waiver, *, preview: bool
) -> dict[RevisionKey, int]:
    """Waives the failures of open pull requests that a new waiver takes.

    Not those of checks that have ended: their verdict does not change any more.

    Args:
        index: The job index.
        pull_requests: The workflows.
        waiver: The waiver, in the index.
        preview: Whether only to count them.

    Returns:
        How many in each testing.

    Raises:
        InfrastructureError: The index or Temporal is not available.
    """
    taken = {}
    for testing, number in index.failures_taken(waiver).items():
        if await pull_requests.is_running(testing):
            taken[testing] = number
            if not preview and index.waive(testing, waiver.created_at):
                await pull_requests.recount(testing)
    return taken
