"""`opam-ci worker`: a process that runs jobs until SIGTERM."""

import asyncio
import logging
from typing import Annotated

import typer

from opam_ci.app.collector import tune_gc
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services
from opam_ci.cli.selection import command_options as opt
from opam_ci.core.printable import readable
from opam_ci.worker import serve


def worker(
    temporal: opt.Server = None,
    pool: Annotated[
        list[str] | None, typer.Option(help="Build for this pool; may be repeated.")
    ] = None,
    builds: Annotated[
        int | None, typer.Option(help="Jobs to build at once; default: one a core.", min=1)
    ] = None,
    orchestrate: Annotated[
        bool, typer.Option(help="Also run workflows, analysis and lint, and write the index.")
    ] = True,
    build: Annotated[bool, typer.Option(help="Build packages.")] = True,
) -> None:
    """Runs a worker, by default with all roles.

    A fleet has orchestration workers (`--no-build`) and build workers
    (`--no-orchestrate --pool NAME`). SIGTERM stops it; its running builds return to the
    queue and are retried elsewhere.
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
    log_to_stderr()
    tune_gc()
    asyncio.run(serve(settings.model_copy(update=changes), ready=services.announce_ready))


class _Readable(logging.Formatter):
    """Messages cite what others wrote, and a log is read at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return readable(super().format(record))


def log_to_stderr() -> None:
    """Sets up logging of a process that runs in the background."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Readable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # httpx logs the URL of each request: each scrape of the SDK's metrics makes one.
    logging.getLogger("httpx").setLevel(logging.WARNING)
