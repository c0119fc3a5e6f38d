"""What a machine must have before it takes work; the same for every runner."""

import logging
import subprocess
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opam_ci.clients.host import HostNeeds, read_host
from opam_ci.clients.runners.cgroups import Cgroups
from opam_ci.clients.runners.sandbox import Rights
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

_log = logging.getLogger(__name__)

_CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far a clock may be off: GitHub and TLS certificates bear as much."""

_ESSENTIAL = frozenset({"memory", "pids"})
"""Limits without which one job can take the machine down."""


_SWITCHES = {
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "15000"),
}
"""What forbids user namespaces: the value that does so, and one that does not. The first is
Ubuntu's, the second Debian's, the last the kernel's own."""


def namespace_trouble(rights: Rights, *, switches: Path = Path("/proc/sys")) -> str | None:
    """Returns why this user cannot make the namespaces of builds, and what to do.

    Args:
        rights: How this worker gets them.
        switches: Where the kernel shows its settings.

    Returns:
        A line; None if it can, or is root.
    """
    if not rights.making_images:
        return None
    probe = [*rights.making_images, "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - fixed words
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    todo = "add ranges for it to /etc/subuid and /etc/subgid, or run as root"
    for name, (forbids, allows) in _SWITCHES.items():
        path = switches / name.replace(".", "/")
        if path.exists() and path.read_text().strip() == forbids:
            todo = f"run this first: sudo sysctl -w {name}={allows}"
    return f"this user cannot make user namespaces ({last}): {todo}"


def check_room(needs: HostNeeds) -> None:
    """Checks that there is room for builds.

    Raises:
        InfrastructureError: Cause `disk_full`.
    """
    left = read_host(needs.home)
    inodes = left.free_inodes
    if left.free_bytes < needs.free_bytes or (inodes is not None and inodes < needs.free_inodes):
        raise InfrastructureError(
            f"{needs.home} has {left.free_bytes >> 20} MiB and {inodes or 0} inodes free, and "
            f"builds want {needs.free_bytes >> 20} MiB and {needs.free_inodes}: make room, or "
            "set another home",
            cause=Cause.DISK_FULL,
        )


def check_limits(cgroups: Cgroups, limits: JobLimits) -> None:
    """Checks that jobs can be limited, or says in the worker's log that they are not.

    Raises:
        InfrastructureError: Cause `sandbox`: they cannot, and the settings require it.
    """
    missing = _ESSENTIAL & frozenset(cgroups.missing)
    if not missing:
        return
    words = (
        f"this machine grants no control group for {' and '.join(sorted(missing))}: one job can "
        "take all of it. Run the worker as root, or as a systemd service with Delegate=yes"
    )
    if limits.required:
        raise InfrastructureError(words, cause=Cause.SANDBOX)
    _log.warning("%s; jobs run without that limit", words)


def check_clock(
    now: datetime, *, not_before: datetime, server_time: datetime | None = None
) -> None:
    """Checks that the machine's clock is sane: TLS, time limits and records rest on it.

    Args:
        now: What the machine's clock says.
        not_before: When something happened that is over, such as the making of the image.
        server_time: What another machine's clock says now, if known.

    Raises:
        InfrastructureError: Cause `unknown`: it is not.
    """
    if now < not_before - _CLOCK_TOLERANCE:
        raise InfrastructureError(
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, and the root file system was made at "
            f"{not_before:%Y-%m-%d %H:%M} UTC: set the clock, e.g. with timedatectl set-ntp true",
            cause=Cause.UNKNOWN,
        )
    if server_time is not None and abs(now - server_time) > _CLOCK_TOLERANCE:
        raise InfrastructureError(
            f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, and the server's says "
            f"{server_time:%Y-%m-%d %H:%M:%S} UTC: set the clock, e.g. with timedatectl "
            "set-ntp true",
            cause=Cause.UNKNOWN,
        )


def check_lists(root: Path) -> None:
    """Checks that a root file system knows packages: else opam calls all unavailable.

    Raises:
        InfrastructureError: Cause `image`.
    """
    lists = root / "var/lib/apt/lists"
    if not any(path.stat().st_size > 0 for path in lists.glob("*Packages*")):
        raise InfrastructureError(
            f"{lists} has no package lists: remove {root.parent}, and the image is made anew",
            cause=Cause.IMAGE,
        )


def utc_now() -> datetime:
    """Returns what the machine's clock says."""
    return datetime.now(UTC)


def limits_line(limits: JobLimits, missing: Collection[str] = ()) -> str:
    """Says in a job's log what it may use.

    Args:
        limits: Its limits.
        missing: Controllers that the machine does not grant.
    """
    words = []
    if limits.memory_bytes is not None and "memory" not in missing:
        words.append(f"{limits.memory_bytes >> 20} MiB of memory")
    if limits.pids is not None and "pids" not in missing:
        words.append(f"{limits.pids} processes")
    if limits.cpus is not None and "cpu" not in missing:
        words.append(f"{limits.cpus:g} CPUs")
    words.append(f"{limits.disk_bytes >> 20} MiB in {limits.disk_inodes} files on disk")
    without = f"; no limit of {', '.join(missing)} on this machine" if missing else ""
    return f"limits: {', '.join(words)}{without}"
