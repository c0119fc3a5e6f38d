"""`opam-ci pages`: serves pages for people, also as a process of `opam-ci serve`."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from opam_ci.app.collector import tune_gc
from opam_ci.app.connection import connect
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.pull_requests import PullRequests
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
from opam_ci.web.action_service import acting, routes_beside_pages
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
        temporal: Address of the Temporal server, for actions; None for that of the settings.
    """

    listener: int
    contexts: tuple[Context, ...] = DEFAULT_CONTEXTS
    maximum_attempts: int | None = None
    platforms: Path | None = None
    temporal_ui: str = ""
    temporal: str | None = None


def pages(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8081,
    temporal_ui: Annotated[
        str, typer.Option(help="Address of Temporal's Web UI, to link to it for operators.")
    ] = "",
) -> None:
    """Serves pages: pull requests, jobs with their logs, incidents.

    They are public and read-only, made from the job index and the store alone: it needs neither
    Temporal nor GitHub, but for the buttons of those who sign in (docs/github.md). Put a proxy
    with TLS before it. SIGTERM stops it.
    """
    log_to_stderr()
    with listening(host, port) as listener:
        options = PagesOptions(listener=listener.fileno(), temporal_ui=temporal_ui.rstrip("/"))
        tune_gc()
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
        UsageError: The store's URL, the file of platforms, or the settings to sign in are invalid.
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
    changes = {} if options.temporal is None else {"temporal": options.temporal}
    here = settings.model_copy(update=changes)
    stop = stop_on_signal()
    address = address_of(listener)
    try:
        async with contextlib.AsyncExitStack() as stack:
            url = settings.pages_url or f"http://{address}"
            service = acting(GitHubSettings(), partial(_pull_requests, here), sources, url=url)
            actions = await stack.enter_async_context(service)
            site = Site(sources, acts_on=actions.tracked.repository if actions else "")
            app = application(site, routes_beside_pages(site, actions))
            await stack.enter_async_context(serving(app, listener, affordable(_LIMITS)))
            ready(address)
            await stop.wait()
    finally:
        await sources.close()


async def _pull_requests(settings: Settings) -> PullRequests:
    return PullRequests(await connect(settings))


def pages_running(options: PagesOptions) -> AbstractAsyncContextManager[None]:
    """Runs a process that serves pages for the time of a block; one that ends is started again."""
    return child_running("the server of pages", __name__, options, options.listener)


def main() -> None:
    """Serves pages as a child of `opam-ci serve`, until a signal or the death of the parent."""
    options = PagesOptions.model_validate_json(sys.stdin.buffer.readline())
    log_to_stderr()
    tune_gc()
    asyncio.run(_serve_as_child(options))


async def _serve_as_child(options: PagesOptions) -> None:
    # As the receiver does: the pipe ends with the parent.
    asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 1)
    listener = socket.socket(fileno=options.listener)
    await serve_pages(Settings(), options, listener, ready=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main()
