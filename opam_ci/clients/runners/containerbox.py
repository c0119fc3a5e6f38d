"""One container from its start to its removal, and what its kernel groups counted."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from opam_ci.clients.runners import emptyproc
from opam_ci.clients.runners.cgroups import Counted, counted, is_reached
from opam_ci.clients.runners.engine import Engine
from opam_ci.clients.runners.hierarchies import groups_of
from opam_ci.clients.runners.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import APT_CAPABILITIES
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

_START_TIMEOUT = 60.0
_END_TIMEOUT = 30.0

# Lives as long as its standard input: that ends with the worker, however the worker ends. The
# shell collects the processes that others leave behind.
_INIT = "exec 3<&0; cat <&3 > /dev/null & echo ready; wait $!"

_USAGE = ("max_usage_in_bytes", "limit_in_bytes")
"""Files of version 1 that tell whether the memory limit was reached, as `is_reached` wants them."""

_OWN_PROCESSES = 2
"""The shell and the `cat` of _INIT."""


class Box:
    """A running container.

    Args:
        engine: Whose.
        name: Its name.
        process: The engine's client that started it.
    """

    def __init__(self, engine: Engine, name: str, process: asyncio.subprocess.Process) -> None:
        self.engine = engine
        self.name = name
        self.upper: Path | None = None
        self._process = process
        self._groups: tuple[Path, ...] = ()
        self._counted: Counted | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was ended."""
        return self._counted is not None

    async def look(self) -> None:
        """Finds out where on this machine the container is, if it is on this machine."""
        found = await self.engine.inspect("container", self.name) or {}
        pid = found.get("State", {}).get("Pid")
        if isinstance(pid, int) and pid > 0:
            self._groups = groups_of(pid)
        upper = ((found.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
        # Docker on another system runs in a virtual machine: nothing of it is here.
        if isinstance(upper, str) and os.access(upper, os.R_OK | os.X_OK):
            self.upper = Path(upper)

    @property
    def others(self) -> int | None:
        """How many processes there are besides the container's own; None if unknown."""
        for group in self._groups:
            with contextlib.suppress(OSError):
                lines = (group / "cgroup.procs").read_text().split()
                return max(0, len(lines) - _OWN_PROCESSES)
        return None

    async def count(self) -> Counted:
        """Reads what the kernel counted so far."""
        if self._counted is not None:
            return self._counted
        if self._groups:
            return counted(_limited(self._groups))
        # Not on this machine: the container itself sees its own counters.
        _, output, _ = await self.engine.try_call(
            *("exec", self.name, "grep", "-H", "-s", ""),
            *("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"),
            *(f"/sys/fs/cgroup/memory/memory.{name}" for name in _USAGE),
            *("/sys/fs/cgroup/pids.events", "/sys/fs/cgroup/pids/pids.events"),
        )
        kills = hits = 0
        reached = False
        usage = dict.fromkeys(_USAGE, 0)
        for line in output.decode(errors="replace").splitlines():
            path, _, words = line.partition(":")
            key, _, value = words.partition(" ")
            if value.isdigit() and key == "oom_kill":
                kills += int(value)
            if value.isdigit() and key == "max" and path.endswith("pids.events"):
                hits += int(value)
            if value.isdigit() and key == "oom":
                reached |= int(value) > 0
            if words.isdigit() and (name := path.rpartition("/memory.")[2]) in usage:
                usage[name] = int(words)
        reached |= is_reached(*usage.values())
        return Counted(oom_kills=kills, memory_limit_reached=reached, pids_limit_hits=hits)

    async def end(self) -> None:
        """Ends every process and removes the container, also when cancelled meanwhile.

        Raises:
            InfrastructureError: Cause `sandbox`: the engine does not.
        """
        ending = asyncio.ensure_future(self._end())
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:
                cancelled = error
        ending.result()
        if cancelled is not None:
            raise cancelled

    async def _end(self) -> None:
        if self._counted is None:
            self._counted = counted(_limited(self._groups))
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
    """Returns the groups that bear the limits.

    Where systemd manages podman's groups, processes are in a group `container` one below.
    """
    return tuple(path.parent if path.name == "container" else path for path in groups)


@asynccontextmanager
async def open_box(  # noqa: PLR0913 - what a container consists of
    engine: Engine,
    image: str,
    name: str,
    *,
    network: str,
    mirrors: Mirrors,
    limits: JobLimits | None,
) -> AsyncIterator[Box]:
    """Starts a container, and removes it at the end with everything in it.

    Args:
        engine: Who runs it.
        image: From what.
        name: How it is called, on the whole machine.
        network: The engine's word for the network of phases that have one.
        mirrors: Local archive mirrors, shown read-only.
        limits: Of memory, processes and CPU.

    Raises:
        InfrastructureError: Cause `sandbox`: it does not start.
    """
    async with AsyncExitStack() as until_started:
        proc = await until_started.enter_async_context(emptyproc.empty_proc())
        shown = () if proc is None else (f"--volume={proc}:{emptyproc.INSIDE}",)
        process = await asyncio.create_subprocess_exec(
            *engine.words("run", *_options(engine, name, network, mirrors, limits), *shown),
            *("--entrypoint", "sh", image, "-c", _INIT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        box = Box(engine, name, process)
        try:
            await _ready(process, name)
            await until_started.aclose()
            await box.look()
            yield box
        finally:
            await box.end()


def _options(
    engine: Engine, name: str, network: str, mirrors: Mirrors, limits: JobLimits | None
) -> list[str]:
    capabilities = [f"--cap-add={word.removeprefix('CAP_')}" for word in APT_CAPABILITIES]
    words = [
        *("--rm", "--interactive", "--name", name, "--hostname", "opam-ci"),
        *("--network", network, "--pull", "never", "--user", "0:0", "--workdir", "/"),
        *("--cap-drop=ALL", *capabilities, "--security-opt", "no-new-privileges"),
        *engine.run_options,
        *(f"--volume={path}:{inside}:ro" for path, inside in mirrors.directories),
    ]
    if limits is None:
        return words
    if limits.memory_bytes is not None:
        # Both together: swap is no way around the limit.
        words += [f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}"]
    if limits.pids is not None:
        words.append(f"--pids-limit={limits.pids}")
    if limits.cpus is not None:
        words.append(f"--cpus={limits.cpus}")
    return words


async def _ready(process: asyncio.subprocess.Process, name: str) -> None:
    assert process.stdout is not None  # noqa: S101 - for mypy: asked for above
    said = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT):
            while line := await process.stdout.readline():
                if line == b"ready\n":
                    return
                said.append(line.decode(errors="replace").strip())
    raise InfrastructureError(
        f"container {name} does not start: {' | '.join(said[-4:])}", cause=Cause.SANDBOX
    )


async def remove(engine: Engine, name: str) -> None:
    """Ends and removes a container, if there is one of that name.

    Raises:
        InfrastructureError: Cause `sandbox`: the engine fails.
    """
    code, _, said = await engine.try_call(*engine.removal(name))
    if code != 0 and await engine.inspect("container", name) is not None:
        raise InfrastructureError(
            f"container {name} cannot be removed: {said}", cause=Cause.SANDBOX
        )
