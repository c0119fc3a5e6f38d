"""A worker that is killed in mid-build loses nothing but its own attempts."""

import json
import subprocess
import time

import pytest

from tests.e2e.conftest import System, result, rows, wait_for
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]  # workers, one after the other

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
    assert fault["alone"], "nothing else ran any more"
    for name in ("analysis", "lint quick.1", "lint slow.1", "build quick.1"):
        assert found[name]["attempt"] == 1, name
        assert not found[name]["faults"], name
    # The lost attempt's log is kept as far as it got.
    lost = system.run(*log, "--attempt", "1", check=0)
    assert "- working" in lost.stdout.splitlines()


def test_a_job_that_takes_workers_down_is_blamed_once_it_did_so_alone(system: System) -> None:
    """Two jobs are lost with the first worker; the one that is alone on the second is blamed."""

    def package(name: str, seconds: int) -> dict[str, str]:
        build = f'build: ["sh" "-c" "echo {name} works; sleep {seconds}"]\n'
        return opam_repository.package(f"{name}.1", build)

    repo = opam_repository.write(
        system.home / "kills", {}, {"topic": {**package("killer", 60), **package("innocent", 15)}}
    )
    victim = system.start_worker("--builds", "2")
    check = system.start_check(
        *("--repo", str(repo), "--branch", "topic", "--retry-after", "1"),
        *("--heartbeat-timeout", "5"),
    )
    wait_until_builds(check, "killer.1", "innocent.1", attempt=1)
    victim.kill()
    victim.wait()
    victim = system.start_worker("--builds", "1")
    wait_until_builds(check, "killer.1", attempt=2)
    victim.kill()
    victim.wait()
    system.start_worker("--builds", "1")
    summary = result(check)
    assert check.returncode == 1
    found = rows(summary)
    killer, innocent = found["build killer.1"], found["build innocent.1"]
    assert killer["outcome"]["reason"] == "kills_worker"
    assert [fault["alone"] for fault in killer["faults"]] == [False, True]
    assert innocent["outcome"]["kind"] == "passed"
    assert [fault["alone"] for fault in innocent["faults"]] == [False]


def wait_until_builds(check: subprocess.Popen[str], *packages: str, attempt: int) -> None:
    """Reads what `check --json` says until heartbeats have told that all are being built."""
    assert check.stdout is not None
    missing = set(packages)
    while missing:
        said = json.loads(check.stdout.readline())
        if (said.get("phase"), said.get("attempt")) == ("build", attempt):
            missing -= {said["id"].split()[-1]}


def build_processes() -> list[str]:
    listing = subprocess.run(
        ["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    return [line for line in listing.splitlines() if "echo working; sleep 40" in line]
