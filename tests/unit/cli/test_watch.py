"""What somebody sees who watches a pull request."""

from opam_ci.cli.output.watch import never_back
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes.summaries import summary_of

JOB = Job(kind=JobKind.BUILD, platform="debian-13-ocaml-5.3/amd64", package="a.1")


def seen(*rows: JobStatus) -> list[tuple[JobState, int, int]]:
    """What is shown of a job that goes through these states, one look after the other."""
    shown: dict[str, JobStatus] = {}
    looks = [never_back(summary_of([row]), shown).jobs[0] for row in rows]
    return [(look.state, look.round, look.attempt) for look in looks]


def test_a_job_that_has_just_ended_does_not_seem_queued_again() -> None:
    passed = Passed(evidence=Evidence(rule="test"))
    assert seen(
        JobStatus(job=JOB),
        JobStatus(job=JOB, state=JobState.RUNNING, attempt=1),
        JobStatus(job=JOB, attempt=1),
        JobStatus(job=JOB),
        JobStatus(job=JOB, state=JobState.DECIDED, attempt=1, outcome=passed),
    ) == [
        (JobState.QUEUED, 1, 0),
        (JobState.RUNNING, 1, 1),
        (JobState.RUNNING, 1, 1),
        (JobState.RUNNING, 1, 1),
        (JobState.DECIDED, 1, 1),
    ]


def test_a_further_attempt_and_a_restart_do_wait() -> None:
    assert seen(
        JobStatus(job=JOB, state=JobState.RUNNING, attempt=1),
        JobStatus(job=JOB, attempt=2),
        JobStatus(job=JOB, state=JobState.RUNNING, attempt=2),
        JobStatus(job=JOB, round=2),
    ) == [
        (JobState.RUNNING, 1, 1),
        (JobState.QUEUED, 1, 2),
        (JobState.RUNNING, 1, 2),
        (JobState.QUEUED, 2, 0),
    ]


def test_rows_come_and_go() -> None:
    other = JobStatus(job=JOB.model_copy(update={"package": "b.1"}))
    shown: dict[str, JobStatus] = {}
    looks = [never_back(summary_of(rows), shown).jobs for rows in ([other], [], [other])]
    assert looks == [(other,), (), (other,)]
    assert list(shown) == [other.job.id]
