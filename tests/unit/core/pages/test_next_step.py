"""The sentence and the next step of a job's page."""

from datetime import UTC, datetime

import pytest

from opam_ci.core.incidents.model import Incident, Place, Scope
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Reused,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import JobRecord, RevisionKey
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, State
from opam_ci.core.pages.model import (
    HeadRef,
    JobPage,
    PreviousJob,
    SeenElsewhere,
    WorkerNearby,
)
from opam_ci.core.pages.next_step import next_step
from opam_ci.core.text.sentence import SENTENCE_LIMIT, job_sentence
from tests.support.samples.known_failures import failed, seen

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
EVIDENCE = Evidence(rule="r", detail="it broke")
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
ERRORED = Errored(cause=Cause.DNS, evidence=EVIDENCE)
PASSED = Passed(evidence=EVIDENCE)
KEY = RevisionKey(repository="o/r", number=1, head="a" * 40, opened_at=NOON)
PREVIOUS = HeadRef(head="b" * 40, opened_at=NOON, state=State.SUCCESS)
INCIDENT = Incident(
    id=1, cause=Cause.DNS, place=Place(scope=Scope.ALL), first_seen_at=NOON, last_seen_at=NOON,
    faults=1, jobs=1, pull_requests=1, evidence=EVIDENCE,
)  # fmt: skip


def row(outcome: Outcome | None, **more: object) -> JobStatus:
    job = Job(platform="p", package="a.1", kind=JobKind.BUILD)
    state = JobState.QUEUED if outcome is None else JobState.DECIDED
    return JobStatus.model_validate({"job": job, "state": state, "outcome": outcome, **more})


def record(status: JobStatus) -> JobRecord:
    return JobRecord(revision=KEY, status=status, updated_at=NOON)


def before(outcome: Outcome, *, alike: bool = False) -> PreviousJob:
    return PreviousJob(head=PREVIOUS, job=record(row(outcome)), is_alike=alike)


def page(outcome: Outcome | None, **more: object) -> JobPage:
    fields = {"job": record(row(outcome)), "title": "t", "sentence": "s", "next_step": ""}
    return JobPage.model_validate(fields | more)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (page(PASSED), ""),
        (page(None), ""),
        (page(Cancelled(by="request")), "Restart it if"),
        (page(FAILED), "Read the log"),
        (page(FAILED, previous=before(PASSED)), "It passed on the previous head bbbbbbbbbbbb:"),
        (page(FAILED, previous=before(FAILED, alike=True)), "It fails as it did on"),
        (page(FAILED, previous=before(FAILED)), "It failed in another way on"),
        (page(FAILED, previous=before(ERRORED)), "Read the log"),
        (
            page(FAILED, elsewhere=SeenElsewhere(pull_requests=3, first_seen_at=NOON)),
            "3 other open pull requests fail the same way, first seen 2026-05-04 12:00 UTC:",
        ),
        (page(FAILED, elsewhere=SeenElsewhere(pull_requests=2, first_seen_at=NOON)), "Read the"),
        (page(ERRORED), "Restart it, or comment /opam-ci restart errors"),
        (page(ERRORED, incident=INCIDENT), "Nothing to do: it is restarted once the incident"),
        (
            page(ERRORED, incident=INCIDENT.model_copy(update={"resolved_at": NOON})),
            "Restart it, or comment",
        ),
        (page(FAILED, newest_head=PREVIOUS), "A newer head is tested: bbbbbbbbbbbb."),
    ],
)
def test_the_next_step_follows_from_the_witnesses(of: JobPage, words: str) -> None:
    step = next_step(of)
    assert step.startswith(words)
    assert bool(step) is bool(words)


def test_a_worker_with_faults_is_named() -> None:
    worker = WorkerNearby(worker="w", attempts=9, faults=4)
    step = next_step(page(ERRORED, worker=worker))
    assert step.endswith("Its worker met 4 faults in 9 attempts around that time.")
    healthy = next_step(page(ERRORED, worker=worker.model_copy(update={"faults": 1})))
    assert "Its worker" not in healthy


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (row(PASSED), "Passed."),
        (row(FAILED), "Failed (build): it broke"),
        (row(ERRORED), "Internal CI error, not your package: DNS resolution failed: it broke"),
        (
            row(Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE)),
            "Skipped, not available here: it broke",
        ),
        (row(Cancelled(by="superseded")), "Cancelled: a newer head replaced this one."),
        (row(None), "Queued."),
        (row(None, state=JobState.RUNNING), "Running."),
        (row(None, state=JobState.RUNNING, phase=Phase.SOLVE), "Running: solve."),
        (
            row(
                None, state=JobState.RETRYING, attempt=1, next_attempt_at=NOON,
                faults=(Fault(attempt=1, cause=Cause.GIT, evidence=EVIDENCE, worker="w", at=NOON),),
            ),
            "CI fault, not your package: git failed. Attempt 2 at 12:00 UTC.",
        ),
    ],
)  # fmt: skip
def test_the_sentence_of_a_job(of: JobStatus, words: str) -> None:
    assert job_sentence(of) == words


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (PASSED, "Passed, as with the same inputs for {} on 04 May 2026."),
        (FAILED, "Failed (build), as with the same inputs for {} on 04 May 2026: it broke"),
    ],
)
def test_the_sentence_of_a_job_that_was_not_run(outcome: Passed | Failed, words: str) -> None:
    of_branch = {"number": None, "branch": "b" * 99}
    for where, changes in (("#1", {}), (f"{'b' * 59}…", of_branch)):
        reused = Reused(**KEY.model_dump() | changes, round=1, attempt=1, ended_at=NOON)
        evidence = EVIDENCE.model_copy(update={"reused": reused})
        sentence = job_sentence(row(outcome.model_copy(update={"evidence": evidence})))
        assert sentence == words.format(where)


def test_the_sentence_of_a_job_that_did_not_build_what_failed() -> None:
    evidence = failed().evidence.model_copy(update={"seen_in": seen()})
    assert job_sentence(row(failed().model_copy(update={"evidence": evidence}))) == (
        "Failed (dependency), not built as it failed twice, the last time for #7 on 04 May 2026: "
        "bar.2: Error: it is broken"
    )


def test_a_long_line_is_cut() -> None:
    long = EVIDENCE.model_copy(update={"detail": "x\n" * 999})
    text = job_sentence(row(FAILED.model_copy(update={"evidence": long})))
    assert len(text) == SENTENCE_LIMIT
    assert text.isprintable()
