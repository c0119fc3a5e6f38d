"""Control groups of jobs: limits on memory, processes and CPU, and the kernel's counters.

Version 1, version 2 and both at once (hybrid: the controllers on version 1) are made by hand:
that takes 2 ms, needs no service manager, and is the same everywhere. Where possible, a job's
group lies in the worker's own one, so that limits of the worker limit its jobs, and a service
manager that ends the worker ends its jobs.
"""

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from opam_ci.clients.runners.sandbox.cgroup_discovery import (
    CONTROLLERS,
    Hierarchy,
    find_hierarchies,
    groups_of,
)
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

PREFIX = "opam-ci-"
"""Prefix of names of job groups."""

RECORD = "cgroups"
"""File of a job root that lists the job's groups, for the sweep after a killed worker."""

_CPU_PERIOD = 100_000
_REMOVE_ATTEMPTS = 100
_REMOVE_INTERVAL = 0.02

_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'
"""A constant script that enters groups and becomes the command: no process of a job ever
runs outside of them."""


@dataclass(frozen=True)
class Counters:
    """The kernel's counters of a job's groups.

    Attributes:
        oom_kills: Processes killed for want of memory.
        memory_limit_reached: Whether the groups' own memory limit was reached.
        pids_limit_hits: Forks refused for the process limit.
        cpu_seconds: Processor time used; 0 if unknown.
    """

    oom_kills: int = 0
    memory_limit_reached: bool = False
    pids_limit_hits: int = 0
    cpu_seconds: float = 0


@dataclass(frozen=True)
class OomKills:
    """Kills for want of memory that may be of a job, where no group of the job counts its own.

    They are those in the worker's own groups, in which the job runs, where the kernel counts
    these: a neighbour that meets a limit of its own costs nobody else a process. Else they are
    those of the whole host.

    Attributes:
        groups: The worker's groups that count; none for the host.
        before: The counter when the job began.
    """

    groups: tuple[Path, ...]
    before: int

    @classmethod
    def from_now_on(cls, groups: Iterable[Path] | None = None) -> "OomKills":
        """Returns none yet.

        Args:
            groups: The groups that the job runs in; None for this process's own.
        """
        inside = groups_of(os.getpid()) if groups is None else groups
        counting = tuple(path for path in inside if _counts_oom_kills(path))
        return cls(counting, _oom_kills(counting))

    @property
    def number(self) -> int:
        """How many there were since."""
        return _oom_kills(self.groups) - self.before


@dataclass(frozen=True)
class JobGroups:
    """The groups of one job, one in each hierarchy; none where the machine grants none.

    Attributes:
        directories: Of the groups.
        foreign_oom_kills: Since the job began; None where its groups count its own.
    """

    directories: tuple[Path, ...] = ()
    foreign_oom_kills: OomKills | None = None

    def entered(self, argv: Sequence[str]) -> list[str]:
        """Returns the command line that enters the groups, and then becomes the command."""
        if not self.directories:
            return list(argv)
        files = [str(path / "cgroup.procs") for path in self.directories]
        return ["sh", "-c", _JOIN, "sh", *files, "--", *argv]

    def processes(self) -> list[int]:
        """Returns the ids of the job's processes; none where no group has them."""
        return processes(self.directories)


class Cgroups:
    """Makes the groups of jobs.

    Args:
        hierarchies: Where groups can be made.
        limits: Of every job; `memory_bytes` must be a number already, or None for no limit.
    """

    def __init__(self, hierarchies: tuple[Hierarchy, ...], limits: JobLimits) -> None:
        self._hierarchies = hierarchies
        self._limits = limits

    @classmethod
    def here(cls, limits: JobLimits, *, root: Path = Path("/")) -> "Cgroups":
        """Finds out which groups this machine grants.

        Args:
            limits: Of every job.
            root: Directory in place of `/`, so that tests can simulate machines.
        """
        found = find_hierarchies(root)
        usable = tuple(each for each in found if _works(each, limits))
        return cls(usable, limits)

    @property
    def missing(self) -> tuple[str, ...]:
        """Controllers of limits that are set, and that this machine does not grant."""
        have = {name for each in self._hierarchies for name in each.controllers}
        return tuple(name for name in _wanted(self._limits) if name not in have)

    @asynccontextmanager
    async def open(self, directory: Path) -> AsyncIterator[JobGroups]:
        """Makes the groups of a job, and ends and removes them at the end.

        Args:
            directory: The job root: its name is in that of the groups, and it keeps the record
                of them, which a sweep reads if this worker is killed.

        Raises:
            InfrastructureError: Cause `sandbox`: the kernel refuses.
        """
        counts = any("memory" in each.controllers for each in self._hierarchies)
        made = JobGroups(
            tuple(each.parent / f"{PREFIX}{directory.name}" for each in self._hierarchies),
            foreign_oom_kills=None if counts else OomKills.from_now_on(),
        )
        if not made.directories:
            yield made
            return
        try:
            self._make(directory, made)
            yield made
        finally:
            await remove(made.directories)

    def _make(self, directory: Path, wanted: JobGroups) -> None:
        try:
            record = "".join(f"{path}\n" for path in wanted.directories)
            (directory / RECORD).write_text(record)
            for hierarchy, path in zip(self._hierarchies, wanted.directories, strict=True):
                path.mkdir()
                _apply(hierarchy, path, self._limits)
        except OSError as error:
            raise InfrastructureError(
                f"no control group can be made for a job: {error}", cause=Cause.SANDBOX
            ) from error


async def remove_recorded(directory: Path) -> None:
    """Ends and removes the groups of a job whose worker was killed.

    Args:
        directory: Its job root.
    """
    with suppress(FileNotFoundError):
        listed = (directory / RECORD).read_text().splitlines()
        # The name is checked, so that no content of the file can end another group.
        await remove(
            [path for path in map(Path, listed) if path.name == f"{PREFIX}{directory.name}"]
        )


async def remove(directories: Iterable[Path]) -> None:
    """Ends every process of some groups and removes them.

    Raises:
        InfrastructureError: Cause `sandbox`: processes do not end.
    """
    for directory in directories:
        for _ in range(_REMOVE_ATTEMPTS):
            try:
                directory.rmdir()
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                _kill(directory)
                await asyncio.sleep(_REMOVE_INTERVAL)
            else:
                break
        else:
            raise InfrastructureError(f"processes in {directory} do not end", cause=Cause.SANDBOX)


def processes(directories: Iterable[Path]) -> list[int]:
    """Returns the ids of the processes in the first group that can be read."""
    for directory in directories:
        with suppress(OSError):
            return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    return []


COUNTER_FILES = (
    "memory.events",
    "memory.oom_control",
    "memory.max_usage_in_bytes",
    "memory.limit_in_bytes",
    "pids.events",
    "cpu.stat",
    "cpuacct.usage",
)
"""Files of a group that `parse_counters` reads: `memory.events` of version 2, `memory.*` else and
`cpuacct.usage` of version 1, the others of both."""


def read_counters(directories: Iterable[Path]) -> Counters:
    """Adds up the counters of some groups; what cannot be read counts as nothing."""
    each = [
        parse_counters({name: _read(path / name) for name in COUNTER_FILES}) for path in directories
    ]
    return Counters(
        oom_kills=sum(one.oom_kills for one in each),
        memory_limit_reached=any(one.memory_limit_reached for one in each),
        pids_limit_hits=sum(one.pids_limit_hits for one in each),
        # The same processes are in a group of each hierarchy.
        cpu_seconds=max((one.cpu_seconds for one in each), default=0),
    )


def parse_counters(files: Mapping[str, str]) -> Counters:
    """Parses the counters of a group, or of the groups of a process, of either version.

    Args:
        files: Text of those of `COUNTER_FILES` that are there, by name.
    """
    memory, memory_1, pids, cpu = (
        _counters(files.get(name, ""))
        for name in ("memory.events", "memory.oom_control", "pids.events", "cpu.stat")
    )
    highest, limit = (
        _number(files.get(f"memory.{name}_in_bytes", "")) for name in ("max_usage", "limit")
    )
    return Counters(
        oom_kills=memory.get("oom_kill", 0) + memory_1.get("oom_kill", 0),
        # `oom` of version 2 counts what did not fit into the group itself, and nothing else.
        # Version 1 has no such counter (`failcnt` stays 0 on Linux 6.18), and charges in small
        # portions. Files that the group has read count as well, so this does not prove a kill.
        memory_limit_reached=memory.get("oom", 0) > 0
        or (limit > 0 and highest >= limit - limit // 64),
        pids_limit_hits=pids.get("max", 0),
        # In microseconds and, by version 1, in nanoseconds.
        cpu_seconds=cpu.get("usage_usec", 0) / 1e6 or _number(files.get("cpuacct.usage", "")) / 1e9,
    )


def _oom_kills(groups: tuple[Path, ...]) -> int:
    """Returns the kernel's counter of some groups or, without any, of the host."""
    if groups:
        return read_counters(groups).oom_kills
    return _counters(_read(Path("/proc/vmstat"))).get("oom_kill", 0)


def _counts_oom_kills(group: Path) -> bool:
    files = ("memory.events", "memory.oom_control")
    return any("oom_kill" in _counters(_read(group / name)) for name in files)


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _counters(text: str) -> dict[str, int]:
    pairs = (line.partition(" ") for line in text.splitlines())
    return {name: _number(value) for name, _, value in pairs}


def _number(text: str) -> int:
    with suppress(ValueError):
        return int(text)
    return 0


def _wanted(limits: JobLimits) -> tuple[str, ...]:
    values = {"memory": limits.memory_bytes, "pids": limits.pids, "cpu": limits.cpus}
    return tuple(name for name in CONTROLLERS if values[name] is not None)


def _works(hierarchy: Hierarchy, limits: JobLimits) -> bool:
    """Makes a group with all limits and removes it, since nothing less proves that it can."""
    probe = hierarchy.parent / f"{PREFIX}probe-{os.getpid()}"
    try:
        probe.mkdir()
        try:
            _apply(hierarchy, probe, limits)
        finally:
            probe.rmdir()
    except OSError:
        return False
    return True


def _apply(hierarchy: Hierarchy, path: Path, limits: JobLimits) -> None:
    old = hierarchy.version == 1
    if "memory" in hierarchy.controllers and limits.memory_bytes is not None:
        amount = str(limits.memory_bytes)
        _write(path / ("memory.limit_in_bytes" if old else "memory.max"), amount)
        # The limit includes swap; kernels without swap accounting lack the file.
        with suppress(FileNotFoundError, PermissionError):
            if old:
                _write(path / "memory.memsw.limit_in_bytes", amount)
            else:
                _write(path / "memory.swap.max", "0")
    if "pids" in hierarchy.controllers and limits.pids is not None:
        _write(path / "pids.max", str(limits.pids))
    if "cpu" in hierarchy.controllers and limits.cpus is not None:
        quota = int(limits.cpus * _CPU_PERIOD)
        if old:
            _write(path / "cpu.cfs_period_us", str(_CPU_PERIOD))
            _write(path / "cpu.cfs_quota_us", str(quota))
        else:
            _write(path / "cpu.max", f"{quota} {_CPU_PERIOD}")


def _write(path: Path, text: str) -> None:
    # Opened, never created: a misspelt name must not pass for a limit.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _kill(directory: Path) -> None:
    with suppress(OSError):
        _write(directory / "cgroup.kill", "1")
        return
    with suppress(OSError):
        for word in (directory / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(word), signal.SIGKILL)
