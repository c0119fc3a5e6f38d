"""HealthWorkflow: begins a check of the base itself, once a night."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.github import GitHubActivities
    from opam_ci.workflows import options


@workflow.defn
class HealthWorkflow:
    """Has the base's most needed packages built: a PullRequestWorkflow without a pull request."""

    @workflow.run
    async def run(self) -> str:
        """Begins the check; returns the commit that is checked."""
        return await workflow.execute_activity_method(
            GitHubActivities.check_base,
            summary="check the base itself",
            **options.health_activity(),
        )
