"""What a build reports of verdicts that were known for its solution."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from temporalio.testing import ActivityEnvironment

from opam_ci.activities.build import BuildActivities
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.facts import PhaseRun
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.messages import JobContext, JobReport, RunJob
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from tests.support.fakes.runners import FakeRunner, facts
from tests.support.samples.known_verdicts import RAN, known_verdict
from tests.support.samples.specs import SPEC

KEY, OTHER = "1" * 32, "2" * 32
PASSED = known_verdict(Passed(evidence=Evidence(rule="installed")))


class Solving(FakeRunner):
    """Finds a solution, and ends there if it is to, with the verdict that is known for it."""

    def __init__(self, *, ends: bool) -> None:
        super().__init__()
        self._ends = ends

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        log.write(b"solved\n")
        progress(BuildProgress(phase=Phase.SOLVE, log_bytes=log.size))
        found = facts(spec).model_copy(update={"verdict_key": KEY})
        if self._ends:
            solve = PhaseRun(phase=Phase.SOLVE, exit_code=0, duration=1, log_start=0, log_end=7)
            ended = {"phases": (solve,), "finished": False, "installed": None}
            found = found.model_copy(update={**ended, "known_verdict": spec.known_verdict(KEY)})
        return BuildReport(facts=found, logs={})


async def report(tmp_path: Path, known: dict[str, KnownVerdict], *, ends: bool) -> JobReport:
    """Runs a job to which some verdicts went."""
    spec = SPEC.model_copy(update={"known_verdicts": known})
    context = JobContext(
        pull_request=PullRequestRef(owner="o", repo="r", number=1),
        head="a" * 40,
        opened_at=datetime(2026, 5, 4, tzinfo=UTC),
        round=1,
        retry=RetrySettings(),
    )
    identity = SimpleNamespace(config=SimpleNamespace(identity="w"))
    environment = ActivityEnvironment(client=SimpleNamespace(service_client=identity))  # type: ignore[arg-type]  # all that is used of it
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    activities = BuildActivities(Solving(ends=ends), store)
    return await environment.run(activities.run_job, RunJob(context=context, spec=spec))


async def test_a_job_that_ends_has_the_verdict_and_is_no_audit(tmp_path: Path) -> None:
    found = await report(tmp_path, {KEY: PASSED}, ends=True)
    assert found.outcome == PASSED.outcome
    assert isinstance(found.outcome, Passed)
    assert found.outcome.evidence.reused == RAN
    assert (found.verdict_key, found.audits) == (KEY, None)


@pytest.mark.parametrize(
    ("known", "audits"), [({KEY: PASSED}, "passed"), ({OTHER: PASSED}, None), ({}, None)]
)
async def test_a_job_that_runs_all_the_same_is_an_audit(
    tmp_path: Path, known: dict[str, KnownVerdict], audits: str | None
) -> None:
    found = await report(tmp_path, known, ends=False)
    assert (found.verdict_key, found.audits) == (KEY, audits)
    assert found.outcome.kind == "passed"
    assert found.outcome != PASSED.outcome
