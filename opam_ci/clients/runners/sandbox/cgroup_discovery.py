"""The places on this machine where control groups of jobs can be made.

Rules of the kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. In version 2 a
group whose children have controllers holds no processes itself, but for the real root.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "pids", "cpu")
"""The controllers that limit jobs."""

_WITH_FILES = frozenset({*CONTROLLERS, "cpuacct"})
"""Those of version 1 in which jobs have groups: the last only counts, as version 2 does anyway."""

WORKER_GROUP = "opam-ci-worker"
"""The group into which a worker moves itself, beside its jobs' groups (version 2)."""


@dataclass(frozen=True)
class Hierarchy:
    """A place for job groups.

    Attributes:
        version: 1 or 2.
        parent: The group below which they are made.
        controllers: The controllers that they have there.
    """

    version: int
    parent: Path
    controllers: frozenset[str]


@dataclass(frozen=True)
class _Mount:
    version: int
    at: Path
    shows: str
    controllers: frozenset[str]


def find_hierarchies(root: Path) -> tuple[Hierarchy, ...]:
    """Finds a place for each controller: the version-1 hierarchy that has it, or version 2.

    Where version 2 requires it, this process moves itself into a group of its own below the one
    that it was started in, provided that the group has no processes but it and its children.

    Args:
        root: Directory in place of `/`.
    """
    try:
        mounts = _mounts(root)
        own = _own_groups(root)
    except OSError:
        return ()
    found = []
    taken: set[str] = set()
    for mount in mounts:
        if mount.version == 1 and (new := mount.controllers - taken):
            parent = _below(mount, _group(mount, own) or "/")
            if parent is not None:
                found.append(Hierarchy(1, parent, frozenset(new)))
                taken |= new
    for mount in mounts:
        wanted = frozenset(CONTROLLERS) - taken
        if mount.version == 2 and wanted:  # noqa: PLR2004 - the version's number
            place = _place(root, mount, _group(mount, own) or "/", wanted)
            if place is not None:
                found.append(place)
                taken |= place.controllers
    return tuple(found)


def _mounts(root: Path) -> list[_Mount]:
    found = []
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split()[:3]
        at = root / fields[4].lstrip("/")
        if kind == "cgroup":
            names = frozenset(options.split(",")) & _WITH_FILES
            found.append(_Mount(1, at, fields[3], names))
        elif kind == "cgroup2":
            found.append(_Mount(2, at, fields[3], frozenset()))
    return found


def _own_groups(root: Path, *, pid: str = "self") -> list[tuple[frozenset[str], str]]:
    """Reads a process's group in each hierarchy, by names of controllers; version 2 has none."""
    found = []
    for line in (root / f"proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        found.append((frozenset(filter(None, names.split(","))), path))
    return found


def _group(mount: _Mount, own: list[tuple[frozenset[str], str]]) -> str | None:
    """Returns a process's group in the hierarchy of a mount; None if it has none."""
    for names, path in own:
        if names & mount.controllers if mount.version == 1 else not names:
            return path
    return None


def _below(mount: _Mount, group: str) -> Path | None:
    """Returns the directory of a group; None if the mount does not show it."""
    if ".." in group.split("/"):
        return None
    if mount.shows != "/":
        # A container's mount shows a subtree, while groups have their full path.
        if group != mount.shows and not group.startswith(f"{mount.shows}/"):
            return mount.at
        group = group[len(mount.shows) :]
    return mount.at / group.lstrip("/")


def _place(root: Path, mount: _Mount, group: str, wanted: frozenset[str]) -> Hierarchy | None:
    own = _below(mount, group)
    if own is not None and own.name == WORKER_GROUP:
        own = own.parent
    # In its own group, if that is delegated to the worker; else at the top, as container
    # engines do, which needs root.
    for parent in dict.fromkeys(path for path in (own, mount.at) if path is not None):
        with suppress(OSError):
            available = frozenset((parent / "cgroup.controllers").read_text().split()) & wanted
            if available and _enable(root, parent, available):
                return Hierarchy(2, parent, available)
    return None


def _enable(root: Path, parent: Path, controllers: frozenset[str]) -> bool:
    switch = parent / "cgroup.subtree_control"
    missing = controllers - frozenset(switch.read_text().split())
    if not missing:
        return True
    # The real root alone may hold processes besides groups with controllers, and it alone
    # has no such file.
    if (parent / "cgroup.events").exists() and not _step_aside(root, parent):
        return False
    switch.write_text(" ".join(f"+{name}" for name in sorted(missing)))
    return True


def _step_aside(root: Path, parent: Path) -> bool:
    """Moves this process and its children into a group of their own, if no others are there.

    Returns:
        Whether the group `parent` has no processes now.
    """
    inside = {int(word) for word in (parent / "cgroup.procs").read_text().split()}
    if not all(_is_ours(root, pid) for pid in inside):
        return False
    if inside:
        leaf = parent / WORKER_GROUP
        leaf.mkdir(exist_ok=True)
        for pid in sorted(inside):
            with suppress(ProcessLookupError), (leaf / "cgroup.procs").open("w") as file:
                file.write(str(pid))
    return True


def _is_ours(root: Path, pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            status = (root / f"proc/{pid}/stat").read_text()
        except OSError:
            return True  # it has ended
        pid = int(status.rpartition(")")[2].split()[1])
    return False


def groups_of(pid: int) -> tuple[Path, ...]:
    """Returns the directories of a process's groups; none if it is not on this machine."""
    root = Path("/")
    try:
        mounts = _mounts(root)
        own = _own_groups(root, pid=str(pid))
    except OSError:
        return ()
    groups = ((mount, _group(mount, own)) for mount in mounts)
    found = (_below(mount, group) for mount, group in groups if group is not None)
    return tuple(path for path in found if path is not None and path.is_dir())
