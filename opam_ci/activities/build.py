"""The build activity: a job's spec in, a judged report out."""

from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime

from temporalio import activity

from opam_ci.activities.attempt import Attempt, run_attempt
from opam_ci.clients.judge import judged
from opam_ci.clients.judge.judging import judge
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.runners.base import Runner
from opam_ci.clients.runners.cache.failures import FailureStore
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.build import BuildProgress, RevdepList, listing_key
from opam_ci.core.jobs.messages import JobReport, Listing, RunJob
from opam_ci.core.jobs.outcome import Outcome, SeenIn
from opam_ci.core.jobs.records import log_key
from opam_ci.core.text.status import verdict_line


class BuildActivities:
    """Activities of a build worker, which needs only a runner and the store.

    Args:
        runner: The runner of the worker's pool.
        store: For logs.
        slots: One for each job that the machine runs at once, in all of its pools; by default
            any number.
        failures: Where dependencies are remembered that fail; None for nowhere.
    """

    def __init__(
        self,
        runner: Runner,
        store: ArtifactStore,
        slots: AbstractAsyncContextManager[object] = nullcontext(),  # noqa: B008  has no state
        failures: FailureStore | None = None,
    ) -> None:
        self._runner = runner
        self._store = store
        self._slots = slots
        self._failures = failures

    @activity.defn
    async def run_job(self, task: RunJob) -> JobReport:
        """Runs one job in isolation and judges its report.

        Raises:
            ApplicationError: See `run_attempt`.
        """
        listing: Listing | None = None

        async def work(attempt: Attempt) -> Outcome:
            nonlocal listing
            attempt.log = log_key(
                task.context.revision,
                task.spec.job,
                run=activity.info().workflow_run_id or "",
                round_=task.context.round,
                attempt=attempt.number,
            )

            def progress(now: BuildProgress) -> None:
                attempt.progress(now.phase, now.log_bytes, now.note)

            async with self._slots, LogWriter(self._store, attempt.log) as log:
                spec = task.spec.model_copy(update={"job": task.spec.job.plain})
                report = await self._runner.run(spec, log, progress)
                attempt.cpu_seconds = report.facts.host.cpu_seconds
                attempt.sources = report.sources
                environment = report.facts.environment
                attempt.image = None if environment is None else environment.fingerprint
                attempt.verdict_key = report.facts.verdict_key
                known = spec.known_verdict(attempt.verdict_key)
                if known is not None and report.facts.known_verdict is None:
                    attempt.audits = known.label
                facts = report.facts.model_copy(
                    update={"limit_reached_on": attempt.limit_reached_on}
                )
                outcome = await judge(
                    facts, report.logs, worker=attempt.worker, attempt=attempt.number
                )
                log.write(verdict_line(outcome).encode())
                judged.keep(log, Judged(facts=facts, outcome=outcome))
            seen = SeenIn(
                **task.context.revision.model_dump(),
                job=task.spec.job,
                round=task.context.round,
                attempt=attempt.number,
                ended_at=datetime.now(UTC),
            )
            if self._failures is not None:
                await self._failures.learn(report.failed_alone, outcome, seen)
            if report.listing is not None:
                listing = await self._store_listing(report.listing, listing_key(attempt.log))
            return outcome

        done = await run_attempt(task.context, task.spec.job.id, work)
        return done.model_copy(update={"listing": listing}) if listing is not None else done

    async def _store_listing(self, found: RevdepList, key: str) -> Listing:
        await self._store.put(key, found.model_dump_json().encode())
        return Listing(
            key=key,
            revdeps=len(found.revdeps),
            tested=sum(revdep.has_tests for revdep in found.revdeps),
            flagged=len(found.flagged),
        )
