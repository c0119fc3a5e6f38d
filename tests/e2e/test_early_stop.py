"""Reverse dependencies that fail alike end the others: real builds, and their base."""

import json
from collections import Counter
from typing import Any

import pytest

from opam_ci.core.jobs.early_stop import ENOUGH
from tests.e2e.conftest import System, wait_for
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
    system.run(*words, check=0)
    # All of them fail, with the change and without it, so that nobody is to blame.
    wanted = {
        "revdep skipped(fails_on_base)": len(packages),
        "base-build failed(build)": len(packages),
    }
    # The index is written a moment after the check has ended.
    wait_for(lambda: Counter(map(end, jobs(system))) == wanted, 60)
    # The last ones were stopped before they had run, and ran once that was known.
    again = [row for row in jobs(system) if row["job"]["kind"] == "revdep" and row["round"] == 2]
    assert 1 <= len(again) <= MORE


def jobs(system: System) -> list[dict[str, Any]]:
    done = system.run("jobs", "--all-heads", "--json", "--limit", "1000", check=0)
    statuses = [json.loads(line)["status"] for line in done.stdout.splitlines()]
    return [each for each in statuses if each["job"]["kind"] in {"revdep", "base-build"}]


def end(row: dict[str, Any]) -> str:
    outcome = row["outcome"] or {"kind": row["state"]}
    reason = f"({outcome['reason']})" if "reason" in outcome else ""
    return f"{row['job']['kind']} {outcome['kind']}{reason}"
