"""Checks of a machine before it takes jobs; the same for every runner."""

import logging
import subprocess
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from opam_ci.clients.host import HostNeeds, check_host, read_host
from opam_ci.clients.runners.sandbox.bubblewrap import Rights
from opam_ci.clients.runners.sandbox.cgroups import Cgroups
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_log = logging.getLogger(__name__)

_CLOCK_TOLERANCE = timedelta(minutes=5)
"""Deviation of a clock that GitHub and TLS certificates tolerate."""

_ESSENTIAL = frozenset({"memory", "pids"})
"""Limits without which one job can take the machine down."""

_SWITCHES = {
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "15000"),
}
"""Settings that can forbid user namespaces: the value that forbids them, and one that allows
them. The first is Ubuntu's, the second Debian's, the last the kernel's own."""


_IDS = 65_535
"""Ids that owners of files in a Debian root have, up to `nobody`."""


def namespace_problem(
    rights: Rights, *, switches: Path = Path("/proc/sys"), process: Path = Path("/proc/self")
) -> str | None:
    """Returns why this user cannot make the namespaces of builds, and what to do.

    Args:
        rights: How this worker gets them.
        switches: Directory of the kernel's settings.
        process: Directory of this process's state.

    Returns:
        A line; None if the user can make them, or is root of a namespace with enough ids.
    """
    if (missing := _missing_ids(process)) or not rights.prefix:
        return missing
    probe = [*rights.making_images, "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - a fixed command
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    todo = "add ranges for it to /etc/subuid and /etc/subgid, or run as root"
    for name, (forbids, allows) in _SWITCHES.items():
        path = switches / name.replace(".", "/")
        if path.exists() and path.read_text().strip() == forbids:
            todo = f"run this first: sudo sysctl -w {name}={allows}"
    return f"this user cannot make user namespaces ({last}): {todo}"


def _missing_ids(process: Path) -> str | None:
    """Returns what root of a container lacks whose namespace has few ids: chown fails there."""
    ids = min(
        sum(int(line.split()[2]) for line in (process / name).read_text().splitlines())
        for name in ("uid_map", "gid_map")
    )
    if ids >= _IDS:
        return None
    return (
        f"a root file system has files of up to {_IDS:,} users and groups, and this user namespace"
        f" has {ids}: run this outside of the container, or give it a range of ids"
    )


def check_room(needs: HostNeeds) -> None:
    """Checks that the disk has room for builds.

    Raises:
        InfrastructureError: Cause `disk_full`.
    """
    # Memory that is free now says nothing about later jobs.
    of_disk = needs.model_copy(update={"memory_bytes": 0})
    if (finding := check_host(read_host(needs.home), of_disk)) is not None:
        raise InfrastructureError(
            f"{finding.detail}: make room, or set another home", cause=finding.cause
        )


def check_limits(cgroups: Cgroups, limits: JobLimits) -> None:
    """Checks that jobs can be limited, or warns in the worker's log that they are not.

    Raises:
        InfrastructureError: Cause `sandbox`: they cannot, and the settings require it.
    """
    missing = _ESSENTIAL & frozenset(cgroups.missing)
    if not missing:
        return
    line = (
        f"this machine grants no control group for {' and '.join(sorted(missing))}: one job can "
        "take all of it. Run the worker as root, or as a systemd service with Delegate=yes"
    )
    if limits.required:
        raise InfrastructureError(line, cause=Cause.SANDBOX)
    _log.warning("%s; jobs run without that limit", line)


def check_clock(now: datetime, *, not_before: datetime) -> None:
    """Checks that the machine's clock is not behind: TLS, time limits and records rely on it.

    Args:
        now: The machine's time.
        not_before: Time of a past event, the making of the image.

    Raises:
        InfrastructureError: Cause `unknown`: it is behind.
    """
    if now < not_before - _CLOCK_TOLERANCE:
        raise InfrastructureError(
            f"the clock shows {now:%Y-%m-%d %H:%M} UTC, but the root file system was made at "
            f"{not_before:%Y-%m-%d %H:%M} UTC: set the clock, e.g. with timedatectl set-ntp true",
            cause=Cause.UNKNOWN,
        )


def check_lists(root: Path) -> None:
    """Checks that a root file system has package lists: else opam finds all unavailable.

    Raises:
        InfrastructureError: Cause `image`.
    """
    lists = root / "var/lib/apt/lists"
    if not any(path.stat().st_size > 0 for path in lists.glob("*Packages*")):
        raise InfrastructureError(
            f"{lists} has no package lists: remove {root.parent}, and the image is made anew",
            cause=Cause.IMAGE,
        )


def limits_line(limits: JobLimits, missing: Collection[str] = ()) -> str:
    """Returns the line of a job's log about its limits.

    Args:
        limits: Its limits.
        missing: Controllers that the machine does not grant.
    """
    parts = []
    if limits.memory_bytes is not None and "memory" not in missing:
        parts.append(f"{limits.memory_bytes >> 20} MiB of memory")
    if limits.pids is not None and "pids" not in missing:
        parts.append(f"{limits.pids} processes")
    if limits.cpus is not None and "cpu" not in missing:
        parts.append(f"{limits.cpus:g} CPUs")
    parts.append(f"{limits.disk_bytes >> 20} MiB in {limits.disk_inodes} files on disk")
    without = f"; no limit of {', '.join(missing)} on this machine" if missing else ""
    return f"limits: {', '.join(parts)}{without}"
