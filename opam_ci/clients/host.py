"""Free resources of a machine: disk, inodes, memory."""

import os
from pathlib import Path

import psutil

from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.workers.health import Finding

_MIB = 1 << 20


class HostNeeds(Frozen):
    """Free resources that a machine must have before it takes jobs.

    Attributes:
        home: Directory where builds write.
        free_bytes: Bytes free there.
        free_inodes: Inodes free there.
        memory_bytes: Memory that the kernel can still give to builds without swapping.
    """

    home: Path
    free_bytes: int
    free_inodes: int
    memory_bytes: int = 256 * _MIB


class HostReading(Frozen):
    """Free resources of a machine.

    Attributes:
        free_bytes: Bytes free where builds write.
        free_inodes: Inodes free there, None on a file system without a fixed number of them.
        memory_bytes: Memory that the kernel can give without swapping.
    """

    free_bytes: int
    free_inodes: int | None
    memory_bytes: int


def read_host(home: Path) -> HostReading:
    """Reads what a machine has left: a system call and a file of /proc, no process.

    Raises:
        OSError: The directory does not exist or its file system does not respond.
    """
    status = os.statvfs(home)
    return HostReading(
        free_bytes=status.f_bavail * status.f_frsize,
        free_inodes=status.f_favail if status.f_files else None,
        memory_bytes=psutil.virtual_memory().available,
    )


def check_host(reading: HostReading, needs: HostNeeds) -> Finding | None:
    """Returns what a machine lacks, None if it meets all needs."""
    if reading.free_bytes < needs.free_bytes:
        return Finding(
            cause=Cause.DISK_FULL,
            detail=f"{needs.home} has {reading.free_bytes // _MIB} MiB free and needs "
            f"{needs.free_bytes // _MIB}",
        )
    if reading.free_inodes is not None and reading.free_inodes < needs.free_inodes:
        return Finding(
            cause=Cause.DISK_FULL,
            detail=f"{needs.home} has {reading.free_inodes} inodes free and needs "
            f"{needs.free_inodes}",
        )
    if reading.memory_bytes < needs.memory_bytes:
        return Finding(
            cause=Cause.OUT_OF_MEMORY,
            detail=f"{reading.memory_bytes // _MIB} MiB of memory are available, and builds "
            f"need {needs.memory_bytes // _MIB}",
        )
    return None
