"""Drill: the disk of one of three build workers fills up in mid-build, under five pull requests."""

import re
from pathlib import Path

import pytest

from opam_ci.clients.runners.settings import default_home as default_cache
from tests.e2e.conftest import System, free_port, result, wait_for
from tests.e2e.machines import health, metrics, resize, small_disk, start_worker
from tests.fakes import opam_repository
from tests.fakes.prometheus import prometheus, require

pytestmark = pytest.mark.e2e

PULL_REQUESTS = 5
# Writes for some seconds, so that the disk can fill up under it.
WRITES = """build: [
  "sh" "-c" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    head -c 10000000 /dev/zero >> big || exit 1; sleep 0.3; done"
]
"""


INTERVAL = 15
"""Seconds between two scrapes, as in most installations."""


@pytest.mark.timeout(400)
def test_five_pull_requests_come_out_green_without_a_hand(system: System, tmp_path: Path) -> None:
    require()
    with small_disk(tmp_path / "disk") as disk:
        ports = [free_port() for _ in range(3)]
        words = ("--no-orchestrate", "--builds", "1")
        off = {"OPAM_CI_CANARY": "false", "OPAM_CI_CACHE": str(default_cache())}
        broken = start_worker(
            system, ports[0], *words, OPAM_CI_CANARY="true", OPAM_CI_CACHE=str(disk)
        )
        start_worker(system, ports[1], *words, **off)
        start_worker(system, ports[2], "--builds", "1", **off)
        wait_for(lambda: health(ports[0])[1]["state"] == "healthy", 60)
        branches = {
            f"topic-{n}": opam_repository.package(f"p{n}.1", WRITES) for n in range(PULL_REQUESTS)
        }
        repo = opam_repository.write(system.home / "drill", {}, branches)
        targets = [f"127.0.0.1:{port}" for port in ports]
        with prometheus(
            tmp_path / "prometheus", free_port(), targets, interval=f"{INTERVAL}s"
        ) as server:
            checks = [
                system.start_check("--repo", str(repo), "--branch", branch, "--retry-after", "1")
                for branch in branches
            ]
            wait_for(lambda: list(disk.glob("jobs/job-*/upper/**/big")), 150)
            resize(disk, spare=1_000_000)
            wait_for(server.alerts, 2 * INTERVAL)
            found = {each["labels"]["alertname"]: each for each in server.alerts()}
            summary = found["OpamCiWorkerDiskFull"]["annotations"]["summary"]
            named = rf"pool linux-amd64: worker {broken}@\S+ takes no jobs \(disk_full\)"
            assert re.fullmatch(named, summary)
            code, said = health(ports[0])
            assert (code, said["state"], said["cause"]) == (503, "quarantined", "disk_full")
            assert re.fullmatch(r".*/disk has \d+ MiB free and needs 4096", said["detail"])
            summaries = [result(check) for check in checks]
        assert [summary["state"] for summary in summaries] == ["success"] * PULL_REQUESTS
        faults = [
            fault for summary in summaries for row in summary["jobs"] for fault in row["faults"]
        ]
        # The job that was under way, and at most the one that was just fetched.
        assert 1 <= len(faults) <= 2
        assert {fault["cause"] for fault in faults} == {"disk_full"}
        assert all(fault["worker"].startswith(f"{broken}@") for fault in faults)
        counted = r'opam_ci_infrastructure_faults_total\{cause="disk_full",pool="linux-amd64"\} '
        assert re.search(rf"{counted}{len(faults)}\.0", metrics(ports[0]))
        for port in ports:
            blamed = r"^opam_ci_package_failures_total\{.*\} [1-9]"
            assert not re.search(blamed, metrics(port), re.MULTILINE)
        resize(disk, spare=None)
        # By itself: the host check, then preflight and canary, then a job at a time.
        wait_for(lambda: health(ports[0])[0] == 200, 60)
        trouble = r'opam_ci_worker_trouble\{cause="disk_full",pool="linux-amd64"\} 0'
        assert re.search(trouble, metrics(ports[0]))
