"""A known failure is waived: a real Temporal server, real builds, a real index."""

import pytest

from tests.e2e.conftest import System, result
from tests.e2e.test_baseline import BASE, library, verdicts
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_what_is_waived_is_shown_and_does_not_count(system: System) -> None:
    system.start_worker()
    repo = opam_repository.write(system.home / "waivers", BASE, {"hurts": library(2)})
    words = ("check", "--json", "--repo", str(repo), "--revdeps", "--branch", "hurts")
    assert verdicts(system.run(*words, check=1))["revdep hurt.1"] == "failed(build), passes"

    # That check has ended, and stays as it is.
    why = ("--because", "it wants 1", "--until", "7d", "--by", "ann")
    added = system.run("waivers", "add", "hurt", "--kind", "revdep", *why)
    assert "0 jobs of 0 open pull requests: not counted any more" in added.stdout

    done = system.run(*words, check=0)
    found = verdicts(done)
    assert found["revdep hurt.1"] == "skipped(waived)"
    # It needs none on the base; the others do.
    assert "base-build hurt.1" not in found
    assert found["revdep broken.1"] == "skipped(fails_on_base), fails"
    text = result(done)["result"]
    assert text.startswith("2 passed, 1 waived, 3 fail without this change, too")

    system.run("waivers", "remove", "1")
    assert verdicts(system.run(*words, check=1))["revdep hurt.1"].startswith("failed(build)")
