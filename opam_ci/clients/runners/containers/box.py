"""One container from its start to its removal, and the counters of its control groups."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.images.image import NO_DAEMONS
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import empty_proc as emptyproc
from opam_ci.clients.runners.sandbox.bubblewrap import APT_CAPABILITIES
from opam_ci.clients.runners.sandbox.cgroup_discovery import groups_of
from opam_ci.clients.runners.sandbox.cgroups import (
    COUNTER_FILES,
    Counters,
    parse_counters,
    processes,
    read_counters,
)
from opam_ci.clients.runners.sandbox.network import ContainerNetwork, Network, connected
from opam_ci.clients.runners.sandbox.network import files as name_files
from opam_ci.clients.runners.sandbox.process import uninterrupted
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.outcome import Cause

_START_TIMEOUT = 60.0
_END_TIMEOUT = 30.0
_REMOVALS = 20
_REMOVAL_PAUSE = 0.25
"""Seconds between attempts to remove a container."""

_NOT_EXECUTABLE = frozenset({126, 127})
"""Exit codes of podman and docker where an image's program cannot be invoked, or is missing."""

# Lives as long as its standard input, which ends with the worker, however the worker ends. The
# shell reaps orphaned processes. Images are of others: whatever they are, no daemon starts in them.
# Debian's family, which alone has that prohibition, has the directory.
_INIT = (
    f"test ! -d /usr/sbin || {{ {NO_DAEMONS}; }} || exit 1; "
    "exec 3<&0; cat <&3 > /dev/null & echo ready; wait $!"
)

_OWN_PROCESSES = 2
"""The shell and the `cat` of _INIT."""


class Container:
    """A running container.

    Args:
        engine: The engine that runs it.
        name: Its name.
        process: The engine's client that started it.

    Attributes:
        upper: Where it writes, None if that is not on this machine.
        pid: Its first process, None if that is not on this machine.
        network: The connection of its own network namespace, None if the engine made its network.
    """

    def __init__(self, engine: Engine, name: str, process: asyncio.subprocess.Process) -> None:
        self.engine = engine
        self.name = name
        self.upper: Path | None = None
        self.pid: int | None = None
        self.network: Network | None = None
        self._process = process
        self._groups: tuple[Path, ...] = ()
        self._final: Counters | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was ended."""
        return self._final is not None

    async def locate(self) -> None:
        """Finds the container's control groups and upper directory, if they are on this machine."""
        found = await self.engine.inspect("container", self.name) or {}
        pid = found.get("State", {}).get("Pid")
        if isinstance(pid, int) and pid > 0:
            self.pid = pid
            self._groups = groups_of(pid)
        upper = ((found.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        # Docker on another system runs in a virtual machine.
        if isinstance(upper, str) and os.access(upper, os.R_OK | os.X_OK):
            self.upper = Path(upper)

    @property
    def others(self) -> int | None:
        """Number of processes besides the container's own; None if unknown."""
        found = self.processes()
        return max(0, len(found) - _OWN_PROCESSES) if found else None

    def processes(self) -> list[int]:
        """Returns the ids of its processes; none if it is not on this machine."""
        return processes(self._groups)

    async def counters(self) -> Counters:
        """Reads the kernel's counters, the last ones if it was ended."""
        if self._final is not None:
            return self._final
        if self._groups:
            return read_counters(_limited(self._groups))
        # Not on this machine: the container itself can read its own counters.
        paths = (
            f"/sys/fs/cgroup/{place}{name}"
            for name in COUNTER_FILES
            # Version 2, and the hierarchy of version 1.
            for place in ("", f"{name.partition('.')[0]}/")
        )
        _, output, _ = await self.engine.try_call("exec", self.name, "grep", "-H", "-s", "", *paths)
        files: dict[str, str] = {}
        for line in output.decode(errors="replace").splitlines():
            path, _, text = line.partition(":")
            name = path.rpartition("/")[2]
            files[name] = files.get(name, "") + f"{text}\n"
        return parse_counters(files)

    async def end(self) -> None:
        """Ends every process and removes the container, also when cancelled meanwhile.

        Raises:
            InfrastructureError: Cause `sandbox`: the engine does not.
        """
        await uninterrupted(self._end())

    async def _end(self) -> None:
        if self._final is None:
            self._final = read_counters(_limited(self._groups))
        await remove(self.engine, self.name)
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise InfrastructureError(
                f"container {self.name} does not end", cause=Cause.SANDBOX
            ) from None
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()


def _limited(groups: tuple[Path, ...]) -> tuple[Path, ...]:
    """Returns the groups that have the limits.

    Where systemd manages podman's groups, processes are in a group `container` one below.
    """
    return tuple(path.parent if path.name == "container" else path for path in groups)


@asynccontextmanager
async def open_container(  # noqa: PLR0913 - the parts of a container
    engine: Engine,
    image: str,
    name: str,
    *,
    network: ContainerNetwork,
    mirrors: Mirrors,
    limits: JobLimits | None,
) -> AsyncIterator[Container]:
    """Starts a container, and removes it at the end with everything in it.

    Args:
        engine: The engine.
        image: Its image.
        name: Its name, unique on the machine.
        network: Of phases that have one.
        mirrors: Local archive mirrors, shown read-only.
        limits: Of memory, processes and CPU.

    Raises:
        UnfitImageError: The image has no shell.
        InfrastructureError: Cause `sandbox`: it does not start, or cannot be connected.
    """
    async with AsyncExitStack() as stack, AsyncExitStack() as until_started:
        proc = await until_started.enter_async_context(emptyproc.empty_proc())
        shown = [] if proc is None else [f"--volume={proc}:{emptyproc.INSIDE}"]
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="opam-ci-")))
        if network.name is None:
            shown += [f"--volume={path}:{inside}:ro" for path, inside in name_files(directory)]
        process = await engine.start(
            *("run", *_options(engine, name, network.name or "none", mirrors, limits), *shown),
            *("--entrypoint", "sh", image, "-c", _INIT),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # When a job hits its memory limit, podman's conmon leaves a file `oom` where it runs.
            directory=directory,
        )
        container = Container(engine, name, process)
        try:
            await _ready(process, name)
            await until_started.aclose()
            await container.locate()
            if network.name is None:
                container.network = await stack.enter_async_context(
                    connected(_local(container.pid, name), network.allowed)
                )
            yield container
        finally:
            await container.end()


def _local(pid: int | None, name: str) -> int:
    if pid is None:
        raise InfrastructureError(
            f"container {name} runs on another machine, where its network cannot be confined: run "
            "the worker beside the engine, or name a network with OPAM_CI_CONTAINER_NETWORK",
            cause=Cause.SANDBOX,
        )
    return pid


def _options(
    engine: Engine, name: str, network: str, mirrors: Mirrors, limits: JobLimits | None
) -> list[str]:
    capabilities = [f"--cap-add={each.removeprefix('CAP_')}" for each in APT_CAPABILITIES]
    options = [
        *("--rm", "--interactive", "--name", name, "--hostname", "opam-ci"),
        *("--network", network, "--pull", "never", "--user", "0:0", "--workdir", "/"),
        *("--cap-drop=ALL", *capabilities, "--security-opt", "no-new-privileges"),
        *engine.run_options,
        *(f"--volume={path}:{inside}:ro" for path, inside in mirrors.directories),
    ]
    if limits is None:
        return options
    if limits.memory_bytes is not None:
        # Both together: the limit includes swap.
        options += [f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}"]
    if limits.pids is not None:
        options.append(f"--pids-limit={limits.pids}")
    if limits.cpus is not None:
        options.append(f"--cpus={limits.cpus}")
    return options


async def _ready(process: asyncio.subprocess.Process, name: str) -> None:
    assert process.stdout is not None  # noqa: S101 - for mypy: PIPE above
    lines = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT):
            while line := await process.stdout.readline():
                if line == b"ready\n":
                    return
                lines.append(line.decode(errors="replace").strip())
            if await process.wait() in _NOT_EXECUTABLE:
                raise UnfitImageError(
                    f"the platform's image cannot run sh ({' | '.join(lines[-4:])}): use one that "
                    "has what docs/builds.md lists under Container runner"
                )
    raise InfrastructureError(
        f"container {name} does not start: {' | '.join(lines[-4:])}", cause=Cause.SANDBOX
    )


async def remove(engine: Engine, name: str) -> None:
    """Ends and removes a container, if there is one of that name.

    Raises:
        InfrastructureError: Cause `sandbox`: the engine fails.
    """
    for _ in range(_REMOVALS):
        code, _, errors = await engine.try_call(*engine.removal(name))
        if code == 0 or await engine.inspect("container", name) is None:
            return
        # docker refuses while it removes a container that has ended by itself.
        await asyncio.sleep(_REMOVAL_PAUSE)
    raise InfrastructureError(f"container {name} cannot be removed: {errors}", cause=Cause.SANDBOX)
