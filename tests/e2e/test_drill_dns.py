"""Drill: DNS resolution fails, for all three build workers and under five pull requests."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from opam_ci.core.incidents.model import Scope
from opam_ci.core.jobs.outcome import Cause
from tests.support.fakes.dns import name_server
from tests.support.fakes.postgres import server
from tests.support.samples.drills import Faulty, source
from tests.support.worlds.fleet import GOOD, POOL, Machine, fleet_world
from tests.support.worlds.fleet_checks import causes, check_end

pytestmark = pytest.mark.e2e

PULL_REQUESTS = range(2, 7)
HOST = "sources.opam-ci.test"
_SEE = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


@pytest.mark.timeout(400)
def test_all_pull_requests_are_parked_and_restarted_without_a_hand(tmp_path: Path) -> None:
    with (
        Faulty().running() as sources,
        name_server() as names,
        server() as index,
        fleet_world(tmp_path, index=index, maximum=2) as world,
    ):
        config = names.configuration(tmp_path / "resolv.conf")

        def sees_our_names(_machine: Machine) -> Sequence[str]:
            private = ("unshare", "--mount", "--propagation", "private", "--")
            return (*private, "sh", "-c", _SEE, "sh", str(config))

        world.start_machines("--builds", "1", before=sees_our_names)
        by_name = sources.url.replace("127.0.0.1", HOST)
        package = GOOD + source(f"{by_name}/ok/x.tgz")
        world.open_broken(1)
        names.stop()
        for number in PULL_REQUESTS:
            world.open(number, package)
        heads = {world.heads[number] for number in PULL_REQUESTS}
        # All attempts are used up: each of them is told that the CI is at fault.
        world.wait(lambda: heads <= {each.head for each in world.recorder.samples
                                     if each.state == "error"}, 120)  # fmt: skip
        parked = [each for each in world.recorder.samples if each.state == "error"]
        assert {each.head for each in parked} == heads
        assert all("DNS resolution failed (1 errored" in each.text for each in parked)
        assert [each.is_open for each in world.incidents()] == [True]
        names.start()
        check_end(world)
        world.counted('max(max_over_time(opam_ci_incidents_open{cause="dns"}[10m]))', 1)
        faults = world.faults()
        assert causes(faults) == {Cause.DNS}
        assert len(faults) >= len(heads) * world.maximum
        assert {each.revision.head for each in faults} == heads
        assert len({each.worker for each in faults}) > 1
        (incident,) = world.incidents()
        place = incident.place
        assert (incident.cause, place.scope, place.pool) == (Cause.DNS, Scope.POOL, POOL)
        found = (incident.faults, incident.jobs, incident.pull_requests)
        assert found == (len(faults), len(heads), len(heads))
        world.wait(lambda: not any(each.is_open for each in world.incidents()), 60)
        world.counted("sum(opam_ci_incidents_open)", 0)
        world.wait_healthy()
