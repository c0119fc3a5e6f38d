"""The build root of a job: the interface in which the runners differ."""

from collections.abc import Awaitable, Callable
from typing import IO, Protocol

from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.facts import HostFacts
from opam_ci.core.jobs.job import Phase

Output = Callable[[bytes], None]
"""Receives output, as it comes."""

RunStep = Callable[[Step, bytearray], Awaitable[ProcessResult]]
"""Runs one command, and appends its output to a buffer."""

READ_LIMIT = 64 << 20
"""Bytes of all files that one call of `Executor.read` reads."""

Read = Callable[..., Awaitable[dict[str, bytes]]]
"""Reads files, by their paths or their packages' names; see `Executor.read`."""


class Executor(Protocol):
    """A build root in which steps run, one after another, and whose files can be read.

    Paths are relative to the build root. Files there were written by packages under test: an
    implementation never follows a symbolic link outside of the build root.
    """

    async def run(
        self,
        step: Step,
        *,
        output: Output,
        phase: Phase,
        time_limit: float | None = None,
        stdin: IO[bytes] | None = None,
    ) -> ProcessResult:
        """Runs one command to its end.

        Args:
            step: The command.
            output: Receives its output, as it comes.
            phase: The phase to which it belongs.
            time_limit: Seconds after which everything is killed.
            stdin: A file to read from; nothing by default.

        Returns:
            How it ended. No process of the command is alive any more.

        Raises:
            InfrastructureError: The build root is gone.
            asyncio.CancelledError: The caller was cancelled; no process is alive any more.
        """

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads regular files.

        Args:
            paths: Their paths.
            limit: Size in bytes above which a file is not read.

        Returns:
            The content, by path, of those that exist, are not larger, and of which all before
            them leave room within `READ_LIMIT`.
        """

    async def packages(self, repository: str) -> frozenset[str]:
        """Lists the packages (`name.version`) of an opam repository made in this build root."""

    async def host(self) -> HostFacts:
        """Reads the facts of the machine on which the steps ran."""


async def read_one(executor: Executor, path: str, *, limit: int) -> bytes | None:
    """Reads one regular file; None if it is missing or larger."""
    return (await executor.read(path, limit=limit)).get(path)
