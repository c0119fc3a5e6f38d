"""The build root of the root-file-system runner: an overlay, entered through bubblewrap."""

from dataclasses import replace
from pathlib import Path
from typing import IO

from opam_ci.clients.runners.images.scratch import host_facts, sealed
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.executor import READ_LIMIT, Output
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.cgroups import JobGroups, read_counters
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.network import JobNetwork
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.core.jobs.facts import HostFacts
from opam_ci.core.jobs.job import Phase


class RootfsExecutor:
    """Implements `executor.Executor` over an overlay of directories.

    Args:
        root: The overlay.
        mirrors: Archive mirrors to show inside.
        rights: How to get the rights that mounts need.
        groups: Control groups in which every process runs.
        disk: Watch over what is written.
        network: Of steps with network; without it, they have none.
        personality: See `Platform.personality`.
    """

    def __init__(  # noqa: PLR0913 - the parts of a build root
        self,
        root: sandbox.Overlay,
        mirrors: Mirrors,
        rights: sandbox.Rights,
        *,
        groups: JobGroups | None = None,
        disk: DiskWatch | None = None,
        network: JobNetwork | None = None,
        personality: str | None = None,
    ) -> None:
        self._root = root
        self._bottom = root.lowers
        self._mirrors = mirrors
        self._rights = rights
        self._groups = groups or JobGroups()
        self._disk = disk
        self._network = network
        self._personality = personality

    @property
    def root(self) -> sandbox.Overlay:
        """The current overlay."""
        return self._root

    def over(self, root: sandbox.Overlay) -> "RootfsExecutor":
        """Returns the executor of another overlay, with the same mirrors and limits."""
        return RootfsExecutor(
            root,
            self._mirrors,
            self._rights,
            groups=self._groups,
            disk=self._disk.elsewhere(root.upper) if self._disk is not None else None,
            network=self._network,
            personality=self._personality,
        )

    def seal(self) -> tuple[Path, ...]:
        """Makes what was written so far read-only; further writes go to a new directory.

        Returns:
            The layers, topmost first: what was written so far, and those below.
        """
        if any(self._root.upper.iterdir()):
            self._root = sealed(self._root)
        self._bottom = self._root.lowers
        return self._bottom

    def put_between(self, layers: tuple[Path, ...]) -> None:
        """Puts read-only layers under further writes, in place of those of earlier calls.

        Args:
            layers: Topmost first.
        """
        self._root = replace(self._root, lowers=(*layers, *self._bottom))

    async def run(
        self,
        step: steps.Step,
        *,
        output: Output,
        phase: Phase,
        time_limit: float | None = None,
        stdin: IO[bytes] | None = None,
    ) -> ProcessResult:
        """Runs one command; see `executor.Executor.run`."""
        files = () if self._network is None else self._network.files
        confined = steps.confined(step, self._mirrors, files, self._personality)
        network, rights = None, self._rights
        if step.network and self._network is not None:
            network = await self._network.connect()
            rights = replace(rights, prefix=network.enter)
        else:
            confined = replace(confined, network=False)
        command = sandbox.confine(self._root, confined, rights)
        guard = await self._disk.begin(phase) if self._disk is not None else None
        ended = await run_process(
            lambda status: self._groups.entered(command(status)),
            output=output,
            time_limit=time_limit,
            stdin=stdin,
            guard=guard,
        )
        return ended if network is None else await network.described(ended, output)

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads regular files, from the topmost layer that has them."""
        found = {}
        left = READ_LIMIT
        for path in paths:
            for layer in (self._root.upper, *self._root.lowers):
                data = beneath.read(layer, path, limit=min(limit, left))
                if data is not None:
                    found[path] = data
                    left -= len(data)
                    break
        return found

    async def packages(self, repository: str) -> frozenset[str]:
        """Lists the packages of a repository that the job made."""
        return beneath.packages(self._root.upper, repository)

    async def host(self) -> HostFacts:
        """Reads the kernel's counters, and the free room where the build root writes."""
        return host_facts(
            self._root.upper,
            read_counters(self._groups.directories),
            self._disk,
            foreign_oom_kills=self._groups.foreign_oom_kills,
        )
