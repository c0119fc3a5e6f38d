"""Stories of one pull request."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from opam_ci.activities.attempt import Attempt
from opam_ci.core.incidents import restarts
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Outcome, label
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import RestartOrigin, RestartSelector, RestartWhich
from opam_ci.core.jobs.signals import PlatformProgress
from opam_ci.core.jobs.summary import SHOWN_ROWS, Counts, PlatformStanding, State, Summary
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.reuse.settled import Audits
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import (
    HEAD_1,
    HEAD_2,
    PASSED,
    Script,
    World,
    for_ever,
    is_decided,
    passes_after,
    workers,
)

BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
TEST = "test debian-13-ocaml-5.3/amd64 a.1"


def dns(times: int) -> list[InfrastructureError]:
    return [InfrastructureError("no such host", cause=Cause.DNS) for _ in range(times)]


def broken(reason: FailureReason = FailureReason.BUILD) -> Failed:
    return Failed(reason=reason, evidence=Evidence(rule="compile-error", detail="type error"))


async def test_all_passes_and_the_one_off_check_ends(world: World, ref: PullRequestRef) -> None:
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    summary = await world.summary(handle)
    assert summary.state is State.SUCCESS
    assert [label(row.outcome) for row in summary.jobs if row.outcome] == ["passed"] * 4
    assert {row.job.kind for row in summary.jobs} == {"analysis", "lint", "build", "test"}
    written = {record.job.id for record in world.script.attempts}
    assert written == {row.job.id for row in summary.jobs}


async def test_fault_is_retried_and_recovers(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [*dns(1), PASSED]
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    summary = await world.summary(handle)
    row = world.row(summary, BUILD)
    assert summary.state is State.SUCCESS
    assert row.attempt == 2
    assert [fault.cause for fault in row.faults] == [Cause.DNS]
    attempts = {
        (record.number, record.outcome.kind)
        for record in world.script.attempts
        if record.job.id == BUILD and record.outcome is not None
    }
    assert attempts == {(1, "errored"), (2, "passed")}


async def test_exhausted_retries_are_an_error_and_a_signal_restarts(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = list(dns(3))
    handle = await world.open(ref, world.revision())
    summary = await world.until(handle, is_decided)
    assert summary.state is State.ERROR
    assert summary.causes == (Cause.DNS,)
    assert world.row(summary, BUILD).attempt == 3
    assert label(world.row(summary, TEST).outcome or PASSED) == "errored(dns)"
    await handle.signal("restart")
    summary = await world.until(handle, lambda now: is_decided(now) and now.state != State.ERROR)
    assert summary.state is State.SUCCESS
    assert [row.round for row in summary.jobs] == [1, 1, 2, 2]
    assert (BUILD, 2, 1) in world.script.started


async def test_automatic_restarts_have_a_budget(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "PULL_REQUEST_BUDGET", 86)
    world.script.steps[BUILD] = list(dns(100))
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    restart_budget_used = RestartSelector(origin=RestartOrigin.INCIDENT)

    async def after_restart(round_: int, selector: RestartSelector) -> list[int]:
        await handle.signal("restart", selector)
        summary = await world.until(
            handle, lambda now: is_decided(now) and world.row(now, BUILD).round == round_
        )
        return [world.row(summary, job).restart_budget_used for job in (BUILD, TEST)]

    # The test goes with its build each time: two jobs.
    assert await after_restart(2, restart_budget_used) == [20, 20]
    assert await after_restart(3, RestartSelector(origin=RestartOrigin.TRIAL)) == [23, 23]
    assert await after_restart(4, restart_budget_used) == [43, 43]
    await handle.signal("restart", restart_budget_used)
    summary = await world.until(handle, lambda now: bool(now.notices))
    assert "automatic restart limit reached: restart the errored jobs with" in summary.notices[0]
    # Somebody asks, as it is typed by hand: all begins anew.
    assert await after_restart(5, RestartSelector()) == [0, 0]
    assert await after_restart(6, restart_budget_used) == [20, 20]
    # Also by way of the analysis.
    assert await after_restart(7, RestartSelector(which=RestartWhich.ALL)) == [0, 0]


async def test_package_failure_is_final(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [broken()]
    handle = await world.open(ref, world.revision())
    summary = await world.until(handle, is_decided)
    assert summary.state is State.FAILURE
    assert label(world.row(summary, BUILD).outcome or PASSED) == "failed(build)"
    assert label(world.row(summary, TEST).outcome or PASSED) == "skipped(not_built)"
    assert world.script.started.count((BUILD, 1, 1)) == 1
    # A restart of what the CI lost must not touch it.
    await handle.signal("restart")
    summary = await world.until(handle, lambda now: bool(now.notices))
    assert "job that matches" in summary.notices[-1]
    assert summary.state is State.FAILURE
    # Asked for by name it runs again, with the test that only followed from it.
    await handle.signal("restart", {"which": "failed"})
    summary = await world.until(handle, lambda now: is_decided(now) and now.state != State.FAILURE)
    assert summary.state is State.SUCCESS


async def test_refused_change_is_the_submissions_failure(world: World, ref: PullRequestRef) -> None:
    world.script.steps["analysis"] = [
        SubmissionError(
            "Cannot merge",
            reason=FailureReason.MERGE_CONFLICT,
            evidence=Evidence(rule="merge", detail="Cannot merge to master - please rebase!"),
        )
    ]
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    summary = await world.summary(handle)
    assert summary.state is State.FAILURE
    assert [label(row.outcome) for row in summary.jobs if row.outcome] == ["failed(merge_conflict)"]


async def test_a_bug_of_ours_is_an_error_and_is_not_retried(
    world: World, ref: PullRequestRef
) -> None:
    async def bug(attempt: Attempt) -> Outcome:
        raise ZeroDivisionError(attempt.number)

    world.script.steps["lint"] = [bug]
    handle = await world.open(ref, world.revision())
    summary = await world.until(handle, is_decided)
    assert summary.state is State.ERROR
    assert world.script.started.count(("lint", 1, 1)) == 1
    assert ("lint", 1, 2) not in world.script.started


async def test_new_head_supersedes_and_old_builds_stop(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [for_ever]
    # Not lost on a machine that stands still for some seconds.
    revision = world.revision(HEAD_1, heartbeat_timeout=timedelta(minutes=1))
    handle = await world.open(ref, revision)
    await world.until(handle, lambda now: bool(world.script.started[2:]) and now.planned)
    with world.env.auto_time_skipping_disabled():
        await asyncio.sleep(1.5)
    await handle.signal("head_changed", world.revision(HEAD_2))
    summary = await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
    assert summary.state is State.SUCCESS
    assert world.script.cancelled == [BUILD]
    ended = [
        label(record.status.outcome)
        for record in world.script.jobs
        if (record.revision.branch, record.revision.head) == (ref.branch, HEAD_1)
        and record.status.job.id == BUILD
        and record.status.outcome is not None
    ]
    assert ended == ["cancelled(superseded)"]


async def test_same_head_again_changes_nothing(world: World, ref: PullRequestRef) -> None:
    handle = await world.open(ref, world.revision(HEAD_1))
    await world.until(handle, is_decided)
    started = list(world.script.started)
    await handle.signal("head_changed", world.revision(HEAD_1))
    await world.env.sleep(timedelta(seconds=5))
    await world.until(handle, is_decided)
    assert world.script.started == started
    # Asked for by name, the same head is tested anew.
    await handle.signal("head_changed", world.revision(HEAD_1).model_copy(update={"again": True}))
    await world.until(handle, lambda now: is_decided(now) and world.script.started != started)


async def test_cancel_overtakes_nothing_and_is_not_overtaken(
    world: World, ref: PullRequestRef
) -> None:
    async def short(attempt: Attempt) -> Outcome:
        del attempt
        await asyncio.sleep(0.7)
        return PASSED

    world.script.steps["analysis"] = [short]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: bool(world.script.started), skip=timedelta(0))
    await handle.signal("cancel")
    summary = await settled(world, handle)
    with world.env.auto_time_skipping_disabled():
        await asyncio.sleep(1)
    assert summary.counts.cancelled or summary.counts.passed == 1
    assert {job for job, _, _ in world.script.started} == {"analysis"}


async def test_signals_without_input_do_no_harm(world: World, ref: PullRequestRef) -> None:
    handle = await world.open(ref, world.revision())
    for signal in ("head_changed", "platform_progress", "attempt_faulted", "attempt_started"):
        await handle.signal(signal)
    summary = await world.until(handle, is_decided)
    assert summary.state is State.SUCCESS
    assert summary.notices[0].startswith("invalid head_changed")


async def test_restart_of_everything_twice_runs_everything_once(
    world: World, ref: PullRequestRef
) -> None:
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    for _ in range(2):
        await handle.signal("restart", {"which": "all"})
    await world.until(
        handle, lambda now: is_decided(now) and all(row.round == 2 for row in now.jobs)
    )
    assert sorted(world.script.started) == sorted(
        (job, round_, 1) for job in ("analysis", "lint", BUILD, TEST) for round_ in (1, 2)
    )


@pytest.mark.parametrize(
    "builds",
    [
        {"audited_percent": 0},
        {"audited_percent": 100},
        {"reuse_verdicts": False, "audited_percent": 0},
    ],
)
async def test_what_is_known_to_fail_is_built_by_request_or_as_an_audit(
    world: World, ref: PullRequestRef, builds: dict[str, Any]
) -> None:
    handle = await world.open(ref, world.revision(**builds))
    await world.until(handle, is_decided)
    await handle.signal("restart", {"which": "all"})
    await world.until(
        handle, lambda now: is_decided(now) and all(row.round == 2 for row in now.jobs)
    )
    found = [(to.round, spec.builds_known_failures) for to, spec in world.script.specs]
    assert set(found) == {(1, builds != {"audited_percent": 0}), (2, True)}


KEY = "1" * 32


async def solved(attempt: Attempt) -> Outcome:
    """Passes with a solution that is known."""
    attempt.image = "image"
    attempt.verdict_key = KEY
    return PASSED


async def audited(attempt: Attempt) -> Outcome:
    """The same for one that is compared with the verdict that it could have."""
    attempt.audits = "passed"
    return await solved(attempt)


@pytest.mark.parametrize("reuses", [True, False])
async def test_verdicts_of_the_same_solution_go_with_the_job_unless_it_is_restarted(
    world: World, ref: PullRequestRef, *, reuses: bool
) -> None:
    script = world.script
    script.steps[BUILD] = [solved, audited, solved]
    script.reach = Reachable(plain={"a": "1"}, tested={}, dependents={})
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    # Something within reach has changed.
    script.reach = Reachable(plain={"a": "2"}, tested={}, dependents={})
    await handle.signal("head_changed", world.revision(HEAD_2, reuse_verdicts=reuses))
    await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
    await handle.signal("restart", {"which": "all"})
    await world.until(
        handle, lambda now: is_decided(now) and all(row.round == 2 for row in now.jobs)
    )
    found = [(spec.job.id, spec.known_verdicts) for _, spec in script.specs]
    known = [verdicts for job, verdicts in found if job == BUILD]
    assert [verdicts.keys() for verdicts in known] == [set(), {KEY} if reuses else set(), set()]
    if reuses:
        ran = known[1][KEY].outcome.evidence.reused
        assert ran is not None
        assert (ran.head, ran.job) == (HEAD_1, script.specs[0][1].job)
    assert not any(verdicts for job, verdicts in found if job == TEST)


async def test_what_an_audit_was_compared_with_is_recorded(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [audited]
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    page = world.script.index.ops_page(datetime.now(UTC))
    assert page.quality.audits == Audits(compared=1)


class SuggestedRun:
    """Suggests to a run that it continue as new, from some event of its history on.

    A replay gets the same answers: a flag that a test sets would be another history.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._run: tuple[str | None, int] | None = None

        def is_suggested(info: workflow.Info) -> bool:
            if self._run is None:
                return False
            run_id, length = self._run
            return info.run_id == run_id and info.get_current_history_length() > length

        monkeypatch.setattr("temporalio.workflow.Info.is_continue_as_new_suggested", is_suggested)

    async def begin(self, handle: WorkflowHandle[Any, Any]) -> str | None:
        """Suggests it from the next event on; returns the id of the run."""
        described = await handle.describe()
        self._run = (described.run_id, described.history_length)
        return described.run_id


async def test_continues_as_new_and_loses_nothing(
    real_client: Client, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run continues as new while a build runs: it goes on, and so do signals.

    On a real server: that of simulated time hands no task to the worker any more if a signal
    arrives while a run continues as new.
    """
    suggested = SuggestedRun(monkeypatch)
    released = asyncio.Event()

    script = Script()
    script.steps[BUILD] = [passes_after(released)]
    world = World(WorkflowEnvironment.from_client(real_client), script)
    async with workers(real_client, script):
        handle = await world.open(ref, world.revision())
        await world.until(handle, lambda _: (BUILD, 1, 1) in script.started)
        first = await suggested.begin(handle)
        await handle.signal("restart", {"which": "failed"})
        for _ in range(400):
            if (await handle.describe()).run_id != first:
                break
            await asyncio.sleep(0.1)
        assert (await handle.describe()).run_id != first
        released.set()
        summary = await settled(world, handle)
        assert summary.state is State.SUCCESS
        assert [job for job, _, _ in script.started].count("analysis") == 1
        await handle.signal("head_changed", world.revision(HEAD_2))
        summary = await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
        assert summary.state is State.SUCCESS


async def test_more_jobs_than_a_payload_holds_plainly(
    real_client: Client, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers are carried over, and the first of their rows."""
    suggested = SuggestedRun(monkeypatch)
    script = Script()
    script.analysis = Analysis(
        packages=tuple(
            ChangedPackage(package=f"p{number}.1", kind=ChangeKind.NEW_RELEASE, has_tests=False)
            for number in range(4500)
        ),
        merge_tree="e" * 40,
    )
    world = World(WorkflowEnvironment.from_client(real_client), script)
    async with workers(real_client, script):
        handle = await world.open(ref, world.revision(lint_only=True))
        before = await world.until(handle, is_decided)
        first = await suggested.begin(handle)
        await handle.signal("restart", {"which": "failed"})
        for _ in range(300):
            if (await handle.describe()).run_id != first:
                break
            await asyncio.sleep(0.1)
        assert (await handle.describe()).run_id != first
        after = await world.summary(handle)
        assert after.counts == before.counts == Counts(passed=4501)
        assert len(after.jobs) == 1 + SHOWN_ROWS


async def test_cancel_stops_and_restart_brings_back(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [for_ever]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: (BUILD, 1, 1) in world.script.started)
    with world.env.auto_time_skipping_disabled():
        await asyncio.sleep(1.5)
    await handle.signal("cancel")
    summary = await world.until(handle, is_decided)
    assert label(world.row(summary, BUILD).outcome or PASSED) == "cancelled(request)"
    assert world.script.cancelled == [BUILD]
    await handle.signal("restart")
    summary = await world.until(handle, lambda now: now.state is State.SUCCESS)
    assert world.row(summary, BUILD).round == 2


async def test_closed_stops_and_ends(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [for_ever]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: (BUILD, 1, 1) in world.script.started)
    await handle.signal("closed")
    await handle.result()
    summary = await world.summary(handle)
    assert label(world.row(summary, BUILD).outcome or PASSED) == "cancelled(closed)"


async def test_hostile_signals_are_refused_with_a_reason(world: World, ref: PullRequestRef) -> None:
    handle = await world.open(ref, world.revision())
    await handle.signal("restart", {"which": "everything", "colour": "red"})
    await handle.signal("head_changed", {"head": "; rm -rf /"})
    summary = await world.until(handle, lambda now: is_decided(now) and len(now.notices) == 2)
    assert summary.state is State.SUCCESS
    assert summary.notices[0].startswith("invalid restart: which:")
    assert summary.notices[1].startswith("invalid head_changed: head:")


async def test_retry_that_waits_is_hurried_by_restart(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [*dns(1), PASSED]
    slow = {"initial_interval": "PT50M", "maximum_interval": "PT50M", "maximum_attempts": 3}
    handle = await world.open(ref, world.revision(retry=slow))
    with world.env.auto_time_skipping_disabled():
        for _ in range(100):
            summary = await world.summary(handle)
            if summary.counts.retrying:
                break
            await asyncio.sleep(0.1)
        assert summary.causes == (Cause.DNS,)
        assert summary.state is State.PENDING
        await handle.signal("restart")
        for _ in range(100):
            summary = await world.summary(handle)
            if is_decided(summary):
                break
            await asyncio.sleep(0.1)
    assert summary.state is State.SUCCESS
    assert world.row(summary, BUILD).round == 2


async def test_a_plan_waits_for_an_index_that_is_away(world: World, ref: PullRequestRef) -> None:
    world.script.index.is_down = True
    handle = await world.open(ref, world.revision(keep_open=False))
    with world.env.auto_time_skipping_disabled():
        for _ in range(100):
            if ("analysis", 1, 1) in world.script.started:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        summary = await world.summary(handle)
        assert summary.state is State.PENDING
        assert not summary.planned
        assert not world.script.batches
    world.script.index.is_down = False
    await handle.result()
    summary = await world.summary(handle)
    assert summary.state is State.SUCCESS
    assert len(world.script.started) == 4
    assert {record.status.job.id for record in world.script.jobs} == {
        row.job.id for row in summary.jobs
    }


def dies(worker: str, *, alone: bool = False) -> Callable[[Attempt], Awaitable[Outcome]]:
    """Returns a step in which the worker of that name goes silent in mid-build."""

    async def silent(attempt: Attempt) -> Outcome:
        attempt.worker = worker
        attempt.progress(Phase.BUILD, 100)
        last = attempt.state().model_copy(update={"alone": alone})
        attempt.state = lambda fault=None: last  # type: ignore[method-assign]  # noqa: ARG005  its own name
        attempt.heartbeat()
        attempt.heartbeat = lambda fault=None: None  # type: ignore[method-assign]  # noqa: ARG005  its own name
        return await for_ever(attempt)

    return silent


async def settled(world: World, handle: WorkflowHandle[PullRequestWorkflow, object]) -> Summary:
    """Waits in real time, since heartbeat time-outs are not skipped over."""
    with world.env.auto_time_skipping_disabled():
        for _ in range(200):
            summary = await world.summary(handle)
            if is_decided(summary):
                return summary
            await asyncio.sleep(0.1)
    raise AssertionError(summary.model_dump_json(indent=1))


async def test_lost_worker_is_recorded_and_the_job_retried(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [dies("w1"), PASSED]
    handle = await world.open(ref, world.revision(heartbeat_timeout=timedelta(seconds=1)))
    summary = await settled(world, handle)
    assert summary.state is State.SUCCESS
    row = world.row(summary, BUILD)
    assert [(f.attempt, f.cause, f.worker) for f in row.faults] == [(1, Cause.WORKER_LOST, "w1")]
    assert row.faults[0].evidence.phase is Phase.BUILD
    assert row.attempt == 2
    # The rest of the pull request is untouched.
    assert [job.attempt for job in summary.jobs if job.job.id != BUILD] == [1, 1, 1]
    await handle.signal("closed")
    await handle.result()
    lost = [
        record
        for record in world.script.attempts
        if record.number == 1 and record.job.id == BUILD and record.outcome is not None
    ]
    assert {label(record.outcome) for record in lost if record.outcome} == {"errored(worker_lost)"}


async def test_job_that_takes_down_two_workers_is_the_jobs_failure(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [dies("w1"), dies("w2", alone=True), for_ever]
    handle = await world.open(ref, world.revision(heartbeat_timeout=timedelta(seconds=1)))
    summary = await settled(world, handle)
    assert summary.state is State.FAILURE
    outcome = world.row(summary, BUILD).outcome
    assert outcome is not None
    assert label(outcome) == "failed(kills_worker)"
    assert outcome.kind == "failed"
    assert outcome.evidence.detail == "the job took down 2 workers: w1, w2"


async def test_job_that_is_lost_in_company_only_is_not_blamed(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [dies("w1", alone=True), dies("w2"), dies("w3")]
    handle = await world.open(ref, world.revision(heartbeat_timeout=timedelta(seconds=1)))
    summary = await settled(world, handle)
    assert summary.state is State.ERROR
    assert summary.causes == (Cause.WORKER_LOST,)
    assert [fault.alone for fault in world.row(summary, BUILD).faults] == [True, False, False]


async def test_losing_one_worker_again_and_again_is_an_error(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [dies("w1"), dies("w1"), dies("w1")]
    handle = await world.open(ref, world.revision(heartbeat_timeout=timedelta(seconds=1)))
    summary = await settled(world, handle)
    assert summary.state is State.ERROR
    assert summary.causes == (Cause.WORKER_LOST,)
    assert len(world.row(summary, BUILD).faults) == 3


async def test_a_platform_is_over_once_it_has_handled_every_signal(
    world: World, ref: PullRequestRef
) -> None:
    """It may say that it is done before it hears that it is to look at the index again."""
    released = asyncio.Event()

    world.script.steps[BUILD] = [passes_after(released)]
    handle = await world.open(ref, world.revision(keep_open=False))
    await world.until(handle, lambda _: (BUILD, 1, 1) in world.script.started)
    [revision] = world.script.index.real.revisions().items
    await handle.signal("recount", revision.key)
    told = set[str]()
    while not any("debian" in each for each in told):
        history = await handle.fetch_history()
        handled = [
            event.external_workflow_execution_signaled_event_attributes.workflow_execution
            for event in history.events
        ]
        told = {each.workflow_id for each in handled}
        await asyncio.sleep(0.05)
    said = PlatformProgress(
        key=revision.key,
        workflow_id=next(each for each in told if "debian" in each),
        standing=PlatformStanding(platform="debian-13-ocaml-5.3/amd64"),
        done=True,
    )
    await handle.signal(PullRequestWorkflow.platform_progress, said)
    released.set()
    assert await handle.result() == Counts(passed=4)
