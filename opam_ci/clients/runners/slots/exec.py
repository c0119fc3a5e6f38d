"""The build root of the native runner: a directory of this machine, in which commands run as is.

Nothing is mounted: a step that names a path of a build root gets that of the slot in its place.
"""

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from opam_ci.clients import programs
from opam_ci.clients.runners.images.scratch import host_facts
from opam_ci.clients.runners.phases import steps
from opam_ci.clients.runners.phases.executor import READ_LIMIT, Output
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.cgroups import Counters, OomKills
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.clients.runners.slots import keeper
from opam_ci.clients.runners.slots.slot import Slot
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import HostFacts
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause

LINUX = sys.platform == "linux"

_INTERVAL = 0.5
_HOME = sandbox.HOME.lstrip("/")


class ProcessWatch:
    """Watches the processes of a slot, which no limit of the kernel counts as a whole.

    Args:
        slot: The slot.
        limits: Of which `memory_bytes` and `pids` apply.

    Attributes:
        memory_reached: Whether all processes together had more memory than the limit.
        processes_reached: Whether there were as many processes as the limit allows.
    """

    def __init__(self, slot: Slot, limits: JobLimits) -> None:
        self._slot = slot
        self._limits = limits
        self.memory_reached = False
        self.processes_reached = False

    def processes(self) -> list[int]:
        """Returns the ids of the slot's processes."""
        return [each.pid for each in self._processes()]

    async def exceeded(self) -> None:
        """Returns when the processes have more memory than they may."""
        while not self.memory_reached:
            await asyncio.sleep(_INTERVAL)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        found = self._processes()
        # As the kernel does, it counts threads.
        if self._limits.pids is not None and sum(map(_threads, found)) >= self._limits.pids:
            self.processes_reached = True
        limit = self._limits.memory_bytes
        if limit is None or sum(map(_resident, found)) <= limit:
            return
        # What processes share counts once: Linux measures that, with some work.
        self.memory_reached = not LINUX or sum(map(_proportional, found)) > limit

    def _processes(self) -> list[psutil.Process]:
        if (user := self._slot.user) is not None:
            # A program that is being started may have the user's number in one of them only.
            found = psutil.process_iter(["uids"])
            return [each for each in found if user.uid in tuple(each.info["uids"] or ())]
        try:
            kept = psutil.Process(int((self._slot.directory / "pid").read_text()))
            return kept.children(recursive=True)
        except (OSError, ValueError, psutil.Error):
            return []  # it has ended


def _resident(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _threads(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.num_threads())
    return 0


def _proportional(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


class NativeExecutor:
    """Implements `executor.Executor` in a slot.

    Args:
        slot: The slot.
        mirrors: Archive mirrors.
        limits: Of the job; None for no limits.
    """

    def __init__(self, slot: Slot, mirrors: Mirrors, limits: JobLimits | None = None) -> None:
        self._slot = slot
        self._places = {
            sandbox.HOME: str(slot.home),
            **{inside: str(path) for path, inside in mirrors.directories},
        }
        self._limits = limits
        self._watch = ProcessWatch(slot, limits or JobLimits())
        self._disk = (
            None
            if limits is None
            else DiskWatch(slot.home, limits, sandbox.ROOT, self._watch.processes)
        )
        self._oom_kills = OomKills.from_now_on()

    async def run(
        self,
        step: steps.Step,
        *,
        output: Output,
        phase: Phase,
        time_limit: float | None = None,
        stdin: IO[bytes] | None = None,
    ) -> ProcessResult:
        """Runs one command; see `executor.Executor.run`.

        Raises:
            InfrastructureError: Cause `sandbox`: processes of the command may be left.
        """
        confined = steps.confined(step, Mirrors())
        order, started, ended = (
            self._slot.directory / name for name in ("order.json", "pid", "ended")
        )
        for path in (started, ended):
            path.unlink(missing_ok=True)
        scratch = [Path(self._here(path)) for path in confined.scratch]
        for path in scratch:
            path.mkdir()
            await self._slot.own(path)
        _write_private(order, json.dumps(self._order(confined, started, ended)))
        guard = (
            None
            if self._disk is None
            else _first(await self._disk.begin(phase), self._watch.exceeded)
        )
        try:
            found = await run_process(
                [sys.executable, "-I", "-S", keeper.__file__, str(order)],
                output=output,
                time_limit=time_limit,
                stdin=stdin,
                guard=guard,
                stop=signal.SIGTERM,
            )
        finally:
            if started.exists() and not ended.exists():
                raise InfrastructureError(
                    f"processes of {self._whose} may be left after {step.title}: end them, or "
                    "restart the machine",
                    cause=Cause.SANDBOX,
                    phase=phase,
                )
        for path in scratch:
            await self._remove(path, phase)
        if confined.as_root and self._slot.user is not None:
            await self._slot.own(self._slot.home)
        if self._watch.memory_reached:
            return replace(found, budget="memory")
        started_it = ended.exists() and "not_started" not in json.loads(ended.read_text())
        return replace(found, started=started_it)

    @property
    def _whose(self) -> str:
        return "this worker's user" if self._slot.user is None else self._slot.user.name

    def _order(self, step: sandbox.Confined, started: Path, ended: Path) -> dict[str, object]:
        user = None if step.as_root else self._slot.user
        tmp = self._slot.home / "tmp"
        name = pwd.getpwuid(os.getuid()).pw_name if user is None else user.name
        variables = {
            **{name: self._here(value) for name, value in step.environment},
            **dict.fromkeys(("USER", "LOGNAME"), name),
            "SHELL": "/bin/sh",
            "PATH": os.environ.get("PATH", os.defpath),
            "OPAMROOT": str(self._slot.home / ".opam"),
            "OPAMROOTISOK": "1",
            "TMPDIR": str(tmp),
        }
        words = [self._here(word) for word in step.argv]
        if words[0] == "cp":
            words[0] = programs.gnu("cp")
        return {
            "argv": words,
            "environment": variables,
            "directory": self._here(step.directory),
            "user": None if user is None else [user.uid, user.gid],
            "processes": self._process_limit(user is None),
            "worker": os.getpid(),
            "pid": str(started),
            "ended": str(ended),
        }

    def _process_limit(self, shared: bool) -> int | None:  # noqa: FBT001 - one caller
        """Returns the limit of processes, which the kernel counts by user."""
        limit = None if self._limits is None else self._limits.pids
        if limit is None or not shared:
            return limit
        if os.geteuid() == 0:
            return None  # the kernel does not limit root
        me = os.getuid()
        others = psutil.process_iter(["uids"])
        return limit + sum(
            _threads(each) for each in others if each.info["uids"] and each.info["uids"].real == me
        )

    def _here(self, text: str) -> str:
        for inside, path in self._places.items():
            text = re.sub(rf"{re.escape(inside)}(?![\w.-])", lambda _, to=path: to, text)  # type: ignore[misc]  # mypy knows no default of a lambda
        return text

    async def _remove(self, path: Path, phase: Phase) -> None:
        step = steps.Step(("rm", "-rf", str(path)))
        await self.run(step, output=lambda _: None, phase=phase)

    async def read(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads regular files."""
        found = {}
        left = READ_LIMIT
        for path in paths:
            data = beneath.read(self._slot.home, _within(path), limit=min(limit, left))
            if data is not None:
                found[path] = data
                left -= len(data)
        return found

    async def packages(self, repository: str) -> frozenset[str]:
        """Lists the packages of a repository that the job made."""
        return beneath.packages(self._slot.home, _within(repository))

    async def host(self) -> HostFacts:
        """Reads what was watched, and the free room where the job writes."""
        counters = Counters(
            oom_kills=int(self._watch.memory_reached),
            # Elsewhere shared memory was counted several times, which proves nothing.
            memory_limit_reached=self._watch.memory_reached and LINUX,
            pids_limit_hits=int(self._watch.processes_reached),
        )
        facts = host_facts(
            self._slot.home,
            counters,
            self._disk,
            foreign_oom_kills=self._oom_kills,
        )
        return facts.model_copy(update={"kernel_kills_counted": LINUX})


def _within(path: str) -> str:
    """Returns a path of a build root, relative to its home."""
    inside = path.removeprefix(f"{_HOME}/")
    if inside == path:
        raise ValueError(f"not a path of {sandbox.HOME}: {path!r}")
    return inside


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _first(*guards: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """Returns a guard that returns when the first of some does."""

    async def guard() -> None:
        running = [asyncio.ensure_future(each()) for each in guards]
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    return guard
