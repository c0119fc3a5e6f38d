"""Verdicts on package managers: facts of the run, their exit codes, their own words."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.classify.preparation import (
    SYSTEM_LISTS,
    SYSTEM_PACKAGE_NAMES,
    SYSTEM_PACKAGES_KNOWN,
)
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, Errored, Outcome, Skipped, label
from opam_ci.core.text.result import reason_line


def judged(
    exit_code: int,
    log: str = "",
    *,
    phase: Phase = Phase.DEPEXTS,
    probes: Mapping[str, bool] = MappingProxyType({}),
) -> Outcome:
    """Returns the outcome of a job whose last phase ended so."""
    conflict = "Missing dependency:\n- zzz → dep\ndepends on the unavailable system package 'no-x'"
    run = PhaseRun(
        phase=phase,
        exit_code=exit_code,
        duration=1,
        log_start=0,
        log_end=len(log.encode()),
        has_report=phase is Phase.SOLVE,
        conflicts=(conflict,) if phase is Phase.SOLVE else (),
    )
    job = Job(platform="p/amd64", package="zzz.1", kind=JobKind.BUILD)
    return judge(BuildFacts(job=job, phases=(run,), probes=dict(probes)), {phase: log})


@pytest.mark.parametrize(
    ("verdict", "rule", "outcome"),
    [
        # No words, and whatever code: it was a package manager, before any package code.
        ("errored(package_mirror)", "depexts-failed", judged(1)),
        ("errored(package_mirror)", "depexts-failed", judged(106)),
        ("errored(image)", IMAGE_UNFIT, judged(127)),
        ("errored(image)", IMAGE_UNFIT, judged(127, probes={SYSTEM_LISTS: False})),
        ("errored(package_mirror)", "system-lists", judged(1, probes={SYSTEM_LISTS: False})),
        # After lists that could not be fetched, an unknown package proves nothing.
        (
            "errored(package_mirror)",
            "system-lists",
            judged(1, "error: target not found: libfoo", probes={SYSTEM_LISTS: False}),
        ),
        (
            "errored(package_mirror)",
            "system-lists",
            judged(104, probes={SYSTEM_LISTS: False, SYSTEM_PACKAGES_KNOWN: False}),
        ),
        (
            "errored(package_mirror)",
            "system-lists",
            judged(20, phase=Phase.SOLVE, probes={SYSTEM_LISTS: False}),
        ),
        (
            "skipped(depext_unavailable)",
            "depext-unavailable",
            judged(20, phase=Phase.SOLVE, probes={SYSTEM_LISTS: True}),
        ),
        # zypper's exit code says it, unless a repository was left out.
        (
            "skipped(depext_unavailable)",
            "depext-unavailable",
            judged(104, probes={SYSTEM_PACKAGES_KNOWN: False}),
        ),
        (
            "errored(package_mirror)",
            "mirror-rpm",
            judged(104, "Warning: Skipping repository 'x'.", probes={SYSTEM_PACKAGES_KNOWN: False}),
        ),
        # What an author chose as the name of a package is in the log: its words decide nothing.
        (
            "skipped(depext_unavailable)",
            "depext-unavailable",
            judged(1, "[opam-ci] 'Hash Sum mismatch'", probes={SYSTEM_PACKAGE_NAMES: False}),
        ),
    ],
)
def test_facts_decide(verdict: str, rule: str, outcome: Outcome) -> None:
    assert label(outcome) == verdict
    assert isinstance(outcome, Errored | Skipped)
    assert outcome.evidence.rule == rule


@pytest.mark.parametrize(
    "log",
    [
        "E: Unable to locate package no-x",
        "ERROR: unable to select packages:\n  no-x (no such package):\n    required by: world",
        "error: target not found: no-x",
        "No match for argument: no-x\nError: Unable to find a match: no-x",
        "No provider of 'no-x' found.",
        "Package 'no-x' not found.",
        "pkg: No packages available to install matching 'no-x' have been found in the repositories",
    ],
)
def test_each_managers_words_name_the_package(log: str) -> None:
    outcome = judged(1, log)
    assert label(outcome) == "skipped(depext_unavailable)"
    assert "zzz.1 needs the system package no-x, which does not exist here" in reason_line(outcome)
