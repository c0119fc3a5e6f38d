"""DeliveryWorkflow and ReconcileWorkflow: what is asked of the CI as a whole."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.github import GitHubActivities
    from opam_ci.core.github.messages import Carried, Delivered, Reconciled, ReconcileTask
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause


@workflow.defn
class DeliveryWorkflow:
    """Carries out what a delivery asks for and what needs GitHub's word first.

    Its id is the delivery's, so that a redelivery does nothing twice.
    """

    @workflow.run
    async def run(self, given: Delivered) -> Carried:
        """Carries an action out, and looks at it again where that is asked for.

        Args:
            given: What the delivery asks for.

        Returns:
            What was done last.
        """
        while True:
            done = await workflow.execute_activity_method(
                GitHubActivities.carry_out,
                given,
                summary=given.action.kind,
                **options.github_activity(),
            )
            if done.again_at is None:
                return done
            await pause(done.again_at - workflow.now(), until=lambda: False)


@workflow.defn
class ReconcileWorkflow:
    """Makes up for what webhooks did not say: run at the start and on a schedule."""

    @workflow.run
    async def run(self, given: ReconcileTask) -> Reconciled:
        """Compares GitHub with the workflows.

        Args:
            given: How far back.

        Returns:
            What was found.
        """
        return await workflow.execute_activity_method(
            GitHubActivities.reconcile,
            given,
            summary="compare GitHub with the workflows",
            **options.reconcile_activity(),
        )
