"""`opam-ci github check`: is everything set up, and if not, what is missing?"""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from opam_ci.clients.git_upstream import git_environment
from opam_ci.clients.github import GitHub
from opam_ci.clients.github_errors import GitHubRefusedError
from opam_ci.connection import connect
from opam_ci.core.errors import UsageError
from opam_ci.core.github.setup import missing
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.requests import CheckOptions
from opam_ci.settings import Settings
from opam_ci.settings_github import GitHubSettings

_LS_REMOTE_TIMEOUT = 60.0

app = typer.Typer(
    name="github",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The GitHub side: is it set up?",
)


@app.callback()
def _group() -> None:
    """Keeps `check` a command of its own although it is the only one."""


Step = Callable[[], Awaitable[str]]
"""Checks one thing: returns what is well, raises what is wrong."""


@app.command()
def check(
    temporal: Annotated[
        str | None, typer.Option(help="Address of the Temporal server [env: OPAM_CI_TEMPORAL].")
    ] = None,
) -> None:
    """Verifies the set-up of GitHub, and says what is missing.

    Looks at the settings OPAM_CI_GITHUB_…, the App's permissions and events, its installation,
    the clone URL and Temporal; changes nothing. Exits 0 if all is well, else 2.
    """
    settings = Settings()
    if temporal is not None:
        settings = settings.model_copy(update={"temporal": temporal})
    raise typer.Exit(asyncio.run(check_setup(settings, GitHubSettings(), typer.echo)))


async def check_setup(
    settings: Settings, github: GitHubSettings, say: Callable[[str], None]
) -> int:
    """Checks all there is to check, one line each.

    Args:
        settings: Of this process.
        github: Of the GitHub side.
        say: Takes the lines.

    Returns:
        The exit code.
    """
    problems = 0
    for name, step in _steps(settings, github):
        try:
            say(f"ok       {name}: {await step()}")
        except (UsageError, InfrastructureError, GitHubRefusedError) as error:
            problems += 1
            for line in str(error).splitlines():
                say(f"MISSING  {name}: {line}")
    say(f"{problems} things to do" if problems else "all is set up: `opam-ci serve` may start")
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
            return "none: a token has no check runs, and missed webhooks are not redelivered"
        async with _client(github) as api:
            facts = await api.app()
        if lacking := missing(facts.permissions, facts.events, checks=github.checks):
            raise UsageError("\n".join(lacking))
        return f"{facts.id}, permissions and events are complete"

    async def access() -> str:
        async with _client(github) as api:
            found = await api.open_pull_requests(github.branch)
        return f"{len(found)} open pull requests are listed"

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
        ("temporal", server),
    ]


def _client(github: GitHubSettings) -> GitHub:
    return GitHub(github.tracked.repository, github.credentials(), base_url=github.api_url)


def _tip(url: str, branch: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 -- a list of words, never a shell
            ["git", "ls-remote", "--exit-code", "--", url, f"refs/heads/{branch}"],  # noqa: S607 -- found on PATH like any tool
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=git_environment(),
            timeout=_LS_REMOTE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"git does not reach {url}: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"{url} has no branch {branch}" + (f": {said[-1]}" if said else ""))
    return done.stdout.decode().split()[0]
