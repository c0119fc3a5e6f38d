"""What an observer hears of attempts: each one's end, and the silence of lost ones."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities.attempt import Attempt
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.observe import ORCHESTRATION_POOL, ObservingInterceptor
from opam_ci.clients.index import Index
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.moved_base import BaseChanged
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Outcome, label
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.jobs.requests import Origin, PullRequestRef
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import PASSED, Script, World, is_decided
from tests.workflow.test_canary import Heard
from tests.workflow.test_pull_request import BUILD, TEST, dies, dns, settled


class Listening(Heard):
    """Keeps records too."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[RowBatch] = []

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        assert rejudged == ()
        self.batches.append(batch)

    def ends(self, kind: JobKind) -> list[tuple[str, bool]]:
        return [
            (label(ended.outcome) if ended.outcome else "cancelled", ended.is_last)
            for ended in self.ended
            if ended.kind is kind
        ]


@pytest.fixture
def handled() -> Listening:
    return Listening()


@pytest.fixture
async def watched(environment: WorkflowEnvironment, handled: Listening) -> AsyncIterator[World]:
    script = Script()
    async with (
        Worker(
            environment.client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[PullRequestWorkflow, PlatformWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[
                script.analyse,
                script.look_at_base,
                script.lint,
                script.find_effect,
                script.record,
                *JobActivities(cast("Index", script.index), script.store, script.served_pools).all,
            ],
            interceptors=[ObservingInterceptor(ORCHESTRATION_POOL, [handled])],
        ),
        Worker(
            environment.client,
            task_queue=options.build_queue("linux-amd64"),
            activities=[script.run_job],
            interceptors=[ObservingInterceptor("linux-amd64", [handled])],
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        ),
    ):
        yield World(environment, script)
        await script.end()
    script.index.close()


async def test_a_look_at_a_moved_base_is_no_attempt(
    watched: World, ref: PullRequestRef, handled: Listening
) -> None:
    origin = Origin(
        clone_url="file:///nowhere", branch="master", as_of=datetime(2026, 5, 4, tzinfo=UTC)
    )
    revision = watched.revision().model_copy(update={"origin": origin})
    handle = await watched.open(ref, revision)
    await watched.until(handle, is_decided)
    ended = handled.ends(JobKind.ANALYSIS)
    moved = BaseChanged(base="c" * 40, retest_interval=timedelta(days=1))
    await handle.signal(PullRequestWorkflow.base_changed, moved)
    await watched.until(handle, lambda _: bool(watched.script.looked))
    await watched.sleep(timedelta(minutes=1))
    assert handled.ends(JobKind.ANALYSIS) == ended == [("passed", True)]


async def test_every_attempt_is_observed_with_its_outcome(
    watched: World, ref: PullRequestRef, handled: Listening
) -> None:
    failed = Failed(reason=FailureReason.TEST, evidence=Evidence(rule="x"))
    watched.script.steps[BUILD] = [*dns(1), PASSED]
    watched.script.steps[TEST] = [failed]
    handle = await watched.open(ref, watched.revision(keep_open=False))
    await handle.result()
    assert handled.ends(JobKind.BUILD) == [("errored(dns)", False), ("passed", True)]
    assert handled.ends(JobKind.TEST) == [("failed(test)", True)]
    assert handled.ends(JobKind.ANALYSIS) == [("passed", True)]
    assert handled.ends(JobKind.LINT) == [("passed", True)]
    assert {ended.pool for ended in handled.ended} == {"linux-amd64", ORCHESTRATION_POOL}
    assert not any(began.lost_before or began.is_canary for began in handled.began)
    assert len(handled.began) == len(handled.ended)
    assert handled.batches == watched.script.batches


async def test_last_fault_and_a_bug_end_the_job(
    watched: World, ref: PullRequestRef, handled: Listening
) -> None:
    async def bug(_attempt: Attempt) -> Outcome:
        raise ZeroDivisionError

    watched.script.steps[BUILD] = [*(InfrastructureError("x", cause=Cause.GIT) for _ in range(3))]
    watched.script.steps["lint"] = [bug]
    handle = await watched.open(ref, watched.revision())
    await watched.until(handle, lambda now: now.planned and not now.counts.undecided)
    git = "errored(git)"
    assert handled.ends(JobKind.BUILD) == [(git, False), (git, False), (git, True)]
    assert handled.ends(JobKind.LINT) == [("errored(unknown)", True)]


async def test_attempt_after_a_lost_one_reports_the_loss(
    watched: World, ref: PullRequestRef, handled: Listening
) -> None:
    watched.script.steps[BUILD] = [dies("w1"), PASSED]
    handle = await watched.open(ref, watched.revision(heartbeat_timeout=timedelta(seconds=1)))
    await settled(watched, handle)
    builds = [began.lost_before for began in handled.began if began.kind is JobKind.BUILD]
    assert builds == [False, True]
