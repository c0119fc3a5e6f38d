"""`opam-ci prune`: deletes old rows of the index, and their logs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from opam_ci.app.settings import Settings
from opam_ci.cli.selection import command_options as opt
from opam_ci.cli.selection.operate import opened_index, print_json
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.retention import prune as prune_all


def prune(
    days: Annotated[int, typer.Option(help="Keep what has changed in this many days.", min=1)] = 90,
    as_json: opt.Json = False,
) -> None:
    """Deletes closed pull requests, and branches, that have not changed for long.

    Nothing of an open pull request is deleted. It may be stopped at any time, and run by
    cron: each batch of rows is deleted in one transaction, after its logs.
    """
    settings = Settings()
    before = datetime.now(UTC) - timedelta(days=days)
    with opened_index(settings) as index:
        done = asyncio.run(prune_all(index, ArtifactStore.open(settings.store_url), before))
    if as_json:
        print_json(done)
        return
    typer.echo(
        f"deleted {done.revisions} heads, {done.pull_requests} pull requests, "
        f"{done.incidents} incidents and {done.logs} logs not changed since {before:%Y-%m-%d}"
    )
