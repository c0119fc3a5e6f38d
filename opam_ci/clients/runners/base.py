"""The interface of every runner."""

from collections.abc import Callable
from typing import Protocol

from opam_ci.clients.host import HostNeeds
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec


class LogSink(Protocol):
    """Receives the output of a job, as it comes."""

    @property
    def size(self) -> int:
        """Bytes written so far: the offset of the next one."""

    def write(self, data: bytes) -> None:
        """Appends output. Never blocks for long; raises nothing but InfrastructureError."""


class Runner(Protocol):
    """Executes one build job in isolation and reports facts; it judges nothing."""

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        """Runs all phases of a job, in order, until one fails.

        Args:
            spec: The job.
            log: Receives all output of the job, between phase markers.
            progress: Called at each phase's start and whenever output arrived (at most
                once a second).

        Returns:
            The facts, also when a phase failed: a failed command is a fact, not an exception.

        Raises:
            InfrastructureError: The job could not be run at all (no overlay, no base
                layer, no sandbox).
            asyncio.CancelledError: The caller cancelled; every process of the job is dead
                before this leaves the method.
        """

    async def preflight(self) -> None:
        """Checks that this machine can build.

        Raises:
            InfrastructureError: With the cause and what to do about it.
        """


class MachineRunner(Runner, Protocol):
    """A runner, with what a worker does about its machine at its start."""

    @property
    def needs(self) -> HostNeeds:
        """What this machine must have left before it takes jobs."""

    async def require(self) -> None:
        """Checks that this machine has the programs that build, and lets this user use them.

        Raises:
            UsageError: It does not; the line says what to install or to run.
        """

    async def prepare(self, show: Callable[[str], None]) -> object:
        """Makes what takes long to make, if there is none yet.

        Args:
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: With the cause and what to do about it.
        """

    async def reproduction(self, spec: BuildSpec) -> str:
        """Returns what reproduces a job by hand, as text for people: the head of its log."""

    async def sweep(self) -> int:
        """Removes leftovers of killed workers; returns how many jobs they had."""
