"""`opam-ci --server URL …`: what a command reads and changes, here or by a server."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Annotated, Protocol

import typer

from opam_ci.app.server_settings import ServerSettings
from opam_ci.app.settings import Settings
from opam_ci.cli.selection.operate import opened_index
from opam_ci.clients.index import Listings
from opam_ci.clients.remote.server import Server
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate, Taken

COMMANDS = ("status", "log", "jobs", "health", "restart", "cancel")
"""The commands that can ask a server."""

_URL: ContextVar[str] = ContextVar("_URL", default="")
"""The option of this run."""


class Updates(Protocol):
    """What commands change: the workflows of pull requests, or a server."""

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs, and returns which."""

    async def cancel_jobs(self, workflow_id: str, update: CancelUpdate) -> Taken | None:
        """Cancels jobs, and returns which."""


def choose_server(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Ask this server instead of Temporal, index and store, for: "
            f"{', '.join(COMMANDS)} [env: OPAM_CI_SERVER, and OPAM_CI_TOKEN for actions].",
        ),
    ] = "",
) -> None:
    """Chooses a server for the command."""
    if server and context.invoked_subcommand not in COMMANDS:
        raise UsageError(f"--server is for these commands alone: {', '.join(COMMANDS)}")
    _URL.set(server)


def is_server_named(temporal: str | None = None) -> bool:
    """Whether the user named a server.

    Args:
        temporal: The command's option: it names a server of Temporal's instead.

    Raises:
        UsageError: Both are named on the command line.
    """
    if _URL.get() and temporal is not None:
        raise UsageError("--server and --temporal exclude each other")
    return bool(_URL.get() or (temporal is None and ServerSettings().server))


def named_server() -> Server:
    """Returns the server that the user named.

    Raises:
        UsageError: It is not a URL.
    """
    settings = ServerSettings()
    return Server(_URL.get() or settings.server, settings.token)


@contextlib.contextmanager
def opened_listings(settings: Settings) -> Iterator[Listings]:
    """Opens the job index, or a server in its place.

    Raises:
        UsageError: There is no index yet, or the server's URL is not one.
        InfrastructureError: The index cannot be read.
    """
    with named_server() if is_server_named() else opened_index(settings) as found:
        yield found
