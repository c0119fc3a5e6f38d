"""Drill: the disk of one of three build workers fills up in mid-build, under five pull requests."""

import re
from pathlib import Path

import pytest

from opam_ci.core.incidents.model import Scope
from opam_ci.core.jobs.outcome import Cause
from tests.e2e.conftest import wait_for
from tests.support.worlds.fleet import fleet_world
from tests.support.worlds.fleet_checks import causes, check_end
from tests.support.worlds.machines import health, metrics, resize, small_disk

pytestmark = pytest.mark.e2e

INTERVAL = 15
"""Seconds between two scrapes, as in most installations."""

PULL_REQUESTS = range(2, 7)
# Writes for some seconds, so that the disk can fill up under it.
WRITES = """build: [
  "sh" "-c" "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    head -c 10000000 /dev/zero >> big || exit 1; sleep 0.3; done"
]
"""


@pytest.mark.timeout(400)
def test_five_pull_requests_come_out_green_without_a_hand(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, fleet_world(tmp_path, scraped=INTERVAL) as world:
        full, *others = world.machines
        world.start_machines(
            "--builds", "1", special={0: {"OPAM_CI_CANARY": "true", "OPAM_CI_CACHE": str(disk)}}
        )
        world.open_broken(1)
        wait_for(lambda: full.health()["state"] == "healthy", 60)
        for number in PULL_REQUESTS:
            world.open(number, WRITES)
        wait_for(lambda: list(disk.glob("jobs/job-*/upper/**/big")), 150)
        resize(disk, spare=1_000_000)
        wait_for(world.prometheus.alerts, 2 * INTERVAL)
        found = {each["labels"]["alertname"]: each for each in world.prometheus.alerts()}
        summary = found["OpamCiWorkerDiskFull"]["annotations"]["summary"]
        named = rf"pool linux-amd64: worker {full.name}\S+ takes no jobs \(disk_full\)"
        assert re.fullmatch(named, summary)
        code, said = health(full.port)
        assert (code, said["state"], said["cause"]) == (503, "quarantined", "disk_full")
        assert re.fullmatch(r".*/disk has \d+ MiB free and needs 4096", said["detail"])
        check_end(world)
        faults = world.faults()
        # The job that was under way, and at most the one that was just fetched.
        assert 1 <= len(faults) <= 2
        assert causes(faults) == {Cause.DISK_FULL}
        assert all((each.worker or "").startswith(full.name) for each in faults)
        counted = r'opam_ci_infrastructure_faults_total\{cause="disk_full",pool="linux-amd64"\} '
        assert re.search(rf"{counted}{len(faults)}\.0", metrics(full.port))
        (incident,) = world.incidents()
        assert (incident.cause, incident.place.scope) == (Cause.DISK_FULL, Scope.WORKER)
        assert (incident.place.worker or "").startswith(full.name)
        assert incident.faults == len(faults)
        resize(disk, spare=None)
        # By itself: the host check, then preflight and canary, then a job at a time.
        wait_for(lambda: health(full.port)[0] == 200, 60)
        trouble = r'opam_ci_worker_trouble\{cause="disk_full",pool="linux-amd64"\} 0'
        assert re.search(trouble, metrics(full.port))
        assert all(each.health()["strikes"] == 0 for each in others)
        world.wait(lambda: not any(each.is_open for each in world.incidents()), 60)
        world.counted("sum(opam_ci_incidents_open)", 0)
