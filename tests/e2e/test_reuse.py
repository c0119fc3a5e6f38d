"""Jobs with the same inputs as ones that ran: a real Temporal server, real builds, a real index."""

import hashlib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from opam_ci.clients.index import Index
from opam_ci.core.jobs.job import Job
from opam_ci.core.reuse.settled import Audits
from tests.e2e.conftest import System, result
from tests.support.fakes import opam_repository
from tests.support.worlds.rootfs import archive

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ECHO = 'build: ["sh" "-c" "echo built"]\n'
TESTED = f'{ECHO}run-test: ["sh" "-c" "echo tested"]\n'
FAILS = 'build: ["sh" "-c" "echo it is broken; exit 3"]\n'
SOURCE = archive({"file": "x"})
DIGEST = hashlib.sha256(SOURCE).hexdigest()
BASE = {
    **opam_repository.package("dep.1", ECHO),
    **opam_repository.package("user.1", f'depends: "lib"\n{ECHO}'),
    **opam_repository.package("broken.1", f'depends: "lib"\n{FAILS}'),
    # Only a mirror can have its sources.
    **opam_repository.package(
        "far.1", f'{ECHO}url {{ src: "http://[::1]:9/x.tgz" checksum: "sha256={DIGEST}" }}\n'
    ),
}
TOPIC = {
    **opam_repository.package("lib.1", f'depends: "dep"\n{TESTED}'),
    **opam_repository.package("alone.1", TESTED),
    **opam_repository.package("other.1", ECHO),
}
NEEDS_FAR = opam_repository.package("near.1", f'depends: "far"\n{ECHO}')
CHANGED = opam_repository.package("other.1", f"x-changed: true\n{ECHO}")


class Checks:
    """A repository, and checks of its branch, each compared with the index."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.repo = opam_repository.write(
            system.home / "reuse", BASE, {"topic": TOPIC, "far": NEEDS_FAR}
        )

    def check(
        self, *words: str, exits: int, branch: str = "topic"
    ) -> tuple[set[str], set[str], dict[str, Any]]:
        """Checks a branch.

        Returns:
            The jobs that ran, those that did not, and the rows of all.
        """
        where = ("--repo", str(self.repo), "--branch", branch, "--revdeps", "--lower-bounds")
        done = self._system.run("check", "--json", *where, *words, check=exits)
        jobs = {
            Job.model_validate(row["job"]).id: row
            for row in result(done)["jobs"]
            if row["job"]["kind"] not in {"analysis", "lint"}
        }
        reused = {
            name for name, row in jobs.items() if row["outcome"].get("evidence", {}).get("reused")
        }
        return jobs.keys() - reused, reused, jobs

    def audits(self) -> Audits:
        """Returns how many verdicts were compared with those that were known."""
        index = Index.open(f"sqlite:///{self._system.home}/index.sqlite")
        try:
            return index.ops_page(datetime.now(UTC)).quality.audits
        finally:
            index.close()

    def plant(self, wrong: str, right: str) -> None:
        """Gives a job's verdicts the key of another one, which loses its own."""
        with closing(sqlite3.connect(self._system.home / "index.sqlite")) as index, index:
            index.execute(
                "UPDATE jobs SET plan_key = (SELECT plan_key FROM jobs WHERE name = ?) "
                "WHERE name = ?",
                (wrong, right),
            )
            index.execute("UPDATE jobs SET plan_key = NULL WHERE name = ?", (wrong,))


@pytest.fixture
def checks(system: System) -> Checks:
    system.start_worker()
    return Checks(system)


def short(names: set[str]) -> set[str]:
    """Returns ids of jobs without their platform."""
    return {" ".join(word for word in name.split() if "/" not in word) for name in names}


def test_a_head_runs_what_no_head_before_ran(checks: Checks, system: System) -> None:
    ran, reused, jobs = checks.check(exits=1)
    assert reused == set()
    everything = short(ran)
    assert {"build lib.1", "test lib.1", "lower-bounds lib.1", "revdep lib.1 user.1"} <= everything

    # The same head again: a failure counts once it was seen twice.
    ran, reused, jobs = checks.check(exits=1)
    assert short(ran) == {"revdep lib.1 broken.1"}
    assert short(ran | reused) == everything
    ran, reused, jobs = checks.check(exits=1)
    assert ran == set()
    broken = next(name for name in jobs if "broken.1" in name)
    assert jobs[broken]["outcome"]["reason"] == "build"
    log = system.run("log", "local/reuse/branch-topic", broken, check=0)
    assert "it is broken" in log.stdout

    # Another head, which changes one package of three.
    opam_repository.add_branch(checks.repo, "topic", TOPIC | CHANGED)
    ran, reused, _ = checks.check(exits=1)
    listings = {f"list-revdeps {name}.1" for name in ("lib", "alone", "other")}
    of_other = {f"{kind} other.1" for kind in ("build", "lower-bounds")}
    assert short(ran) - listings == of_other
    assert len(ran) <= 0.4 * len(ran | reused)

    # The base moves, below one of the packages.
    moved = opam_repository.package("dep.2", ECHO)
    opam_repository.add_branch(checks.repo, "master", moved)
    opam_repository.add_branch(checks.repo, "topic", TOPIC | CHANGED)
    ran, reused, jobs = checks.check(exits=1)
    assert {name for name in short(ran) - listings if " lib.1" not in name} == set()
    assert {"build lib.1", "test lib.1", "revdep lib.1 user.1"} <= short(ran)
    assert all(row["outcome"]["kind"] != "errored" for row in jobs.values())

    # Off by a switch.
    ran, reused, _ = checks.check("--no-reuse", exits=1)
    assert reused == set()


def test_an_audit_finds_that_a_verdict_is_not_that_of_its_key(checks: Checks) -> None:
    broken, user = (
        f"revdep debian-13-ocaml-5.3/amd64 lib.1 {name}.1" for name in ("broken", "user")
    )
    for _ in range(2):
        checks.check(exits=1)
    assert checks.audits() == Audits()

    ran, reused, _ = checks.check("--audit", "100", exits=1)
    assert reused == set()
    assert {broken, user} <= ran
    assert checks.audits() == Audits(compared=len(ran))

    # As if both jobs had the same key: the wrong verdict holds until it is compared.
    checks.plant(broken, user)
    assert broken in checks.check(exits=0)[1]
    checks.check("--audit", "100", exits=1)
    assert checks.audits() == Audits(compared=2 * len(ran), differed=1)
    assert broken in checks.check(exits=1)[0]


def test_what_no_mirror_has_is_looked_for_again_once_one_has_more(
    checks: Checks, system: System
) -> None:
    mirror = system.home / "mirror"
    mirror.mkdir(mode=0o755)
    near = "build debian-13-ocaml-5.3/amd64 near.1"

    def check() -> tuple[bool, str]:
        words = ("--mirror", mirror.as_uri(), "--only-mirrored")
        ran, reused, jobs = checks.check(*words, exits=0, branch="far")
        assert (near in ran) != (near in reused)
        return near in ran, jobs[near]["outcome"].get("reason", jobs[near]["outcome"]["kind"])

    assert check() == (True, "not_mirrored")
    assert check() == (False, "not_mirrored")
    kept = mirror / "sha256" / DIGEST[:2] / DIGEST
    kept.parent.mkdir(parents=True)
    kept.write_bytes(SOURCE)
    assert check() == (True, "passed")
    assert check() == (False, "passed")
    kept.unlink()
    assert check() == (False, "not_mirrored")
