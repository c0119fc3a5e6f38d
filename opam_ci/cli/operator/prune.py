"""`opam-ci prune`: deletes old rows of the index, and what the store has of them."""

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
    days: Annotated[
        int | None,
        typer.Option(
            help="Keep what has changed in this many days; default: OPAM_CI_RETENTION_DAYS.", min=1
        ),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Deletes closed pull requests, and branches, that have not changed for long.

    Nothing of an open pull request is deleted. Exported repositories that no testing needs, and
    logs of canaries, are deleted too. Workers do this every night, by the schedule `retention`.
    It may be stopped at any time: each batch of rows is deleted in one transaction, after its logs.
    """
    settings = Settings()
    now = datetime.now(UTC)
    before = now - timedelta(days=days or settings.retention_days)
    store = ArtifactStore.open(settings.store_url)
    with opened_index(settings) as index:
        done = asyncio.run(prune_all(index, store, before, now=now))
    if as_json:
        print_json(done)
        return
    typer.echo(
        f"deleted {done.revisions} heads, {done.pull_requests} pull requests, "
        f"{done.incidents} incidents, {done.logs} logs and {done.findings} lint findings not "
        f"changed since {before:%Y-%m-%d}; {done.overlays} overlays and {done.bases} base "
        f"repositories that no head needs; {done.canary_logs} log objects of canaries"
    )
