"""What a machine must have before it takes work."""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.app.runners import make_runner
from opam_ci.app.settings import Settings
from opam_ci.clients.host import HostNeeds, check_host, read_host
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.preflight import (
    check_clock,
    check_limits,
    check_lists,
    check_room,
    limits_line,
)
from opam_ci.clients.runners.sandbox import seccomp
from opam_ci.clients.runners.sandbox.cgroups import Cgroups
from opam_ci.clients.runners.settings import JobLimits
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import Runner

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_a_clock_before_the_image_was_made_is_wrong() -> None:
    check_clock(NOW, not_before=NOW + timedelta(minutes=1))
    with pytest.raises(InfrastructureError, match="timedatectl"):
        check_clock(NOW, not_before=NOW + timedelta(hours=1))


def test_an_image_needs_package_lists(tmp_path: Path) -> None:
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    (lists / "archive_dists_trixie_main_binary-amd64_Packages").touch()
    with pytest.raises(InfrastructureError) as caught:
        check_lists(tmp_path)
    assert caught.value.cause is Cause.IMAGE
    (lists / "archive_dists_trixie_main_binary-amd64_Packages").write_text("Package: a\n")
    check_lists(tmp_path)


def test_too_little_room_is_a_full_disk(tmp_path: Path) -> None:
    check_room(HostNeeds(home=tmp_path, free_bytes=0, free_inodes=0))
    for wanted in ((1 << 60, 0), (0, 1 << 60)):
        with pytest.raises(InfrastructureError) as caught:
            check_room(HostNeeds(home=tmp_path, free_bytes=wanted[0], free_inodes=wanted[1]))
        assert caught.value.cause is Cause.DISK_FULL


def test_too_little_memory_is_found_in_what_the_kernel_can_give(tmp_path: Path) -> None:
    reading = read_host(tmp_path)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < reading.memory_bytes <= total
    needs = HostNeeds(home=tmp_path, free_bytes=0, free_inodes=0, memory_bytes=2 * total)
    found = check_host(reading, needs)
    assert found is not None
    assert found.cause is Cause.OUT_OF_MEMORY


def test_the_state_directory_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("OPAM_CI_HOME", raising=False)
    assert Settings().home == tmp_path / "opam-ci"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert Settings().home == Path.home() / ".local/state/opam-ci"
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path / "elsewhere"))
    assert Settings().home == tmp_path / "elsewhere"


def test_a_machine_without_limits_is_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    limits = JobLimits(memory_bytes=1 << 30)
    none = Cgroups((), limits)
    with caplog.at_level(logging.WARNING):
        check_limits(none, limits)
    assert "Delegate=yes" in caplog.text
    required = limits.model_copy(update={"required": True})
    with pytest.raises(InfrastructureError, match="no control group for memory and pids"):
        check_limits(none, required)


def test_the_log_of_a_job_names_its_limits() -> None:
    limits = JobLimits(memory_bytes=1 << 30, pids=100, disk_bytes=1 << 30, disk_inodes=1000)
    assert limits_line(limits) == (
        "limits: 1024 MiB of memory, 100 processes, 1024 MiB in 1000 files on disk"
    )
    assert limits_line(limits, ("memory",)) == (
        "limits: 100 processes, 1024 MiB in 1000 files on disk; no limit of memory on this machine"
    )


async def test_the_engine_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAM_CI_CONTAINER_COMMAND", "no-such-engine")
    monkeypatch.setenv("OPAM_CI_CACHE", str(tmp_path))

    runner = make_runner(Runner.CONTAINER, Settings(), ArtifactStore.open(tmp_path.as_uri()))
    with pytest.raises(InfrastructureError, match="no no-such-engine"):
        await runner.preflight()
    # A worker does not start: its operator must install it.
    with pytest.raises(UsageError, match="no no-such-engine"):
        await runner.require()


def test_the_engines_differ_in_a_few_options() -> None:
    podman = Engine("podman", "runc")
    docker = Engine("docker", "runsc")
    assert podman.command("ps")[-4:] == ["podman", "--runtime", "runc", "ps"]
    assert docker.command("ps")[-2:] == ["docker", "ps"]
    assert podman.removal("x") == ("rm", "--force", "--time", "0", "x")
    assert docker.removal("x") == ("rm", "--force", "x")
    assert "--http-proxy=false" in podman.run_options
    assert docker.run_options[:2] == ("--runtime", "runsc")
    for engine in (podman, docker):
        assert f"seccomp={seccomp.PROFILE}" in engine.run_options
