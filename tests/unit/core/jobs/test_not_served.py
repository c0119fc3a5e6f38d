"""Platforms without workers: what is planned, shown and restarted."""

import pytest

from opam_ci.core.github.check_page import page
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed, SkipReason, label
from opam_ci.core.jobs.plan import planned_jobs, service_of
from opam_ci.core.jobs.selector import RestartOrigin, RestartSelector, RestartWhich
from opam_ci.core.jobs.summary import JobState, JobStatus, State, Summary
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.submission.result import ChangedPackage, ChangeKind
from opam_ci.core.text.result import reason_line, standing
from tests.support.fakes.summaries import summary_of

NEW = ChangedPackage(package="a.1", kind=ChangeKind.NEW_RELEASE, has_tests=False)
GONE = EMBEDDED.model_copy(update={"arch": "arm64", "pool": "arm"})
EITHER = GONE.model_copy(update={"otherwise": (GONE.model_copy(update={"pool": "arm-boxes"}),)})
MISSING = JobStatus(
    job=Job(platform=GONE.name, package="", kind=JobKind.PLATFORM),
    state=JobState.DECIDED,
    outcome=service_of(GONE, is_served=False),
)


def built(kind: JobKind = JobKind.BUILD, **changes: object) -> JobStatus:
    platform = "" if kind is JobKind.LINT else EMBEDDED.name
    row = JobStatus(
        job=Job(platform=platform, package="a.1", kind=kind),
        state=JobState.DECIDED,
        outcome=Passed(evidence=Evidence(rule="x")),
    )
    return row.model_copy(update=changes)


def test_one_job_stands_for_a_platform_and_only_where_something_would_be_built() -> None:
    jobs = [each.job.id for each in planned_jobs([NEW], [EMBEDDED], unserved=[GONE], lint=False)]
    assert jobs == [MISSING.job.id, f"build {EMBEDDED.name} a.1"]
    deleted = NEW.model_copy(update={"kind": ChangeKind.DELETED})
    assert list(planned_jobs([deleted], [EMBEDDED], unserved=[GONE])) == []


def test_its_outcome_names_the_pools() -> None:
    outcome = service_of(EITHER, is_served=False)
    assert label(outcome) == f"skipped({SkipReason.NOT_SERVED})"
    assert reason_line(outcome) == "no worker for the pools arm, arm-boxes"
    assert label(service_of(GONE, is_served=True)) == "passed"


@pytest.mark.parametrize(
    ("rows", "state", "text"),
    [
        ([built(), MISSING], State.SUCCESS, "1 passed; 1 platform not served"),
        ([built(JobKind.LINT), MISSING], State.ERROR, "nothing was built; 1 platform not served"),
        (
            [built(state=JobState.RUNNING, outcome=None), MISSING],
            State.PENDING,
            "1 to go; 1 platform not served",
        ),
    ],
)
def test_it_is_counted_apart_and_proves_nothing(
    rows: list[JobStatus], state: State, text: str
) -> None:
    summary: Summary = summary_of(rows)
    assert summary.state is state
    assert standing(summary).startswith(text)
    assert summary.ran.skipped == 0


def test_the_page_of_a_check_lists_the_platforms() -> None:
    text = page(summary_of([built(), MISSING]))
    assert "### Not served: the CI has no worker for these platforms (1)" in text
    assert f"- `platform` on {GONE.name}: `no worker for the pool arm`" in text


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        (RestartSelector(), True),
        (RestartSelector(platform=GONE.name), True),
        (RestartSelector(which=RestartWhich.ALL), True),
        (RestartSelector(platform=EMBEDDED.name), False),
        (RestartSelector(which=RestartWhich.FAILED), False),
        (RestartSelector(origin=RestartOrigin.INCIDENT), False),
    ],
)
def test_a_restart_by_a_person_looks_again(selector: RestartSelector, *, takes: bool) -> None:
    assert selector.takes_decided(MISSING) is takes
