"""Jobs for which opam chooses the same packages as before: a real Temporal server, real builds."""

import json
from typing import Any

import pytest

from opam_ci.core.jobs.job import Job
from tests.e2e.conftest import System, wait_for
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PHASE = "==== opam-ci: phase dependencies begins"
SAME = "The packages and their sources are the same as for topic on "
ENDLESS = opam_repository.package("endless.1", 'build: ["sleep" "3600"]\n')
BUILD, TEST = "build lib.1", "test lib.1"


def dep(version: int, body: str = "") -> dict[str, str]:
    return opam_repository.package(f"dep.{version}", f'{body}build: ["true"]\n')


def lib(below: int) -> dict[str, str]:
    body = f'depends: "dep" {{< "{below}"}}\nbuild: ["true"]\nrun-test: ["true"]\n'
    return opam_repository.package("lib.1", body)


class Checks:
    """A repository, and checks of its branch that go on, so that their jobs can be restarted."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.repo = opam_repository.write(system.home / "same", dep(1), {})

    def push(self, topic: dict[str, str], base: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Moves the base, then the branch onto it; returns the records of the jobs on `lib.1`."""
        opam_repository.add_branch(self.repo, "master", base)
        opam_repository.add_branch(self.repo, "topic", topic | ENDLESS)
        head = opam_repository.git(self.repo, "rev-parse", "topic")
        self._system.start_check("--repo", str(self.repo), "--branch", "topic")
        return self.decided(head, {BUILD: 1, TEST: 1})

    def decided(self, head: str, rounds: dict[str, int]) -> dict[str, dict[str, Any]]:
        """Waits for the verdicts of rounds; returns the records of the jobs."""

        def all_are() -> bool:
            rows = {name: each["status"] for name, each in self._records(head).items()}
            found = {name: row["round"] for name, row in rows.items() if row["outcome"] is not None}
            return found == rounds

        wait_for(all_are, 180)
        return self._records(head)

    def restart(self, record: dict[str, Any]) -> None:
        job = Job(**record["status"]["job"]).id
        self._system.run("restart", "local/same:topic", "--all", "--job", job, check=0)

    def log(self, name: str, *words: str) -> str:
        return self._system.run("log", "local/same:topic", name, *words, check=0).stdout

    def _records(self, head: str) -> dict[str, dict[str, Any]]:
        done = self._system.run("jobs", "local/same:topic", "--json", check=None)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {
            f"{each['status']['job']['kind']} lib.1": each
            for each in found
            if each["status"]["job"]["package"] == "lib.1"
            and each["status"]["job"]["kind"] != "lint"
            and each["revision"]["head"] == head
        }


def ran_for(record: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the attempt whose verdict a job has, None if it has one of its own."""
    status = record["status"]
    assert (status["outcome"]["kind"], status["attempt"]) == ("passed", 1)
    reused: dict[str, Any] | None = status["outcome"]["evidence"]["reused"]
    return reused


def test_a_job_with_the_same_solution_ends_before_it_builds(system: System) -> None:
    system.environment["OPAM_CI_BUILDS"] = "3"
    system.start_worker()
    checks = Checks(system)
    first = checks.push(lib(below=2), {})
    assert [ran_for(each) for each in first.values()] == [None, None]
    assert PHASE in checks.log(BUILD)

    # What is within reach has changed, and opam chooses the same.
    second = checks.push(lib(below=2), dep(2))
    for name, record in second.items():
        ran = ran_for(record)
        assert ran is not None
        assert ran["head"] == first[name]["revision"]["head"]
        assert ran["job"] == first[name]["status"]["job"]
        printed = checks.log(name)
        assert PHASE not in printed
        assert SAME in printed
        command = next(line for line in printed.splitlines() if "Its log: " in line)
        assert f"--head {ran['head'][:12]}" in command

    # It is known now to what these inputs lead, without a solver.
    other = opam_repository.package("other.1", 'build: ["true"]\n')
    third = checks.push(lib(below=2), other)
    for name, record in third.items():
        assert record["status"]["attempt"] == 0
        reused = record["status"]["outcome"]["evidence"]["reused"]
        assert reused["head"] == first[name]["revision"]["head"]

    # A restart builds it.
    checks.restart(third[BUILD])
    again = checks.decided(third[BUILD]["revision"]["head"], {BUILD: 2, TEST: 1})
    assert ran_for(again[BUILD]) is None
    assert PHASE in checks.log(BUILD)

    # So does a push that changes what opam chooses, or what that is made of.
    for topic, base in (
        (lib(below=3), dep(2)),
        (lib(below=3), dep(2, "x-changed: true\n")),
    ):
        changed = checks.push(topic, base)
        assert [ran_for(each) for each in changed.values()] == [None, None]
