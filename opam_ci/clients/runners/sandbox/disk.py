"""The disk budget of a job: watching what it writes.

Alternatives: project quotas need a mount option that hardly any machine has; a file system of
the job's own in a file costs 0.1 s and a loop device, and its "No space left on device" could
not be distinguished from a full disk of the machine. Watching needs nothing and yields a fact.

A file that was removed takes room as long as a process has it open or mapped. Such files of the
job's processes are counted too, but for those in memory, which its memory limit counts.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from opam_ci.clients import programs
from opam_ci.clients.runners.sandbox.bubblewrap import Rights
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import DiskOveruse
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause

_INTERVAL = 0.5
_COUNT_AT_LEAST_EVERY = 5.0
_SMALL_GROWTH = 16 << 20
_FEW_INODES = 2_000

_BLOCK = 512
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_REMOVED_TIMEOUT = 10.0
"""Seconds to look for removed files; what was found until then counts."""

_REMOVED_OUTPUT = 32 << 20
"""Bytes of the list of removed files that are kept: some 400,000 files."""

_OWN = frozenset({Phase.BUILD, Phase.TEST})
"""Phases whose own writes are counted."""


class DiskWatch:
    """Watches one directory tree.

    Counting a tree takes some 10 ms for 10,000 files, so it is counted only when the whole
    file system has grown enough that the job might be over its budget.

    Args:
        directory: What only the job writes to.
        limits: Of which `disk_bytes` and `disk_inodes` apply.
        rights: Rights over files and processes of other users.
        processes: Returns the process ids of the job, as far as known on this machine.

    Attributes:
        overuse: Set when the job exceeded its budget.
        lowest_free_bytes: The lowest measurement of free bytes in the last phase; None if it
            ended before the first one.
    """

    def __init__(
        self,
        directory: Path,
        limits: JobLimits,
        rights: Rights,
        processes: Callable[[], Sequence[int]],
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._rights = rights
        self._processes = processes
        self._before = (0, 0)
        self._phase: Phase | None = None
        self.overuse: DiskOveruse | None = None
        self.lowest_free_bytes: int | None = None

    def elsewhere(self, directory: Path) -> "DiskWatch":
        """Returns a watch over another directory, with the same limits."""
        return DiskWatch(directory, self._limits, self._rights, self._processes)

    async def begin(self, phase: Phase) -> Callable[[], Awaitable[None]]:
        """Records usage at the beginning of a command.

        Returns:
            The command's guard: it returns when the job exceeds its budget.

        Raises:
            InfrastructureError: Cause `storage`: the tree cannot be counted.
        """
        self._before = await self._count() if phase in _OWN else (0, 0)
        if phase is not self._phase:
            self._phase, self.lowest_free_bytes = phase, None
        return self._exceeded

    async def _exceeded(self) -> None:
        written = self._before
        counted_at, used = _now(), self._used()
        while True:
            await asyncio.sleep(_INTERVAL)
            now = self._used()
            # What others free must not hide what this job writes afterwards.
            used = (min(used[0], now[0]), min(used[1], now[1]))
            growth = (now[0] - used[0], now[1] - used[1])
            # A quarter of what is left, since others on the machine may free as much meanwhile.
            if (
                growth[0] < max(_SMALL_GROWTH, (self._limits.disk_bytes - written[0]) // 4)
                and growth[1] < max(_FEW_INODES, (self._limits.disk_inodes - written[1]) // 4)
                and _now() - counted_at < _COUNT_AT_LEAST_EVERY
            ):
                continue
            counted_at, used = _now(), self._used()
            written = await self._count()
            if written[0] > self._limits.disk_bytes or written[1] > self._limits.disk_inodes:
                self.overuse = DiskOveruse(
                    limit_bytes=self._limits.disk_bytes,
                    limit_inodes=self._limits.disk_inodes,
                    written_bytes=written[0],
                    written_inodes=written[1],
                    phase_bytes=max(0, written[0] - self._before[0]),
                    phase_inodes=max(0, written[1] - self._before[1]),
                )
                return

    def _used(self) -> tuple[int, int]:
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize
        lowest = self.lowest_free_bytes
        self.lowest_free_bytes = free if lowest is None else min(free, lowest)
        return (
            (status.f_blocks - status.f_bfree) * status.f_frsize,
            status.f_files - status.f_ffree,
        )

    async def _count(self) -> tuple[int, int]:
        size, inodes, removed = await asyncio.gather(
            self._du("--block-size=1"),
            self._du("--inodes"),
            self._removed(),
        )
        return size + sum(removed), inodes + len(removed)

    async def _du(self, what: str) -> int:
        # The sum is its last line; a path has at most 4 KiB.
        output = LastOutput(16 << 10)
        # Not os.walk: a package under test may nest thousands of directories. If files vanish
        # meanwhile, du exits with 1 but prints the sum.
        du = (programs.gnu("du"), "--summarize", "--one-file-system", what)
        command = (*du, "--", str(self._directory))
        await run_process([*self._rights.prefix, *command], output=output)
        for line in reversed(output.text.splitlines()):
            number, _, path = line.partition("\t")
            if path == str(self._directory) and number.isdigit():
                return int(number)
        raise InfrastructureError(
            f"the disk usage of {self._directory} cannot be counted", cause=Cause.STORAGE
        )

    async def _removed(self) -> list[int]:
        """Returns the sizes on disk of removed files that the job's processes hold."""
        directories = [each for pid in self._processes() for each in _held(pid)]
        if not directories:
            return []
        output = bytearray()

        def keep(data: bytes) -> None:
            output.extend(data[: _REMOVED_OUTPUT - len(output)])

        each = ("-printf", "%p %D:%i %b\\n", "-exec")
        kind = ("stat", "--dereference", "--file-system", "--printf=%n %T\\n", "{}", "+")
        await run_process(
            [
                *(*self._rights.prefix, "find", "-L", *directories, "-mindepth", "1"),
                *("-maxdepth", "1", "-type", "f", "-links", "0", *each, *kind),
            ],
            output=keep,
            time_limit=_REMOVED_TIMEOUT,
        )
        return removed_sizes(output.decode(errors="replace"))


def _held(pid: int) -> list[str]:
    """Returns the directories of what a process holds; a thread may have files of its own."""
    process = Path(f"/proc/{pid}")
    try:
        threads = list((process / "task").iterdir())
    except OSError:
        return []  # it has ended
    return [str(path) for path in (process / "map_files", *(each / "fd" for each in threads))]


def removed_sizes(output: str) -> list[int]:
    """Reads the sizes of removed files; find and stat also complain, where a process has ended."""
    files: dict[str, tuple[str, int]] = {}
    kinds: dict[str, str] = {}
    for line in output.splitlines():
        match line.split(" "):
            case [path, inode, blocks] if blocks.isdigit():
                files[path] = (inode, int(blocks) * _BLOCK)
            case [path, kind]:
                kinds[path] = kind
    found = {
        inode: size for path, (inode, size) in files.items() if kinds.get(path) not in _IN_MEMORY
    }
    return list(found.values())


def _now() -> float:
    return asyncio.get_running_loop().time()
