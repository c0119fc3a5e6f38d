"""`opam-ci worker`: a process that takes jobs until it is told to stop."""

import asyncio
import logging
from typing import Annotated

import typer

from opam_ci.cli import services
from opam_ci.settings import Settings
from opam_ci.worker import serve, tune_gc


def worker(
    temporal: Annotated[
        str | None, typer.Option(help="Address of the Temporal server [env: OPAM_CI_TEMPORAL].")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Build for this pool; may be repeated.")
    ] = None,
    builds: Annotated[
        int | None, typer.Option(help="Jobs to build at once; default: one a core.", min=1)
    ] = None,
    orchestrate: Annotated[
        bool, typer.Option(help="Also run workflows, analysis and lint, and write the index.")
    ] = True,
    build: Annotated[bool, typer.Option(help="Build at all.")] = True,
) -> None:
    """Runs a worker: by default one for all roles.

    A fleet has orchestration workers (`--no-build`) and build workers
    (`--no-orchestrate --pool NAME`). SIGTERM stops it; its running builds go back to the
    queue and are tried again elsewhere.
    """
    settings = Settings()
    changes: dict[str, object] = {"orchestrate": orchestrate}
    if temporal is not None:
        changes["temporal"] = temporal
    if pool:
        changes["pools"] = tuple(pool)
    if not build:
        changes["pools"] = ()
    if builds is not None:
        changes["builds"] = builds
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Each scrape asks the SDK for its metrics.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tune_gc()
    asyncio.run(serve(settings.model_copy(update=changes), ready=services.announce_ready))
