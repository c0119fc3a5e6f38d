"""`opam-ci github check`: verifies the set-up of GitHub."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial

import typer

from opam_ci.app.connection import connect
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.settings import Settings
from opam_ci.cli.selection import command_options as opt
from opam_ci.clients.git.upstream import git_environment
from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.errors import UsageError
from opam_ci.core.github.setup import missing
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.requests import CheckOptions

_LS_REMOTE_TIMEOUT = 60.0

app = typer.Typer(
    name="github",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The set-up of GitHub.",
)


@app.callback()
def _group() -> None:
    """Makes typer keep the name `check` of the only command."""


Step = Callable[[], Awaitable[str]]
"""Checks one thing: returns what it found, raises an error if something is wrong."""


@app.command()
def check(
    temporal: opt.Server = None,
) -> None:
    """Verifies the set-up of GitHub, and prints what is missing.

    Reads the settings OPAM_CI_GITHUB_…, the App's permissions and events, its installation,
    the clone URL and Temporal; changes nothing. Exits 0 if nothing is missing, else 2.
    """
    settings = Settings()
    if temporal is not None:
        settings = settings.model_copy(update={"temporal": temporal})
    raise typer.Exit(asyncio.run(check_setup(settings, GitHubSettings(), typer.echo)))


async def check_setup(
    settings: Settings, github: GitHubSettings, report: Callable[[str], None]
) -> int:
    """Checks everything, one line each.

    Args:
        settings: Of this process.
        github: Of GitHub.
        report: Receives the lines.

    Returns:
        The exit code.
    """
    problems = 0
    for name, step in _steps(settings, github):
        try:
            report(f"ok       {name}: {await step()}")
        except (UsageError, InfrastructureError, GitHubRefusedError) as error:
            problems += 1
            for line in str(error).splitlines():
                report(f"MISSING  {name}: {line}")
    report(
        f"{problems} things are missing" if problems else "nothing is missing: run `opam-ci serve`"
    )
    return 2 if problems else 0


def _steps(settings: Settings, github: GitHubSettings) -> list[tuple[str, Step]]:
    async def repository() -> str:
        github.policy(CheckOptions())
        return f"{github.tracked.repository}, pull requests onto {github.branch}"

    async def credentials() -> str:
        return repr(github.credentials())

    async def secret() -> str:
        return f"{len(github.webhook_secret())} bytes"

    async def app_facts() -> str:
        if github.app_id is None:
            return "none: a token cannot write check runs, and missed webhooks are not redelivered"
        async with _client(github) as api:
            facts = await api.app()
        if lacking := missing(facts.permissions, facts.events, checks=github.checks):
            raise UsageError("\n".join(lacking))
        return f"{facts.id}, permissions and events are complete"

    async def access() -> str:
        async with _client(github) as api:
            found = await api.open_pull_requests(github.branch)
        return f"{len(found)} open pull requests"

    async def clone() -> str:
        policy = github.policy(CheckOptions())
        tip = await asyncio.to_thread(_tip, policy.clone_url, policy.branch)
        return f"{policy.clone_url} has {policy.branch} at {tip[:12]}"

    async def server() -> str:
        await connect(settings)
        return settings.temporal

    return [
        ("repository", repository),
        ("credentials", credentials),
        ("webhook secret", secret),
        ("app", app_facts),
        ("access", access),
        ("clone", clone),
        ("sign-in", partial(_sign_in, github)),
        ("temporal", server),
    ]


async def _sign_in(github: GitHubSettings) -> str:
    if github.client_secret() is None:
        return "none: pages have no buttons"
    return f"client {github.client_id}"


def _client(github: GitHubSettings) -> GitHub:
    return GitHub(github.tracked.repository, github.credentials(), base_url=github.api_url)


def _tip(url: str, branch: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- a list of arguments, never a shell
            ["git", "ls-remote", "--exit-code", "--", url, f"refs/heads/{branch}"],  # noqa: S607 -- found on PATH like any tool
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=git_environment(),
            timeout=_LS_REMOTE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"git cannot reach {url}: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"{url} has no branch {branch}" + (f": {lines[-1]}" if lines else ""))
    return done.stdout.decode().split()[0]
