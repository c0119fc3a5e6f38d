"""Failures are compared with the base: a real Temporal server, real builds, a real index."""

from typing import Any

import pytest

from opam_ci.core.jobs.job import Job
from tests.e2e.conftest import System, result
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LIBRARY = (
    'build: ["sh" "-c" "true"]\n'
    'install: ["sh" "-c" "mkdir -p %{lib}%/it; echo NUMBER > %{lib}%/it/n"]\n'
)


def library(number: int | str) -> dict[str, str]:
    return opam_repository.package("lib.1", LIBRARY.replace("NUMBER", str(number)))


def needs(name: str, script: str, depends: str = "lib") -> dict[str, str]:
    body = f'depends: "{depends}"\nbuild: ["sh" "-c" "{script}"]\n'
    return opam_repository.package(name, body)


WANTS_ONE = "grep 1 %{lib}%/it/n || { echo Error: it is not one; exit 1; }"
BROKEN = "echo Error: it never worked; exit 3"
BASE = {
    **library(1),
    **needs("good.1", "cat %{lib}%/it/n"),
    **needs("hurt.1", WANTS_ONE),
    **needs("broken.1", BROKEN),
    **needs("otherwise.1", f"{{ {WANTS_ONE} }}; {BROKEN}"),
    **needs("cured.1", WANTS_ONE.replace("grep 1", "grep 3")),
    **opam_repository.package("bad.1", 'build: ["sh" "-c" "exit 7"]\n'),
}


def verdicts(done: Any) -> dict[str, str]:
    """Returns what jobs came to, with what they come to without the change."""
    found = {}
    for row in result(done)["jobs"]:
        job, outcome = Job.model_validate(row["job"]), row["outcome"]
        if job.kind in {"analysis", "lint", "list-revdeps"}:
            continue
        reason = f"({outcome['reason']})" if "reason" in outcome else ""
        on_base = outcome["evidence"].get("on_base")
        if fixes := outcome["evidence"].get("fixes"):
            assert (fixes["job"]["package"], bool(fixes["line"])) == (job.revdep, True)
            on_base = "fixed"
        name = f"{job.kind} {job.revdep or job.package}"
        found[name] = f"{outcome['kind']}{reason}" + (f", {on_base}" if on_base else "")
    return found


def test_only_what_the_change_broke_is_red(system: System) -> None:
    system.start_worker()
    harmless = LIBRARY.replace("NUMBER", "1").replace("true", "echo")
    changes = {
        "hurts": library(2),
        "fixes": library("1 3"),
        "harmless": opam_repository.package("lib.1", harmless),
        "edits": opam_repository.package("bad.1", 'build: [["true"] ["sh" "-c" "exit 7"]]\n'),
    }
    repo = opam_repository.write(system.home / "baseline", BASE, changes)
    words = ("check", "--json", "--repo", str(repo), "--revdeps", "--branch")

    done = system.run(*words, "hurts", check=1)
    assert verdicts(done) == {
        "build lib.1": "passed",
        "revdep good.1": "passed",
        "revdep hurt.1": "failed(build), passes",
        "revdep broken.1": "skipped(fails_on_base), fails",
        "revdep otherwise.1": "skipped(fails_on_base), fails otherwise",
        "revdep cured.1": "skipped(fails_on_base), fails",
        "base-build hurt.1": "passed",
        "base-build broken.1": "failed(build)",
        "base-build otherwise.1": "failed(build)",
        "base-build cured.1": "failed(build)",
    }
    assert result(done)["state"] == "failure"
    # The text says both.
    assert result(done)["result"].startswith("1 failed, 2 passed, 3 fail without this change, too")

    # What only fails as before is green; the base has its verdicts already.
    done = system.run(*words, "harmless", check=0)
    found = verdicts(done)
    assert found["revdep broken.1"] == "skipped(fails_on_base), fails"
    assert found["revdep otherwise.1"] == "skipped(fails_on_base), fails"
    assert found["revdep hurt.1"] == "passed"
    assert result(done)["state"] == "success"

    # What failed without the change twice is fixed by one with which it passes.
    done = system.run(*words, "fixes", check=0)
    assert verdicts(done)["revdep cured.1"] == "passed, fixed"
    assert result(done)["result"].startswith(
        "4 passed, 2 fail without this change, too; 1 fixed: it fails without this change"
    )

    # A package that was broken before it was edited.
    done = system.run(*words, "edits", check=0)
    assert verdicts(done) == {
        "build bad.1": "skipped(fails_on_base), fails",
        "base-build bad.1": "failed(build)",
    }
