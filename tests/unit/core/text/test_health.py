"""Whether the CI is well, in one sentence."""

from datetime import UTC, datetime, timedelta

import pytest

from opam_ci.core.incidents.model import Incident, Place, Scope
from opam_ci.core.jobs.outcome import Cause, Evidence
from opam_ci.core.text.health import (
    LONGEST,
    STALLED_AFTER,
    CiState,
    ci_sentence,
    drain_text,
    resolve_preview,
    span,
)

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
WELL = CiState(
    workers=4, attempts_hour=100, faults_hour=1, attempts_day=2000, faults_day=9, queued=12,
    running=3, queued_since=NOW - timedelta(minutes=3), begun_at=NOW,
)  # fmt: skip


def incident(number: int, jobs: int, worker: str = "builder-3") -> Incident:
    return Incident(
        id=number, cause=Cause.DISK_FULL,
        place=Place(scope=Scope.WORKER, pool="linux-amd64", worker=worker),
        first_seen_at=NOW - timedelta(hours=1), last_seen_at=NOW, faults=jobs, jobs=jobs,
        pull_requests=2, evidence=Evidence(rule="x"),
    )  # fmt: skip


def sentence(**changes: object) -> str:
    is_well, text = ci_sentence(WELL.model_copy(update=changes), NOW)
    assert len(text) <= LONGEST
    assert is_well != text.startswith("No: ")
    return text


def test_a_ci_that_is_well_has_its_numbers() -> None:
    assert sentence() == (
        "Yes: 2000 attempts of 4 workers in 24 hours, 9 met a fault; 12 jobs waiting, the first "
        "for 3 min."
    )
    assert sentence(queued=0, queued_since=None) == (
        "Yes: 2000 attempts of 4 workers in 24 hours, 9 met a fault; no job waits."
    )


def test_the_incident_with_the_most_jobs_comes_first() -> None:
    found = sentence(incidents=(incident(1, 3), incident(2, 12)), incidents_number=2)
    assert found == (
        "No: disk full on worker builder-3 hit 12 jobs of 2 pull requests since 2026-05-04 11:00 "
        "UTC; 1 more open incident."
    )


def test_a_name_without_end_does_not_make_a_sentence_without_end() -> None:
    assert "…" in sentence(incidents=(incident(1, 3, "w\n" * 500),), incidents_number=1)


def test_jobs_that_wait_while_nothing_begins_are_a_stall() -> None:
    stall = {
        "running": 0,
        "queued_since": NOW - STALLED_AFTER,
        "begun_at": NOW - timedelta(hours=3),
    }
    assert sentence(**stall) == (
        "No: 12 jobs waiting, and no attempt began for 3 h: are there workers?"
    )
    assert sentence(**stall | {"begun_at": None}).endswith(
        "no attempt began within 24 hours: are there workers?"
    )
    # A job under way, or one that began a moment ago, shows that workers are there.
    assert sentence(**stall | {"running": 1}).startswith("Yes")
    assert sentence(**stall | {"begun_at": NOW}).startswith("Yes")
    assert sentence(**stall | {"queued_since": NOW}).startswith("Yes")


def test_more_faults_than_usual_are_not_well() -> None:
    assert sentence(faults_hour=5) == (
        "No: 5 % of the attempts of the last hour met an infrastructure fault, and 0.5 % of those "
        "of 24 hours."
    )
    assert sentence(faults_hour=4).startswith("Yes")
    # One of few says nothing.
    assert sentence(attempts_hour=19, faults_hour=19).startswith("Yes")


def test_a_ci_without_work_is_well() -> None:
    assert ci_sentence(CiState(), NOW) == (
        True,
        "Nothing to do: no attempt began within 24 hours, and no job waits.",
    )


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (
            (214, 11, 0),
            "Resolving it would restart 214 jobs in 11 pull requests: one, and then the others.",
        ),
        ((1, 1, 0), "Resolving it would restart 1 job in 1 pull request."),
        ((0, 0, 0), "Resolving it would restart no job."),
        (
            (0, 0, 2),
            (
                "Resolving it would restart no job; 2 jobs without automatic restarts left wait "
                "for a manual one."
            ),
        ),
    ],
)
def test_a_preview_has_the_numbers_of_a_resolution(
    numbers: tuple[int, int, int], text: str
) -> None:
    assert resolve_preview(*numbers) == text


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(-1, "0 min"), (119, "119 min"), (120, "2 h"), (2879, "47 h"), (2880, "2 d")],
)
def test_a_span_is_in_its_largest_unit(minutes: int, text: str) -> None:
    assert span(timedelta(minutes=minutes)) == text


def test_a_queue_drains_at_the_pace_of_the_last_hour() -> None:
    assert drain_text(0, 5) == ""
    assert drain_text(3, 0) == "3 jobs waiting; no attempt of the last hour has ended."
    assert drain_text(30, 10) == "30 jobs waiting: about 3 h at the pace of the last hour."
    assert drain_text(1, 60) == "1 job waiting: about 1 min at the pace of the last hour."
