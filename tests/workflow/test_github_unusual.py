"""Stories of what is rare on GitHub: heads that vanish, news that nobody heard, many jobs."""

import asyncio
import re
from datetime import datetime
from functools import partial

from opam_ci.activities.attempt import Attempt
from opam_ci.core.github.debounce import Debounce
from opam_ci.core.github.messages import Reconciled, ReconcileTask
from opam_ci.core.github.model import HEAD_GONE
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.submission.result import ChangedPackage, ChangeKind
from opam_ci.web.acceptance import Acceptance
from opam_ci.workflows import options
from opam_ci.workflows.delivery import ReconcileWorkflow
from tests.support.fakes.github_bodies import check_run
from tests.support.fakes.github_stage import Stage, policy_for
from tests.support.fakes.world import PASSED
from tests.workflow.conftest import CHECKS

HEADS = [f"{number}" * 40 for number in range(10)]
BUILD = "build debian-13-ocaml-5.3/amd64 a.1"


def gone() -> InfrastructureError:
    evidence = Evidence(rule=HEAD_GONE, detail="GitHub no longer has it")
    return InfrastructureError("gone", cause=Cause.GITHUB, evidence=evidence)


async def reconciled(stage: Stage) -> Reconciled:
    return await stage.client.execute_workflow(
        ReconcileWorkflow.run,
        ReconcileTask(),
        id=f"reconcile/{stage.fake.full_name}",
        task_queue=options.ORCHESTRATION_QUEUE,
    )


async def test_head_that_is_gone_for_good_has_a_clear_end(stage: Stage) -> None:
    stage.script.steps["analysis"] = [gone()] * 3
    await stage.fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "error: Commit not found on GitHub: push again")
    # It says so in every context, and leaves none of them green.
    for context in ("opam-ci / lint", "opam-ci / revdeps"):
        await stage.until_said(HEADS[1], "error: Commit not found on GitHub", context)


async def test_the_successor_of_a_missing_head_is_fetched(stage: Stage) -> None:
    fake = stage.fake
    stage.script.steps["analysis"] = [gone()]
    with stage.unheard():
        await fake.open(1, HEADS[1])
        fake.advance(seconds=1)
        await fake.push(1, HEADS[2])
    opened = fake.deliveries[0]
    fake.deliveries.clear()
    fake.deliveries.append(opened)
    await fake.redeliver(opened["id"])
    await stage.until_said(HEADS[2], "success: 2 passed; analysis and lint passed")
    assert all("pending" in words for words in stage.words(HEADS[1]))


async def test_draft_that_became_ready_during_an_outage_is_found(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1], draft=True)
    await stage.until_said(HEADS[1], "success")
    started = len(stage.script.started)
    fake.advance(seconds=1)
    with stage.unheard():
        await fake.ready(1)
    # No delivery is left that could be repeated.
    fake.deliveries.clear()
    found = await reconciled(stage)
    assert (found.missed, found.looked_at, found.redelivered) == ((), (), 0)
    await stage.until(lambda: len(stage.script.started) == 2 * started)
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    # Said once more, it is nothing new.
    await reconciled(stage)
    fake.advance(seconds=1)
    await fake.close(1)
    await stage.ended(1)
    assert len(stage.script.started) == 2 * started


async def test_a_day_without_anybody_is_caught_up_with(stage: Stage) -> None:
    fake = stage.fake
    for number in (1, 2):
        await fake.open(number, HEADS[number])
        await stage.until_said(HEADS[number], "success: 2 passed; analysis and lint passed")
    fake.advance(seconds=1)
    with stage.unheard():
        await fake.push(1, HEADS[3])
        await fake.close(2, merged=True)
        await fake.open(4, HEADS[4])
        fake.advance(seconds=1)
        await fake.push(4, HEADS[5])
        await fake.open(6, HEADS[6])
        await fake.close(6)
    lost = len([each for each in fake.deliveries if each["status_code"] == 0])
    found = await reconciled(stage)
    assert (found.missed, found.looked_at, found.redelivered) == ((1, 4), (2,), lost)
    await stage.until_said(HEADS[3], "success: 2 passed; analysis and lint passed")
    await stage.until_said(HEADS[5], "success: 2 passed; analysis and lint passed")
    await stage.ended(2)
    await stage.until(lambda: not stage.words(HEADS[6]) or "closed" in stage.last(HEADS[6]))
    assert stage.words(HEADS[4]) == []


async def test_new_installation_is_caught_up_with(stage: Stage) -> None:
    fake = stage.fake
    with stage.unheard():
        await fake.open(1, HEADS[1])
    fake.deliveries.clear()
    await fake.emit("installation", {"action": "created", "installation": {}}, "maintainer")
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")


async def test_githubs_own_rerun_restarts_what_failed(stage: Stage) -> None:
    fake = stage.fake
    broken = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x", detail="type error"))
    stage.script.steps[BUILD] = [broken, PASSED]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "failure: 1 failed")

    def runs() -> list[str | None]:
        return [
            run.wanted.get("conclusion")
            for run in fake.runs.values()
            if run.wanted["name"] == "opam-ci"
        ]

    await stage.until(lambda: runs() == ["failure"])
    run = next(run for run in fake.runs.values() if run.wanted["name"] == "opam-ci")
    said = {"action": "rerequested", "check_run": check_run(fake.full_name, run, fake.app())}
    await fake.emit("check_run", said, "maintainer")
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    await stage.until(lambda: runs()[-1] == "success")


async def take(seconds: float, _attempt: Attempt) -> Outcome:
    await asyncio.sleep(seconds)
    return PASSED


async def test_many_jobs_are_few_statuses_in_order(stage: Stage) -> None:
    fake = stage.fake
    # The debounce of real life.
    policy = policy_for(checks=CHECKS, debounce=Debounce())
    stage.webhook.accept = Acceptance(stage.pull_requests, policy, clock=fake.clock).accept
    packages = [f"p{number}.1" for number in range(100)]
    for number, package in enumerate(packages):
        # One after the other, over some seconds.
        step = partial(take, number / 20)
        stage.script.steps[f"build debian-13-ocaml-5.3/amd64 {package}"] = [step]
    stage.script.analysis = stage.script.analysis.model_copy(
        update={
            "packages": tuple(
                ChangedPackage(package=package, kind=ChangeKind.NEW_RELEASE, has_tests=True)
                for package in packages
            )
        }
    )
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success: 200 passed")
    said = fake.statuses[HEADS[1], "opam-ci"]
    first, last = (datetime.fromisoformat(said[at]["created_at"]) for at in (0, -1))
    # The first, the verdict, and on a machine that is slow one each half a minute.
    assert len(said) <= 2 + (last - first) / Debounce().interval
    done = [
        int(found[1])
        for each in said
        if (found := re.match(r"(\d+)/\d+ done", each["description"]))
    ]
    assert done == sorted(done)
    assert [each["state"] for each in said] == ["pending"] * (len(said) - 1) + ["success"]
