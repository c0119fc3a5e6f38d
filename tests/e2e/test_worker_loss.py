"""A worker that is killed in mid-build loses nothing but its own attempts."""

import json
import subprocess
import time

import pytest

from tests.e2e.conftest import System, result, rows, wait_for
from tests.fakes import opam_repository

pytestmark = pytest.mark.e2e

QUICK = 'build: ["sh" "-c" "echo done"]\n'


def test_killed_worker_is_recorded_and_its_job_retried(system: System) -> None:
    """SIGKILL in mid-build: retried, recorded as worker_lost, the rest untouched."""
    slow = 'build: ["sh" "-c" "echo working; sleep 40"]\n'
    repo = opam_repository.write(
        system.home / "lost",
        {},
        {
            "topic": {
                **opam_repository.package("slow.1", slow),
                **opam_repository.package("quick.1", QUICK),
            }
        },
    )
    victim = system.start_worker("--builds", "2")
    check = system.start_check(
        *("--repo", str(repo), "--branch", "topic", "--retry-after", "1"),
        *("--heartbeat-timeout", "5"),
    )
    assert check.stdout is not None
    quick_passed = slow_builds = False
    while not (quick_passed and slow_builds):
        said = json.loads(check.stdout.readline())
        if said.get("id", "").endswith("quick.1") and said["id"].startswith("build"):
            quick_passed |= said["outcome"] is not None
        if said.get("id", "").endswith("slow.1") and said["id"].startswith("build"):
            slow_builds |= said["phase"] == "build"
    # Logs reach the store every two seconds.
    log = ("log", "local/lost/branch-topic", "build slow.1")
    wait_for(lambda: "- working" in system.run(*log).stdout.splitlines(), 30)
    killed_at = time.monotonic()
    victim.kill()
    victim.wait()
    wait_for(lambda: not build_processes(), 5)
    system.start_worker("--builds", "2")
    summary = result(check)
    assert check.returncode == 0
    assert time.monotonic() - killed_at < 120
    found = rows(summary)
    slow_row = found["build slow.1"]
    assert slow_row["outcome"]["kind"] == "passed"
    assert slow_row["attempt"] == 2
    (fault,) = slow_row["faults"]
    assert fault["cause"] == "worker_lost"
    assert fault["worker"].startswith(f"{victim.pid}@")
    assert fault["evidence"]["phase"] == "build"
    for name in ("analysis", "lint quick.1", "lint slow.1", "build quick.1"):
        assert found[name]["attempt"] == 1, name
        assert not found[name]["faults"], name
    # The lost attempt's log is kept as far as it got.
    lost = system.run(*log, "--attempt", "1", check=0)
    assert "- working" in lost.stdout.splitlines()


def build_processes() -> list[str]:
    listing = subprocess.run(
        ["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in listing.splitlines() if "echo working; sleep 40" in line]
