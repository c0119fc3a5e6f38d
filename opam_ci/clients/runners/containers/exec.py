"""The build root of the container runner: commands are executed in one container.

The container has a network; commands that may not have it run in a network namespace of
their own, made by the bubblewrap that opam's own sandbox needs anyway. So one container
serves all phases, on podman and on docker alike, and nothing is copied between phases.
"""

import io
import tarfile
from dataclasses import replace
from typing import IO

from opam_ci.clients.runners.containers.box import Container
from opam_ci.clients.runners.images.scratch import host_facts
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.executor import Output
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import HostFacts
from opam_ci.core.jobs.job import PACKAGE_PHASES, Phase
from opam_ci.core.jobs.outcome import Cause

_MARK = b"\0opam-ci starts\n"
_START = 'printf "\\0opam-ci starts\\n"; exec "$@"'
"""Distinguishes a command that ended from one that the engine or the sandbox never started."""

_MARK_WITHIN = 8 << 10
"""Bytes of output, of engine and sandbox, within which the mark comes."""

_READ = (
    'size="$1"; shift; find "$@" -maxdepth 0 -type f -size "-${size}c" -print0 2>/dev/null | '
    "tar --create --no-recursion --null --files-from=- --file=-"
)
# busybox, as on Alpine, has no -printf.
_LIST = 'test ! -d "$1" || { cd "$1" && find . -mindepth 2 -maxdepth 2 -type d; }'

_LISTED = 3
"""Parts of a path in that list: `.`, a name, a package."""

_KILL_ALL = "kill -KILL -1"
_KILL_ALL_OF_ROOT = (
    'for path in /proc/[0-9]*; do id="${path#/proc/}"; '
    'if [ "$id" -ne 1 ] && [ "$id" -ne $$ ] && [ "$(cat $path/comm 2>/dev/null)" != cat ]; '
    'then kill -KILL "$id" 2>/dev/null; fi; done; true'
)
_END_ATTEMPTS = 5


class _Marked:
    """Passes output on without the mark, and records whether it came."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._held: bytearray | None = bytearray()
        self.seen = False

    def __call__(self, data: bytes) -> None:
        if self._held is None:
            self._output(data)
            return
        self._held += data
        before, mark, after = bytes(self._held).partition(_MARK)
        if mark:
            self.seen = True
            self._held = None
            self._output(before + after)
        elif len(self._held) > _MARK_WITHIN:
            self.end()

    def end(self) -> None:
        if self._held is not None:
            self._output(bytes(self._held))
            self._held = None


class ContainerExecutor:
    """Implements `executor.Executor` in a container.

    Args:
        container: The container.
        mirrors: Archive mirrors that it shows.
        personality: See `Platform.personality`.
        disk: Watch over what is written, where that is on this machine.
    """

    def __init__(
        self,
        container: Container,
        mirrors: Mirrors,
        *,
        personality: str | None = None,
        disk: DiskWatch | None = None,
    ) -> None:
        self._container = container
        self._mirrors = mirrors
        self._personality = personality
        self._disk = disk

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
        if self._container.is_over:
            raise InfrastructureError(
                "the job's container has ended", cause=Cause.SANDBOX, phase=phase
            )
        confined = steps.confined(step, self._mirrors, personality=self._personality)
        guard = await self._disk.begin(phase) if self._disk is not None else None
        call = self._exec_call(confined, interactive=stdin is not None)
        marked = _Marked(output)
        finished = False
        try:
            ended = await run_process(
                self._container.engine.command(*call),
                output=marked,
                time_limit=time_limit,
                stdin=stdin,
                guard=guard,
            )
            finished = not ended.timed_out and not ended.stopped
        finally:
            # The kill reached only the engine's client.
            if not finished:
                await self._container.end()
        marked.end()
        if finished:
            if confined.network and self._container.network is not None:
                ended = await self._container.network.described(ended, output)
            await self._kill_leftovers(phase, as_root=confined.as_root)
        return replace(ended, started=marked.seen)

    def _exec_call(self, step: sandbox.Confined, *, interactive: bool) -> list[str]:
        call = ["exec", *(("--interactive",) if interactive else ())]
        begin = ("sh", "-c", _START, "sh")
        if step.as_root:
            variables = [f"{name}={value}" for name, value in step.environment]
            call += ["--user", "0:0", "--workdir", step.directory, self._container.name]
            return [*call, "env", "-i", *variables, *begin, *step.argv]
        user = f"{sandbox.USER}:{sandbox.USER}"
        return [
            *call,
            *("--user", user, self._container.name),
            # Not --die-with-parent: the parent of an executed command is the runtime, which
            # ends at once.
            *("bwrap", "--dev-bind", "/", "/", "--unshare-ipc", "--cap-drop", "ALL"),
            *(() if step.network else ("--unshare-net", "--tmpfs", "/sys")),
            *sandbox.start_options(step),
            *("--", *begin, *step.argv),
        ]

    async def _kill_leftovers(self, phase: Phase, *, as_root: bool) -> None:
        """Kills processes that a command left running, so that none outlives its phase."""
        for _ in range(_END_ATTEMPTS):
            others = self._container.others
            if others == 0 or (others is None and phase not in PACKAGE_PHASES):
                return
            user, script = ("0:0", _KILL_ALL_OF_ROOT) if as_root else (str(sandbox.USER), _KILL_ALL)
            code, _, _ = await self._container.engine.try_call(
                "exec", "--user", user, self._container.name, "sh", "-c", script
            )
            if others is None and code == 0:
                return
        if self._container.others != 0:
            # At its process limit, a job leaves no room for the command that would kill it.
            await self._container.end()

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads regular files by a `tar` in the container, where links cannot lead outside."""
        if not paths or self._container.is_over:
            return {}
        code, output, _ = await self._exec("sh", "-c", _READ, "sh", str(limit), *paths)
        if code != 0:
            return {}
        found = {}
        with tarfile.open(fileobj=io.BytesIO(output)) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name] = file.read(limit)
        return found

    async def packages(self, repository: str) -> frozenset[str]:
        """Lists the packages of a repository."""
        _, output, _ = await self._exec("sh", "-c", _LIST, "sh", f"{repository}/packages")
        paths = (line.split("/") for line in output.decode(errors="replace").splitlines())
        return frozenset(
            path[2] for path in paths if len(path) == _LISTED and path[2].startswith(f"{path[1]}.")
        )

    async def _exec(self, *argv: str) -> tuple[int | None, bytes, str]:
        user = ("--user", f"{sandbox.USER}:{sandbox.USER}", "--workdir", "/")
        return await self._container.engine.try_call("exec", *user, self._container.name, *argv)

    async def host(self) -> HostFacts:
        """Reads the kernel's counters, and the free room where it is on this machine."""
        upper = self._container.upper
        if upper is not None and not upper.exists():
            upper = upper.parents[1]  # the container has ended
        return host_facts(upper, await self._container.counters(), self._disk)
