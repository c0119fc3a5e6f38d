"""Reverse dependencies that fail alike end the others: real builds, and their base."""

from collections import Counter

import pytest

from opam_ci.core.jobs.early_stop import ENOUGH
from tests.e2e.conftest import System, result
from tests.e2e.test_baseline import BROKEN, library, needs
from tests.support.fakes import opam_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MORE = 6
"""More than a worker of two slots has in hand when the thirtieth has failed."""


def test_the_rest_runs_only_if_the_change_is_not_to_blame(system: System) -> None:
    system.environment["OPAM_CI_BUILDS"] = "2"
    system.start_worker()
    packages = [f"r{number:02}.1" for number in range(ENOUGH + MORE)]
    base = library(1)
    for package in packages:
        base |= needs(package, BROKEN)
    repo = opam_repository.write(system.home / "alike", base, {"hurts": library(2)})
    words = ("check", "--json", "--repo", str(repo), "--revdeps", "--branch", "hurts")
    done = result(system.run(*words, check=0))
    # All of them fail, with the change and without it, so that nobody is to blame.
    ends = Counter(
        f"{row['job']['kind']} {label}({row['outcome'].get('reason', '')})"
        for row in done["jobs"]
        if (label := row["outcome"]["kind"]) and row["job"]["kind"] in {"revdep", "base-build"}
    )
    assert ends == {
        "revdep skipped(fails_on_base)": len(packages),
        "base-build failed(build)": len(packages),
    }
    # The last ones were stopped before they had run, and ran once that was known.
    again = [row for row in done["jobs"] if row["job"]["kind"] == "revdep" and row["round"] == 2]
    assert 1 <= len(again) <= MORE
