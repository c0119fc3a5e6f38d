"""Where control groups can be made, on machines simulated as trees of files; their counters."""

import asyncio
import os
from pathlib import Path
from typing import cast

import pytest

from opam_ci.clients.runners.containers.box import Container
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.sandbox.cgroup_discovery import (
    WORKER_GROUP,
    Hierarchy,
    find_hierarchies,
)
from opam_ci.clients.runners.sandbox.cgroups import (
    Cgroups,
    Counters,
    JobGroups,
    OomKills,
    read_counters,
)
from opam_ci.clients.runners.settings import JobLimits

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


class Machine:
    """A machine's `/proc` and `/sys/fs/cgroup`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)

    def describe(self, mounts: str, groups: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(mounts)
        (self.root / "proc/self/cgroup").write_text(groups)

    def group(
        self,
        path: str,
        *,
        controllers: str = "",
        enabled: str = "",
        pids: str = "",
        root: bool = False,
    ) -> Path:
        directory = self.root / "sys/fs/cgroup" / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.controllers").write_text(controllers)
        (directory / "cgroup.subtree_control").write_text(enabled)
        (directory / "cgroup.procs").write_text(pids)
        if not root:
            (directory / "cgroup.events").write_text("populated 1\n")
        return directory


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_delegated_service_steps_aside_and_enables_controllers(machine: Machine) -> None:
    machine.describe(UNIFIED, "0::/system.slice/opam-ci.service\n")
    machine.group("", controllers="cpu io memory pids", enabled="cpu memory pids", root=True)
    own = machine.group(
        "system.slice/opam-ci.service", controllers="cpu io memory pids", pids=f"{os.getpid()}\n"
    )
    assert find_hierarchies(machine.root) == (
        Hierarchy(2, own, frozenset({"cpu", "memory", "pids"})),
    )
    # The kernel's rule: processes below, controllers here. (A file cannot show that the
    # kernel moves them.)
    assert (own / WORKER_GROUP / "cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_a_worker_that_stepped_aside_finds_the_same_place(machine: Machine) -> None:
    machine.describe(UNIFIED, f"0::/opam-ci.service/{WORKER_GROUP}\n")
    own = machine.group("opam-ci.service", controllers="memory pids", enabled="memory pids")
    machine.group(f"opam-ci.service/{WORKER_GROUP}", controllers="memory pids", pids="1\n")
    (place,) = find_hierarchies(machine.root)
    assert place.parent == own


def test_nobody_elses_processes_are_moved(machine: Machine) -> None:
    machine.describe(UNIFIED, "0::/user.slice/session-1.scope\n")
    top = machine.group("", controllers="memory pids", enabled="memory pids", root=True)
    own = machine.group(
        "user.slice/session-1.scope", controllers="memory pids", pids=f"4242\n{os.getpid()}\n"
    )
    (machine.root / "proc/4242").mkdir()
    (machine.root / "proc/4242/stat").write_text("4242 (a) shell) S 1 4242 4242 0")
    (place,) = find_hierarchies(machine.root)
    assert place.parent == top
    assert not (own / WORKER_GROUP).exists()
    assert not (own / "cgroup.subtree_control").read_text()


def test_in_a_container_the_group_at_the_top_is_not_the_root(machine: Machine) -> None:
    machine.describe(UNIFIED, "0::/\n")
    machine.group("", controllers="memory", pids="4242\n")
    (machine.root / "proc/4242").mkdir()
    (machine.root / "proc/4242/stat").write_text("4242 (init) S 0 1 1 0")
    assert find_hierarchies(machine.root) == ()


def test_version_1_is_used_below_the_own_group_of_each_hierarchy(machine: Machine) -> None:
    machine.describe(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "35 31 0:32 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
        "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        "4:memory:/a/b\n3:cpu,cpuacct:/\n2:pids:/p\n0::/\n",
    )
    places = find_hierarchies(machine.root)
    assert {str(each.parent.relative_to(machine.root)): each.controllers for each in places} == {
        "sys/fs/cgroup/cpu,cpuacct": frozenset({"cpu", "cpuacct"}),
        "sys/fs/cgroup/memory/a/b": frozenset({"memory"}),
        "sys/fs/cgroup/pids/p": frozenset({"pids"}),
    }
    assert {each.version for each in places} == {1}


def test_a_mount_that_shows_a_part_of_the_tree_is_understood(machine: Machine) -> None:
    machine.describe(
        "34 31 0:31 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        "4:memory:/docker/x/own\n",
    )
    (place,) = find_hierarchies(machine.root)
    assert place.parent == machine.root / "sys/fs/cgroup/memory/own"


def test_a_machine_without_control_groups_grants_none(machine: Machine) -> None:
    machine.describe("", "")
    cgroups = Cgroups.here(JobLimits(memory_bytes=1 << 30, cpus=1), root=machine.root)
    assert cgroups.missing == ("memory", "pids", "cpu")
    assert JobGroups().entered(["true"]) == ["true"]


def test_a_place_where_limits_cannot_be_set_is_none(machine: Machine) -> None:
    machine.describe(UNIFIED, "0::/\n")
    # Directories of an ordinary file system have no files of limits.
    machine.group("", controllers="memory pids", enabled="memory pids", root=True)
    cgroups = Cgroups.here(JobLimits(memory_bytes=1 << 30), root=machine.root)
    assert cgroups.missing == ("memory", "pids")
    assert [path.name for path in (machine.root / "sys/fs/cgroup").iterdir() if path.is_dir()] == []


def test_counters_of_both_versions_are_read(tmp_path: Path) -> None:
    one, two = tmp_path / "v1", tmp_path / "v2"
    one.mkdir()
    two.mkdir()
    (one / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (one / "pids.events").write_text("max 3\n")
    (two / "memory.events").write_text("low 0\noom 1\noom_kill 4\noom_group_kill 0\n")
    assert read_counters([one]) == Counters(oom_kills=2, pids_limit_hits=3)
    assert read_counters([two]) == Counters(oom_kills=4, memory_limit_reached=True)
    (one / "cpuacct.usage").write_text("1500000000\n")
    (one / "cpu.stat").write_text("nr_periods 0\nnr_throttled 0\nthrottled_time 0\n")
    (two / "cpu.stat").write_text("usage_usec 2250000\nuser_usec 1\nsystem_usec 1\n")
    assert [read_counters([each]).cpu_seconds for each in (one, two)] == [1.5, 2.25]
    # A process is in a group of each hierarchy, and in a hybrid machine in both versions.
    assert read_counters([one, two]).cpu_seconds == 2.25
    assert read_counters([tmp_path / "gone"]) == Counters()
    (one / "memory.limit_in_bytes").write_text("1000000\n")
    for usage, reached in ((500_000, False), (999_000, True)):
        (one / "memory.max_usage_in_bytes").write_text(f"{usage}\n")
        assert read_counters([one]).memory_limit_reached is reached


_VERSION_1 = b"""\
/sys/fs/cgroup/memory/memory.oom_control:under_oom 0
/sys/fs/cgroup/memory/memory.oom_control:oom_kill 2
/sys/fs/cgroup/memory/memory.max_usage_in_bytes:999000
/sys/fs/cgroup/memory/memory.limit_in_bytes:1000000
/sys/fs/cgroup/pids/pids.events:max 3
"""
_VERSION_2 = b"""\
/sys/fs/cgroup/memory.events:oom 1
/sys/fs/cgroup/memory.events:oom_kill 2
/sys/fs/cgroup/pids.events:max 3
"""


@pytest.mark.parametrize("printed", [_VERSION_1, _VERSION_2], ids=["v1", "v2"])
async def test_a_container_on_another_machine_reads_its_own_counters(
    printed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(*arguments: str) -> tuple[int, bytes, str]:
        # Files of the other version are missing.
        assert {line.partition(b":")[0].decode() for line in printed.splitlines()} < {*arguments}
        return 2, printed, ""

    engine = Engine("docker")
    monkeypatch.setattr(engine, "try_call", call)
    process = cast("asyncio.subprocess.Process", None)
    assert await Container(engine, "x", process).counters() == Counters(
        oom_kills=2, memory_limit_reached=True, pids_limit_hits=3
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill {}\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
    ],
)
def test_kills_for_memory_are_those_in_the_workers_own_group(
    tmp_path: Path, name: str, text: str
) -> None:
    pids = tmp_path / "pids"
    memory = tmp_path / "memory"
    for path in (pids, memory):
        path.mkdir()
    (memory / name).write_text(text.format(3))
    kills = OomKills.from_now_on((pids, memory))
    assert kills.groups == (memory,)
    assert kills.number == 0
    (memory / name).write_text(text.format(5))
    assert kills.number == 2


def test_kills_for_memory_are_those_of_the_host_where_no_group_counts(tmp_path: Path) -> None:
    kills = OomKills.from_now_on((tmp_path,))
    assert kills.groups == ()
    # Since the machine started, which is when its counter was 0.
    assert OomKills((), 0).number >= kills.before


def test_memory_is_shared_out_among_the_slots() -> None:
    whole = JobLimits().on_this_machine(1).memory_bytes
    assert whole is not None
    assert JobLimits().on_this_machine(1000).memory_bytes == 2 << 30
    assert JobLimits(memory_bytes=1 << 30).on_this_machine(4).memory_bytes == 1 << 30
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert whole <= max(physical, 2 << 30)
