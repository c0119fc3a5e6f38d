"""CanaryWorkflow: builds one good and one bad package in a pool, by its queue, like any job."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.build import BuildActivities
    from opam_ci.activities.canary import CanaryActivities, CanaryResult
    from opam_ci.core.jobs.build import BuildSpec, RepositoryRef
    from opam_ci.core.jobs.job import Job, JobKind
    from opam_ci.core.jobs.messages import JobContext, RunJob
    from opam_ci.core.jobs.outcome import Outcome
    from opam_ci.core.platforms.model import Platform
    from opam_ci.core.workers import canary
    from opam_ci.core.workers.health import Finding
    from opam_ci.workflows import options

_PACKAGES = (canary.GOOD, canary.BAD)


@workflow.defn
class CanaryWorkflow:
    """Tests whether a pool can tell a good package from a bad one."""

    @workflow.run
    async def run(self, platform: Platform) -> CanaryResult:
        """Builds both packages once and reports what is wrong with the pool, if anything.

        Args:
            platform: Platform to build on; its pool is tested.
        """
        started_at = workflow.now()
        try:
            repository = await workflow.execute_activity_method(
                CanaryActivities.export_canary,
                platform,
                task_queue=options.ORCHESTRATION_QUEUE,
                start_to_close_timeout=options.RECORD_TIMEOUT,
                schedule_to_close_timeout=options.CANARY_TIMEOUT,
                retry_policy=options.CANARY_EXPORT_RETRY,
                priority=options.CANARY_PRIORITY,
                summary="the canary's repository into the store",
            )
        except ActivityError as error:
            findings = [canary.finding(canary.GOOD, boundary.outcome_without_report(error))]
        else:
            findings = list(
                await asyncio.gather(
                    *(self._build(package, platform, repository) for package in _PACKAGES)
                )
            )
        result = CanaryResult(
            pool=platform.pool,
            finding=next((each for each in findings if each is not None), None),
            started_at=started_at,
            ended_at=workflow.now(),
        )
        await workflow.execute_activity_method(
            CanaryActivities.report_canary,
            result,
            task_queue=options.ORCHESTRATION_QUEUE,
            start_to_close_timeout=options.RECORD_TIMEOUT,
            schedule_to_close_timeout=options.CANARY_TIMEOUT,
            summary="make the result known",
        )
        return result

    async def _build(
        self, package: str, platform: Platform, repository: RepositoryRef
    ) -> Finding | None:
        job = Job(platform=platform.name, package=package, kind=JobKind.BUILD)
        outcome: Outcome
        try:
            report = await workflow.execute_activity_method(
                BuildActivities.run_job,
                RunJob(
                    context=JobContext(
                        pull_request=canary.reference(platform.pool),
                        head=repository.base_commit,
                        opened_at=workflow.now(),
                        round=1,
                        retry=options.CANARY_RETRY,
                        notify=False,
                    ),
                    spec=BuildSpec(job=job, platform=platform, repository=repository),
                ),
                activity_id=job.id,
                task_queue=options.build_queue(platform.pool),
                schedule_to_close_timeout=options.CANARY_TIMEOUT,
                heartbeat_timeout=options.CANARY_HEARTBEAT_TIMEOUT,
                retry_policy=options.job_retry(options.CANARY_RETRY),
                priority=options.CANARY_PRIORITY,
                summary=job.title,
            )
            outcome = report.outcome
        except ActivityError as error:
            if boundary.is_cancelled(error):
                raise
            found = boundary.report_in(error.cause)
            outcome = found.outcome if found else boundary.outcome_without_report(error)
        return canary.finding(package, outcome)
