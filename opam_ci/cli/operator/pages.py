"""`opam-ci pages`: serves pages for people, also as a process of `opam-ci serve`."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import stop_on_signal
from opam_ci.cli.local import services
from opam_ci.cli.operator.child import child_running
from opam_ci.cli.operator.listening import address_of, listening
from opam_ci.cli.operator.work import log_to_stderr
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context
from opam_ci.core.model import Frozen
from opam_ci.web.guard import GuardLimits
from opam_ci.web.pages import application
from opam_ci.web.server import affordable, serving
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources

_log = logging.getLogger(__name__)

_LIMITS = GuardLimits(
    connections=2000,
    # Requests of pages have no bodies to speak of.
    unread_bytes=4 << 20,
    # Who follows a log reads for as long as the job runs, and resumes where it was.
    answer_timeout=timedelta(hours=1),
)


class PagesOptions(Frozen):
    """What the process gets on the first line of its standard input, beside the environment.

    Attributes:
        listener: Descriptor of the listening socket.
        contexts: The contexts that are posted to GitHub.
        maximum_attempts: Attempts of a job, None if they are not known.
        platforms: File of platforms; None for the one of the settings.
        temporal_ui: Address of Temporal's Web UI; empty for none.
    """

    listener: int
    contexts: tuple[Context, ...] = DEFAULT_CONTEXTS
    maximum_attempts: int | None = None
    platforms: Path | None = None
    temporal_ui: str = ""


def pages(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8081,
    temporal_ui: Annotated[
        str, typer.Option(help="Address of Temporal's Web UI, to link to it for operators.")
    ] = "",
) -> None:
    """Serves pages: pull requests, jobs with their logs, incidents.

    They are public and read-only, made from the job index and the store alone: it needs neither
    Temporal nor GitHub. Put a proxy with TLS before it. SIGTERM stops it.
    """
    log_to_stderr()
    with listening(host, port) as listener:
        options = PagesOptions(listener=listener.fileno(), temporal_ui=temporal_ui.rstrip("/"))
        asyncio.run(serve_pages(Settings(), options, listener, ready=_announce))


def _announce(address: str) -> None:
    _log.info("pages are served at http://%s", address)
    services.announce_ready()


async def serve_pages(
    settings: Settings,
    options: PagesOptions,
    listener: socket.socket,
    *,
    ready: Callable[[str], None],
) -> None:
    """Serves pages until SIGTERM or SIGINT.

    Args:
        settings: Of this process.
        options: What its settings do not have.
        listener: Listens; closed at the end.
        ready: Called with the address once pages are served.

    Raises:
        UsageError: The store's URL or the file of platforms is invalid.
        InfrastructureError: The directory of the store cannot be made.
    """
    sources = PageSources(
        index_url=settings.index_url,
        store=ArtifactStore.open(settings.store_url),
        platforms=load_platforms(options.platforms or settings.platforms),
        contexts=options.contexts,
        maximum_attempts=options.maximum_attempts,
        namespace=settings.namespace,
        public_url=settings.pages_url,
        temporal_ui=options.temporal_ui,
    )
    stop = stop_on_signal()
    address = address_of(listener)
    try:
        async with serving(application(Site(sources)), listener, affordable(_LIMITS)):
            ready(address)
            await stop.wait()
    finally:
        await sources.close()


def pages_running(options: PagesOptions) -> AbstractAsyncContextManager[None]:
    """Runs a process that serves pages for the time of a block; one that ends is started again."""
    return child_running("the server of pages", __name__, options, options.listener)


def main() -> None:
    """Serves pages as a child of `opam-ci serve`, until a signal or the death of the parent."""
    options = PagesOptions.model_validate_json(sys.stdin.buffer.readline())
    log_to_stderr()
    asyncio.run(_serve_as_child(options))


async def _serve_as_child(options: PagesOptions) -> None:
    # As the receiver does: the pipe ends with the parent.
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 1)
    listener = socket.socket(fileno=options.listener)
    await serve_pages(Settings(), options, listener, ready=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main()
