"""`opam-ci serve`: the process that receives GitHub's webhooks."""

import asyncio
import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from opam_ci.app.collector import tune_gc
from opam_ci.app.github_service import github_service, start_reconciliation
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import stop_on_signal
from opam_ci.cli.author.platforms import chosen_table
from opam_ci.cli.local import services
from opam_ci.cli.local.services import HIGHEST_PORT
from opam_ci.cli.operator.listening import address_of, listening
from opam_ci.cli.operator.pages import PagesOptions, pages_running
from opam_ci.cli.operator.receiver import ReceiverOptions, receiver_running
from opam_ci.cli.operator.work import log_to_stderr
from opam_ci.cli.selection import command_options as opt
from opam_ci.core.github.status import DEFAULT_CONTEXTS
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.platforms.model import Platform
from opam_ci.core.platforms.select import named
from opam_ci.worker import measured

_log = logging.getLogger(__name__)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8080,
    pages_port: Annotated[
        int | None,
        typer.Option(help="Port for pages; default: the one after --port.", min=0, max=65535),
    ] = None,
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
    """Serves a repository on GitHub: webhooks, statuses, pages; with --build also builds.

    Configured by variables OPAM_CI_GITHUB_…: see docs/github.md, and `opam-ci github check`.
    Listens for POST /webhook, and for pages on another port; put a proxy with TLS before both, and
    its address for pages into OPAM_CI_PAGES_URL: statuses link to it. SIGTERM stops it.
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
        reuse_verdicts=settings.reuse_verdicts,
        retry=RetrySettings.beginning_with(timedelta(seconds=retry_after), attempts=attempts),
    )
    tune_gc()
    asyncio.run(
        serve_github(
            settings.model_copy(update=changes),
            GitHubSettings(),
            checks,
            listen=(host, port),
            listen_pages=(host, next_to(port) if pages_port is None else pages_port),
            ready=_announce,
        )
    )


def next_to(port: int) -> int:
    """Returns the port for pages if none is named: 0, for a free one, beside a free one."""
    return port and (port + 1 if port < HIGHEST_PORT else port - 1)


def served_platforms(file: Path | None, patterns: list[str]) -> tuple[Platform, ...]:
    """Returns the platforms on which heads are checked, with all kinds of jobs as in the file.

    Raises:
        UsageError: There is no such platform, or the file is invalid.
    """
    platforms = chosen_table(file).platforms
    return named(platforms, patterns) if patterns else platforms


def _announce(address: str, pages: str) -> None:
    _log.info("webhooks are received at http://%s/webhook", address)
    _log.info("pages are served at http://%s", pages)
    services.announce_ready()


async def serve_github(
    settings: Settings,
    github: GitHubSettings,
    checks: CheckOptions,
    *,
    listen: tuple[str, int],
    listen_pages: tuple[str, int],
    ready: Callable[[str, str], None],
) -> None:
    """Receives webhooks, serves pages and runs workers until SIGTERM or SIGINT.

    Args:
        settings: Of this process.
        github: Of the GitHub side.
        checks: How heads are checked.
        listen: Address and port for webhooks; port 0 for a free one.
        listen_pages: The same for pages.
        ready: Called with both addresses once everything runs.

    Raises:
        UsageError: A setting is missing, or the port is taken.
        InfrastructureError: Temporal, GitHub or the index is unavailable.
    """
    # Missing settings are reported before anything is started.
    policy = github.policy(checks)
    github.webhook_secret()
    github.credentials()
    stop = stop_on_signal()
    with (
        listening(*listen) as listener,
        listening(*listen_pages, options="--host or --pages-port") as pages_listener,
    ):
        github = linking_to_pages(github, settings, pages_listener)
        options = ReceiverOptions(
            listener=listener.fileno(),
            temporal=settings.temporal,
            checks=checks,
            page_url=github.page_url,
        )
        async with (
            measured(settings) as (client, instruments),
            github_service(settings, github, client, checks, instruments.metrics),
            receiver_running(options),
            pages_running(
                PagesOptions(
                    listener=pages_listener.fileno(),
                    contexts=policy.posting.contexts if policy.posting else DEFAULT_CONTEXTS,
                    maximum_attempts=checks.retry.maximum_attempts,
                    platforms=settings.platforms,
                    temporal_ui=github.temporal_ui,
                    temporal=settings.temporal,
                )
            ),
        ):
            await start_reconciliation(client, github.tracked.repository)
            ready(address_of(listener), address_of(pages_listener))
            await stop.wait()
            _log.info("stopping")


def linking_to_pages(
    github: GitHubSettings, settings: Settings, listener: socket.socket
) -> GitHubSettings:
    """Returns settings by which statuses link to the pages, unless they link elsewhere."""
    if github.page_url:
        return github
    base = settings.pages_url
    if not base:
        base = f"http://{address_of(listener)}"
        _log.warning(
            "statuses link to %s: set OPAM_CI_PAGES_URL to the address that others reach", base
        )
    url = f"{base.rstrip('/')}/{{owner}}/{{repo}}/pull/{{number}}"
    return github.model_copy(update={"page_url": url})
