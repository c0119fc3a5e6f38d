"""DeliveryWorkflow and ReconcileWorkflow: deliveries that need GitHub, and reconciliation."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.github import GitHubActivities
    from opam_ci.core.github.messages import DeliveryResult, DeliveryTask, Reconciled, ReconcileTask
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause


@workflow.defn
class DeliveryWorkflow:
    """Executes the action of a delivery that needs requests to GitHub.

    Its id is the delivery's, so that a redelivery does nothing twice.
    """

    @workflow.run
    async def run(self, delivered: DeliveryTask) -> DeliveryResult:
        """Executes an action, and repeats it if its result demands that.

        Returns:
            The last result.
        """
        while True:
            done = await workflow.execute_activity_method(
                GitHubActivities.carry_out,
                delivered,
                summary=delivered.action.kind,
                **options.github_activity(),
            )
            if done.again_at is None:
                return done
            delivered = delivered.model_copy(update={"refusal": done.refusal})
            await pause(done.again_at - workflow.now(), until=lambda: False)


@workflow.defn
class ReconcileWorkflow:
    """Resyncs with GitHub to recover missed webhooks: at the start and on a schedule."""

    @workflow.run
    async def run(self, task: ReconcileTask) -> Reconciled:
        """Compares GitHub with the workflows."""
        return await workflow.execute_activity_method(
            GitHubActivities.reconcile,
            task,
            summary="compare GitHub with the workflows",
            **options.reconcile_activity(),
        )
