"""Drills: what a fleet cannot do without goes away in mid-run, and comes back.

Temporal, the index's PostgreSQL, GitHub. Nobody's build is at fault, and none is lost: there is
no fault and so no incident. One world serves all of them.
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from opam_ci.core.jobs.summary import REPOSITORY_JOBS
from tests.support.fakes.github import InjectedFault
from tests.support.fakes.postgres import Postgres, server
from tests.support.worlds.fleet import GOOD, POOL, FleetWorld, fleet_world
from tests.support.worlds.fleet_checks import check_end

FULL = os.environ.get("OPAM_CI_TEST_FULL_DRILLS") == "1"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("fleet-away"),
    pytest.mark.timeout(1500 if FULL else 400),
]

TEMPORAL_AWAY = 20.0
"""Seconds: longer than a build takes, so that results come while nobody takes them."""
GITHUB_AWAY = 600.0 if FULL else 32.0
SLOW = 'build: ["sleep" "10"]\n'


@pytest.fixture(scope="module")
def index() -> Iterator[Postgres]:
    with server() as made:
        yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, index: Postgres) -> Iterator[FleetWorld]:
    with fleet_world(tmp_path_factory.mktemp("fleet"), index=index) as made:
        made.start_machines("--builds", "2")
        yield made


def begin(world: FleetWorld) -> list[int]:
    """Opens a broken pull request and five good ones; returns when these are being built.

    And nothing else is done: what is handed to Temporal in the moment in which it is killed is
    lost with the attempt, which is then a fault, and right so. That analysis and lint have been
    handed in is in the index; metrics are up to two seconds old, and of different moments.
    """
    first = len(world.heads) + 1
    world.open_broken(first)
    numbers = list(range(first + 1, first + 6))
    heads = {world.open(number, SLOW) for number in numbers}
    running = f'sum(opam_ci_jobs_running{{pool="{POOL}",kind="build"}})'

    def are_built() -> bool:
        jobs = [each.status for each in world.jobs() if each.revision.head in heads]
        before = [each.outcome for each in jobs if each.job.kind in REPOSITORY_JOBS]
        decided = len(before) == 2 * len(heads) and None not in before
        return decided and world.number(running) == len(numbers)

    world.wait(are_built, 60)
    return numbers


def check_no_fault(world: FleetWorld) -> None:
    check_end(world)
    assert not world.faults()
    assert not world.incidents()
    world.counted("sum(opam_ci_infrastructure_faults_total)", 0)
    world.counted("sum(opam_ci_incidents_open)", 0)
    assert all(each.health()["state"] == "healthy" for each in world.machines)


def test_temporal_is_killed_and_started_again(world: FleetWorld) -> None:
    begin(world)
    with world.told_late():
        world.kill_temporal()
        over = time.monotonic() + TEMPORAL_AWAY
        ended = f'sum(opam_ci_attempts_total{{pool="{POOL}"}})'
        before = world.number(ended)
        # Its delivery cannot be made durable; GitHub is asked for it again later.
        world.open(len(world.heads) + 1, GOOD)
        assert world.fake.deliveries[-1]["status_code"] == 503
        world.wait(lambda: world.number(ended) > before and time.monotonic() > over)
        world.start_temporal()
    check_no_fault(world)


def test_postgresql_is_stopped_and_started_again(world: FleetWorld, index: Postgres) -> None:
    begin(world)
    # The jobs of a head that is analysed meanwhile are planned, and so told, with the index back.
    with world.told_late():
        index.stop()
        late = len(world.heads) + 1
        ends = {world.heads[number]: world.end(number) for number in world.heads}
        world.open(late, GOOD)
        assert world.fake.deliveries[-1]["status_code"] == 503
        # Builds go on, and GitHub is told of them.
        world.wait(lambda: all(world.said(head) == words for head, words in ends.items()))
        world.wait(lambda: not world.prometheus.query("opam_ci_pull_requests"))
        failed = 'sum(opam_ci_collections_total{source="index",result="failed"})'
        assert world.number(failed) >= 1
        index.start()
        world.wait_ends()
    check_no_fault(world)


def test_github_refuses_for_a_while(world: FleetWorld) -> None:
    begin(world)
    over = time.monotonic() + GITHUB_AWAY
    with world.told_late():
        world.fake.troubles.append(InjectedFault("", status=503, times=1_000_000))
        since = datetime.now(UTC)
        late = list(range(len(world.heads) + 1, len(world.heads) + 6))
        for number in late:
            world.open(number, SLOW)
        limited = InjectedFault(
            "",
            status=403,
            headers={"retry-after": "5"},
            body=b'{"message": "You have exceeded a secondary rate limit."}',
            times=1_000_000,
        )
        world.wait(lambda: time.monotonic() > over - GITHUB_AWAY / 2, GITHUB_AWAY)
        world.fake.troubles[:] = [limited]
        # No build waits for GitHub: all are decided before anybody can be told.
        # The index hears of it after the pull request's workflow, which tells GitHub.
        world.wait(lambda: world.decided() >= set(world.heads.values()), 120)
        world.wait(lambda: time.monotonic() > over, GITHUB_AWAY)
        assert not [each for each in world.recorder.samples if each.at > since]
        world.fake.troubles.clear()
        world.wait_ends(400 if FULL else 120)
    heads = {world.heads[number] for number in late}
    # Nothing that had been true meanwhile is told late.
    told_late = [each for each in world.recorder.samples if each.head in heads]
    assert {each.state for each in told_late} == {"success"}
    check_no_fault(world)
