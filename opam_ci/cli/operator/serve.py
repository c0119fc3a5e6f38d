"""`opam-ci serve`: the process that receives GitHub's webhooks."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from opam_ci.app.github_service import github_service, start_reconciliation
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import stop_on_signal
from opam_ci.cli.author.platforms import chosen_table
from opam_ci.cli.local import services
from opam_ci.cli.operator.receiver import ReceiverOptions, receiver_running
from opam_ci.cli.operator.work import log_to_stderr
from opam_ci.cli.selection import command_options as opt
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.platforms.model import Platform
from opam_ci.core.platforms.select import named
from opam_ci.worker import measured, tune_gc

_log = logging.getLogger(__name__)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8080,
    temporal: opt.Server = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            help="Build on this platform, name or glob; may be repeated. Default: all of the file."
        ),
    ] = None,
    platforms: opt.PlatformFile = None,
    mirror: opt.Mirror = None,
    lint_only: opt.LintOnly = False,
    build: Annotated[bool, typer.Option(help="Also build in this process.")] = False,
    attempts: opt.Attempts = 5,
    retry_after: opt.RetryAfter = 60,
) -> None:
    """Serves a repository on GitHub: webhooks, workflows, statuses; with --build also builds.

    Configured by variables OPAM_CI_GITHUB_…: see docs/github.md, and `opam-ci github check`.
    Listens for POST /webhook; put a proxy with TLS before it. SIGTERM stops it.
    """
    settings = Settings()
    changes: dict[str, object] = {"orchestrate": True}
    if temporal is not None:
        changes["temporal"] = temporal
    if platforms is not None:
        changes["platforms"] = platforms.absolute()
    if not build:
        changes["pools"] = ()
    log_to_stderr()
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
    """Returns the platforms on which heads are checked, with all kinds of jobs as in the file.

    Raises:
        UsageError: There is no such platform, or the file is invalid.
    """
    platforms = chosen_table(file).platforms
    return named(platforms, patterns) if patterns else platforms


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
    """Receives webhooks and runs workers until SIGTERM or SIGINT.

    Args:
        settings: Of this process.
        github: Of the GitHub side.
        checks: How heads are checked.
        listen: Address and port for webhooks; port 0 for a free one.
        ready: Called with the address once everything runs.

    Raises:
        UsageError: A setting is missing, or the port is taken.
        InfrastructureError: Temporal, GitHub or the index is unavailable.
    """
    # Missing settings are reported before anything is started.
    github.policy(checks)
    github.webhook_secret()
    github.credentials()
    stop = stop_on_signal()
    with _listening(*listen) as listener:
        options = ReceiverOptions(
            listener=listener.fileno(), temporal=settings.temporal, checks=checks
        )
        async with (
            measured(settings) as (client, instruments),
            github_service(settings, github, client, checks, instruments.metrics),
            receiver_running(options),
        ):
            await start_reconciliation(client, github.tracked.repository)
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
