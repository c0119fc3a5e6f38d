"""`opam-ci serve`: the process that GitHub talks to."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from opam_ci.cli import services
from opam_ci.cli.check import find_platforms
from opam_ci.cli.platforms import chosen_table
from opam_ci.core.errors import UsageError
from opam_ci.core.platform_select import embedded
from opam_ci.core.platforms import Platform
from opam_ci.core.requests import CheckOptions
from opam_ci.core.retry import RetrySettings
from opam_ci.github_service import catch_up, github_service
from opam_ci.settings import Settings
from opam_ci.settings_github import GitHubSettings
from opam_ci.stopping import stop_on_signal
from opam_ci.web.acceptance import Acceptance
from opam_ci.web.webhook import Webhook, application
from opam_ci.worker import measured, tune_gc

_log = logging.getLogger(__name__)

_ANSWERS_TIMEOUT = 10
"""Seconds in which requests under way are answered when the process stops; GitHub waits no
longer for one, and delivers again what was not accepted."""


class _Server(uvicorn.Server):
    """Leaves the process's signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8080,
    temporal: Annotated[
        str | None, typer.Option(help="Address of the Temporal server [env: OPAM_CI_TEMPORAL].")
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            help="Build on this platform, name or glob; may be repeated. "
            "Default: what a machine builds on without images."
        ),
    ] = None,
    platforms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file of platforms and pools [env: OPAM_CI_PLATFORMS].",
        ),
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(help="URL of an opam archive mirror for sources; may be repeated."),
    ] = None,
    lint_only: Annotated[bool, typer.Option(help="Stop after analysis and lint.")] = False,
    build: Annotated[bool, typer.Option(help="Also build in this process.")] = False,
    attempts: Annotated[
        int, typer.Option(help="Attempts of a job that meets a CI fault.", min=1, max=20)
    ] = 5,
    retry_after: Annotated[
        float,
        typer.Option(help="Seconds before the first retry; tripled each time.", min=0.1, max=86400),
    ] = 60,
) -> None:
    """Serves a repository on GitHub: webhooks, workflows, statuses; with --build also builds.

    Configured by variables OPAM_CI_GITHUB_…: see docs/github.md, and `opam-ci github check`.
    Listens for POST /webhook; put a proxy with TLS before it. SIGTERM stops it.
    """
    settings = Settings()
    changes: dict[str, object] = {"orchestrate": True}
    if temporal is not None:
        changes["temporal"] = temporal
    if not build:
        changes["pools"] = ()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # A request's URL is nobody's business, and there are many.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    checks = CheckOptions(
        platforms=served_platforms(platforms, platform or []),
        lint_only=lint_only,
        archive_mirrors=tuple(mirror or ()),
        unavailable=settings.unavailable or "fail",
        retry=RetrySettings.beginning_with(timedelta(seconds=retry_after), attempts=attempts),
    )
    tune_gc()
    asyncio.run(
        serve_github(
            settings.model_copy(update=changes),
            GitHubSettings(),
            checks,
            listen=(host, port),
            ready=_announce,
        )
    )


def served_platforms(file: Path | None, patterns: list[str]) -> tuple[Platform, ...]:
    """Returns the platforms on which heads are checked, with all the kinds that the file says.

    Raises:
        UsageError: There is no such platform, or the file cannot be used.
    """
    names = patterns or [one.name for one in embedded(chosen_table(file))]
    return find_platforms(file, names)


def _announce(address: str) -> None:
    _log.info("webhooks are received at http://%s/webhook", address)
    services.announce_ready()


async def serve_github(
    settings: Settings,
    github: GitHubSettings,
    checks: CheckOptions,
    *,
    listen: tuple[str, int],
    ready: Callable[[str], None],
) -> None:
    """Runs receiver and workers until the process is told to stop.

    Args:
        settings: Of this process.
        github: Of the GitHub side.
        checks: How heads are checked.
        listen: Address and port for webhooks; port 0 for a free one.
        ready: Is told the address once everything runs.

    Raises:
        UsageError: A setting is missing, or the port is taken.
        InfrastructureError: Something that is needed is away.
    """
    # What is missing is said before anything is started.
    github.policy(checks)
    github.webhook_secret()
    github.credentials()
    stop = stop_on_signal()
    with _listening(*listen) as listener:
        async with (
            measured(settings) as (client, instruments),
            github_service(settings, github, client, checks, instruments.metrics) as service,
        ):
            webhook = Webhook(
                secret=service.secret,
                tracked=github.tracked,
                accept=Acceptance(service.pull_requests, service.policy).accept,
                deliveries=service.deliveries,
            )
            async with _receiving(webhook, listener):
                await catch_up(client, github.tracked.repository)
                host, port = listener.getsockname()[:2]
                ready(f"{host}:{port}")
                await stop.wait()
                _log.info("stopping")


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from error
    with listener:
        yield listener


@contextlib.asynccontextmanager
async def _receiving(webhook: Webhook, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        application(webhook),
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=_ANSWERS_TIMEOUT,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        # Requests under way are answered first.
        server.should_exit = True
        await task
