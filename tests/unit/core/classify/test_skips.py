"""Skips have in one line why a package cannot be installed; and texts that prove nothing."""

import pytest

from opam_ci.core.classify import judge
from opam_ci.core.jobs.facts import BuildFacts, PhaseRun
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import label
from opam_ci.core.text.result import reason_line

CONFLICT = "[ERROR] Package conflict!\n  * Missing dependency:\n    - zzz -> nope\n"
MISSING = "Missing dependency:\n- zzz → nope\nunknown package"
NO_DEPEXT = (
    "Missing dependency:\n- zzz → dep\ndepends on the unavailable system package 'no-x'. Use "
    "`--no-depexts' to attempt installation anyway."
)


def judged(
    exit_code: int,
    log: str,
    *conflicts: str,
    hidden: tuple[str, ...] = (),
    setup: str = "",
) -> tuple[str, str]:
    """Returns the verdict on a solver that ended so, and its one line."""
    phases = [(Phase.SETUP, 0, setup, ()), (Phase.SOLVE, exit_code, log, conflicts)]
    runs, at = [], 0
    for phase, code, text, causes in phases:
        end = at + len(text.encode())
        runs.append(
            PhaseRun(
                phase=phase,
                exit_code=code,
                duration=1,
                log_start=at,
                log_end=end,
                has_report=True,
                conflicts=causes,
            )
        )
        at = end
    job = Job(platform="p/amd64", package="zzz.1", kind=JobKind.BUILD)
    facts = BuildFacts(job=job, phases=tuple(runs), hidden=hidden)
    outcome = judge(facts, {phase: text for phase, _, text, _ in phases})
    return label(outcome), reason_line(outcome)


@pytest.mark.parametrize(
    ("given", "verdict", "line"),
    [
        (
            (20, CONFLICT, MISSING),
            "skipped(no_solution)",
            "zzz.1 needs nope: no such package",
        ),
        # Without a report, the first specific line.
        ((20, CONFLICT), "skipped(no_solution)", "* Missing dependency:"),
        (
            (20, CONFLICT, NO_DEPEXT),
            "skipped(depext_unavailable)",
            "zzz.1 needs dep: it needs the system package no-x, which does not exist here",
        ),
        (
            (5, "[ERROR] zzz = 1: unmet availability conditions: 'os = \"win32\"'\n"),
            "skipped(unavailable)",
            'zzz.1 is not available here (available: os = "win32")',
        ),
        (
            (5, "[ERROR] Package zzz.1 depends on the unavailable system package 'no-x'.\n"),
            "skipped(depext_unavailable)",
            "zzz.1 needs the system package no-x, which does not exist here",
        ),
    ],
)
def test_the_line_has_the_reason(given: tuple[int, str], verdict: str, line: str) -> None:
    found, reported = judged(*given)
    assert found == verdict
    assert reported.strip("* ").startswith(line.strip("* "))


def test_what_rests_on_a_mirror_proves_nothing() -> None:
    assert judged(20, CONFLICT, MISSING, hidden=("nope",)) == (
        "skipped(not_mirrored)",
        "zzz.1 needs nope: not in the offline mirror; the offline mirror hides: nope",
    )


def test_stale_lists_prove_nothing_about_a_dependencys_system_package() -> None:
    setup = "E: Failed to fetch http://deb.example.org/dists/trixie/InRelease  503\n"
    verdict, _ = judged(20, CONFLICT, NO_DEPEXT, setup=setup)
    assert verdict == "errored(package_mirror)"
