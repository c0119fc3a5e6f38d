"""A dependency that is known to fail is not built again: a real Temporal server, real builds."""

import json
from typing import Any
from uuid import uuid4

import pytest

from opam_ci.core.jobs.job import Job
from tests.e2e.conftest import System, result, wait_for
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NEEDS = 'depends: "broken"\nbuild: ["true"]\n'
ENDLESS = 'build: ["sleep" "3600"]\n'
PHASE = "==== opam-ci: phase dependencies begins"


def test_the_third_job_that_needs_it_ends_without_building_it(system: System) -> None:
    system.environment["OPAM_CI_BUILDS"] = "2"
    system.start_worker()
    # What is known outlives the test: each run has a package of its own.
    fails = f'x-run: "{uuid4()}"\nbuild: ["sh" "-c" "echo Error: it is broken; exit 3"]\n'
    branches = {
        name: opam_repository.package(f"{name}.1", NEEDS) for name in ("first", "second", "third")
    }
    branches["third"] |= opam_repository.package("endless.1", ENDLESS)
    base = opam_repository.package("broken.1", fails)
    repo = opam_repository.write(system.home / "known", base, branches)
    words = ("--repo", str(repo), "--branch")
    for name in ("first", "second"):
        done = system.run("check", "--json", *words, name, check=1)
        (row,) = (each for each in result(done)["jobs"] if each["job"]["kind"] == "build")
        assert verdict(row) == ("failed", "dependency", "broken.1")
        assert row["outcome"]["evidence"]["seen_in"] is None
        assert PHASE in log(system, name)

    # The third one, of a check that goes on, so that it can be restarted.
    system.start_check(*words, "third")
    wait_for(lambda: is_decided(third(system), 1), 120)
    found = third(system)
    assert verdict(found["status"]) == ("failed", "dependency", "broken.1")
    seen = found["status"]["outcome"]["evidence"]["seen_in"]
    assert (seen["branch"], seen["job"]["package"]) == ("second", "second.1")
    printed = log(system, "third")
    assert PHASE not in printed
    assert "broken.1 is not built, nor anything that needs it" in printed
    for name in ("first", "second"):
        assert f"opam-ci log local/known:{name} --head" in printed
    assert "Error: it is broken" in printed

    # A restart builds it, and anybody can say so on one's own.
    job = found["status"]["job"]
    system.run("restart", "local/known:third", "--all", "--job", Job(**job).id, check=0)
    wait_for(lambda: is_decided(third(system), 2), 120)
    again = third(system)["status"]
    assert verdict(again) == ("failed", "dependency", "broken.1")
    assert again["outcome"]["evidence"]["seen_in"] is None
    assert PHASE in log(system, "third")


def third(system: System) -> dict[str, Any]:
    """Returns the record of the third job; empty while there is none."""
    done = system.run("jobs", "local/known:third", "--json", check=None)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return next((each for each in found if each["status"]["job"]["package"] == "third.1"), {})


def is_decided(record: dict[str, Any], round_: int) -> bool:
    status = record.get("status", {})
    return status.get("round") == round_ and status["outcome"] is not None


def verdict(row: dict[str, Any]) -> tuple[str, str, str]:
    outcome = row["outcome"]
    return outcome["kind"], outcome["reason"], outcome["blame"]


def log(system: System, name: str) -> str:
    return system.run("log", f"local/known:{name}", f"build {name}.1", check=0).stdout
