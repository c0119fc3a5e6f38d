"""BaseBranchWorkflow: the base branch of a repository on GitHub, and who follows its moves."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.github import GitHubActivities
    from opam_ci.core.github.messages import BaseMoved, FollowBase
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause
    from opam_ci.workflows.states import BaseBranchState


@workflow.defn
class BaseBranchWorkflow:
    """Notifies the workflows of open pull requests of moves of the base; never ends.

    Moves within an interval are one, and so are those that come while it notifies: a branch to
    which dozens of commits are pushed in a day costs each pull request a merge for each interval at
    most.

    Signals: `moved`.
    """

    @workflow.init
    def __init__(self, state: BaseBranchState) -> None:
        self._state = state

    @workflow.run
    async def run(self, state: BaseBranchState) -> None:
        """Waits for moves, and has them followed."""
        del state  # `__init__` has it.
        while True:
            await workflow.wait_condition(lambda: self._state.moved is not None)
            if self._state.moved is not None:
                await pause(self._state.moved.interval, until=lambda: False)
            self._state.moved = None
            self._state.followed = await workflow.execute_activity_method(
                GitHubActivities.follow_base,
                FollowBase(followed=self._state.followed),
                summary="notify open pull requests of the moved base",
                **options.reconcile_activity(),
            )
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(self._state)

    @workflow.signal
    def moved(self, message: BaseMoved | None = None) -> None:
        """The base has moved, or may have."""
        self._state.moved = message
