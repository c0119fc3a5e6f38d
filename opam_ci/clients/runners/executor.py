"""What a job needs of the place where it runs: the difference between the runners."""

from collections.abc import Mapping
from typing import IO, Protocol

from opam_ci.clients.runners.steps import Step
from opam_ci.clients.runners.supervise import Ended
from opam_ci.core.facts import HostFacts
from opam_ci.core.job import Phase


class Executor(Protocol):
    """A build root in which steps run, one after another, and whose files can be read.

    Paths are relative to the build root. Whatever lies there was written by packages under
    test: no symbolic link leads an implementation outside of the build root.
    """

    async def run(  # noqa: PLR0913 - the parts of a command, all of them named
        self,
        step: Step,
        *,
        output: "Output",
        phase: Phase,
        environment: Mapping[str, str] | None = None,
        time_limit: float | None = None,
        stdin: IO[bytes] | None = None,
    ) -> Ended:
        """Runs one command to its end.

        Args:
            step: The command and its surroundings.
            output: Receives what it prints, as it comes.
            phase: For which phase it runs.
            environment: Variables besides those that every step has.
            time_limit: Seconds after which everything is killed.
            stdin: A file to read from; nothing by default.

        Returns:
            How it ended. No process of the command is alive any more.

        Raises:
            InfrastructureError: The place itself is gone.
            asyncio.CancelledError: The caller was cancelled; no process is alive any more.
        """

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads regular files.

        Args:
            paths: Which.
            limit: Size in bytes above which a file is not read.

        Returns:
            The content of those that are there and not larger.
        """

    async def packages(self, repository: str) -> frozenset[str]:
        """Lists the packages (`name.version`) of an opam repository made in this build root."""

    async def host(self) -> HostFacts:
        """Reads the facts of the machine that bear on what ran here."""


class Output(Protocol):
    """Receives output."""

    def __call__(self, data: bytes, /) -> None:
        """Takes the next bytes."""


async def read_one(executor: Executor, path: str, *, limit: int) -> bytes | None:
    """Reads one regular file; None if it is not there or larger."""
    return (await executor.read(path, limit=limit)).get(path)
