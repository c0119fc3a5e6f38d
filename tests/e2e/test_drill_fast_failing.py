"""Drill: the sandbox of one of three build workers breaks, and it fails everything at once."""

import os
from pathlib import Path

import pytest

from opam_ci.core.incidents.model import Scope
from opam_ci.core.jobs.outcome import Cause
from tests.support.worlds.fleet import GOOD, POOL, fleet_world
from tests.support.worlds.fleet_checks import causes, check_end

pytestmark = pytest.mark.e2e

PULL_REQUESTS = range(2, 7)
PACKAGES = 4
"""In each: many more jobs than the worker may take."""


@pytest.mark.timeout(400)
def test_a_fast_failing_worker_takes_a_handful_and_others_do_the_rest(tmp_path: Path) -> None:
    with fleet_world(tmp_path) as world:
        bad, *others = world.machines
        programs = tmp_path / "programs"
        programs.mkdir()
        # Its own bubblewrap comes before the machine's, once it is there.
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        world.start_machines("--builds", "2", special={0: {"OPAM_CI_CANARY": "true", **path}})
        world.open_broken(1)
        world.wait_healthy()
        before = len(world.attempts())
        (programs / "bwrap").write_text("#!/bin/sh\necho no namespaces >&2\nexit 1\n")
        (programs / "bwrap").chmod(0o755)
        for number in PULL_REQUESTS:
            world.open(number, *[GOOD] * PACKAGES)
        world.wait(lambda: bad.health()["state"] == "quarantined", 60)
        assert bad.health()["cause"] == Cause.SANDBOX
        world.counted(f'sum(opam_ci_worker_trouble{{cause="sandbox",pool="{POOL}"}})', 1)
        world.wait_ends()
        (programs / "bwrap").unlink()
        check_end(world)
        faults = world.faults()
        # It had the chance to take far more: it answers a job within a tenth of a second.
        assert 1 <= len(faults) <= 5
        assert {each.worker.startswith(bad.name) for each in faults if each.worker} == {True}
        assert causes(faults) == {Cause.SANDBOX}
        taken = [each for each in world.attempts()[before:] if each.pool == POOL]
        jobs = len(PULL_REQUESTS) * PACKAGES
        assert len(taken) == jobs + len(faults)
        (incident,) = world.incidents()
        assert (incident.cause, incident.place.scope) == (Cause.SANDBOX, Scope.WORKER)
        assert (incident.place.worker or "").startswith(bad.name)
        assert incident.faults == len(faults)
        # By itself: the probe's canary builds again, and then a job at a time.
        world.wait_healthy()
        world.wait(lambda: not any(each.is_open for each in world.incidents()), 60)
        world.counted("sum(opam_ci_incidents_open)", 0)
        assert all(each.health()["strikes"] == 0 for each in others)
