"""RetentionWorkflow: deletes what nothing needs any more, once a night."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.retention import RetentionActivities
    from opam_ci.clients.retention import Pruned
    from opam_ci.workflows import options


@workflow.defn
class RetentionWorkflow:
    """Deletes old rows and objects: `opam-ci prune` by a schedule."""

    @workflow.run
    async def run(self, days: int) -> Pruned:
        """Deletes what has not changed in so many days."""
        return await workflow.execute_activity_method(
            RetentionActivities.prune,
            days,
            task_queue=options.ORCHESTRATION_QUEUE,
            start_to_close_timeout=options.PRUNE_TIMEOUT,
            heartbeat_timeout=options.PRUNE_HEARTBEAT_TIMEOUT,
            schedule_to_close_timeout=options.PRUNE_INTERVAL,
            retry_policy=options.RECORD_RETRY,
            priority=options.PRUNE_PRIORITY,
            summary=f"delete what has not changed in {days} days",
        )
