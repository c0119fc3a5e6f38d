"""The GitHub side of a PullRequestWorkflow: the order of events, and what GitHub is told."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.github import GitHubActivities
    from opam_ci.core.github.check_page import check_run
    from opam_ci.core.github.messages import CHECK_RUN, Look, PostTask, ToPost
    from opam_ci.core.github.model import HEAD_GONE
    from opam_ci.core.github.origin import Known, Report, order
    from opam_ci.core.github.pace import HURRIED, Due, Pace, doubted, due
    from opam_ci.core.github.status import About, Status, statuses
    from opam_ci.core.messages import revision_key
    from opam_ci.core.requests import Revision
    from opam_ci.core.summary import Summary
    from opam_ci.core.workflow_states import AttemptFaulted, PullRequestState
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause


class GitHubSide:
    """Knows what GitHub said last, and sees to it that GitHub is told how things stand.

    A pull request of a local clone has no `Origin`: then all of this does nothing, and no
    activity is started.
    """

    def __init__(self, state: PullRequestState, note: Callable[[str], None]) -> None:
        """Goes on where an earlier run left off.

        Args:
            state: Of the pull request; what GitHub said and was told is kept there.
            note: Takes what GitHub refused for good.
        """
        self._state = state
        self._note = note
        self._pull_request = state.pull_request
        self._wanted: tuple[Status, ...] = ()
        self._pace: Pace = HURRIED
        self._heartbeat_timeout = options.GITHUB_HEARTBEAT_TIMEOUT
        self._doubtful = False
        self._hurried = False
        self._halted = False
        self._ended = False
        self._under_way: ActivityHandle[Any] | None = None

    # What GitHub says.

    def is_news(self, as_of: datetime, head: str | None, *, sure: bool) -> bool:
        """Whether what is said counts: deliveries come in any order, and more than once.

        Where nobody can tell, GitHub is asked, and says it again so that it is sure.

        Args:
            as_of: When it was so, by GitHub's clock.
            head: The head, None for a close.
            sure: Whether GitHub was asked.
        """
        how = order(self._state.known, as_of, head, sure=sure)
        if how == "newer":
            self._state.known = Known(as_of=as_of, head=head)
        elif how == "unclear":
            self._doubtful = True
        return how == "newer"

    def met(self, said: AttemptFaulted) -> None:
        """Takes note of a fault: a head that GitHub no longer has was pushed over."""
        if said.fault.evidence.rule == HEAD_GONE:
            self._doubtful = True

    # What GitHub is told.

    def look(self, summary: Summary, revision: Revision, *, hurried: bool) -> None:
        """Notes what GitHub is to be told from now on.

        Args:
            summary: How the head stands.
            revision: The head.
            hurried: Whether these may be the last words.
        """
        report = revision.origin.report if revision.origin is not None else None
        self._hurried = hurried
        if report is None:
            self._wanted = ()
            return
        self._pace = report.pace
        self._heartbeat_timeout = report.heartbeat_timeout
        self._wanted = _wanted(summary, revision, report)

    def to_post(self, summary: Summary, revision: Revision, opened_at: datetime) -> ToPost:
        """Returns what GitHub is to be told at this moment."""
        report = revision.origin.report if revision.origin is not None else None
        if report is None:
            return ToPost()
        runs = {}
        annotated = None
        if report.check_runs:
            for context in report.contexts:
                runs[CHECK_RUN + context.name] = check_run(
                    summary,
                    context,
                    report.contexts,
                    pull_request=self._pull_request,
                    maximum_attempts=revision.options.retry.maximum_attempts,
                    target_url=report.target_url,
                )
                if context.about is About.LINTER:
                    annotated = CHECK_RUN + context.name
        return ToPost(
            statuses=_wanted(summary, revision, report),
            check_runs=runs,
            posted=self._state.posted,
            pace=HURRIED if self._hurried else report.pace,
            annotated=annotated,
            testing=revision_key(self._pull_request, summary.head, opened_at),
        )

    @property
    def is_behind(self) -> bool:
        """Whether GitHub does not know yet how things stand, or we do not know it of GitHub."""
        return self._doubtful or self._under_way is not None or bool(self._due(HURRIED).post)

    def hurry(self) -> None:
        """Makes what is to be posted go out at once: these may be the last words."""
        self._hurried = True

    def halt(self) -> None:
        """Starts nothing any more, and cancels what is under way: it may wait for long.

        What was cancelled is made up for by the next run, or after `go_on`.
        """
        self._halted = True
        if self._under_way is not None:
            self._under_way.cancel()

    def go_on(self) -> None:
        """Takes a `halt` back."""
        self._halted = False

    def end(self) -> None:
        """Lets `run` come to its end: what is not posted now never is."""
        self._ended = True
        self.halt()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._under_way is None

    async def run(self) -> None:
        """Tells GitHub, and asks it where in doubt, until `end`."""
        while True:
            await workflow.wait_condition(
                lambda: (
                    self._ended or (not self._halted and (self._doubtful or self._has_to_come()))
                )
            )
            if self._ended:
                return
            if self._doubtful:
                self._doubtful = False
                await self._do_look()
            elif self._due(self._current_pace).post:
                await self._do_post()
            else:
                await self._wait()

    @property
    def _current_pace(self) -> Pace:
        return HURRIED if self._hurried else self._pace

    def _due(self, pace: Pace) -> Due:
        return due(self._wanted, self._state.posted, workflow.now(), pace)

    def _has_to_come(self) -> bool:
        found = self._due(self._current_pace)
        return bool(found.post) or found.next_at is not None

    async def _wait(self) -> None:
        next_at = self._due(self._current_pace).next_at
        if next_at is None:
            return
        await pause(
            next_at - workflow.now(),
            until=lambda: (
                self._ended
                or self._halted
                or self._doubtful
                or bool(self._due(self._current_pace).post)
            ),
        )

    async def _do_post(self) -> None:
        done = await self._ask(
            GitHubActivities.post,
            PostTask(pull_request=self._pull_request),
            "statuses to GitHub",
            options.github_activity(self._heartbeat_timeout),
        )
        if done is None:
            self._state.posted = doubted(self._state.posted)
            return
        self._state.posted = dict(done.posted)
        for refusal in done.refused:
            self._note(refusal)

    async def _do_look(self) -> None:
        await self._ask(
            GitHubActivities.look,
            Look(pull_request=self._pull_request),
            "ask GitHub how the pull request is",
            options.github_activity(),
        )

    async def _ask(
        self, method: Any, task: PostTask | Look, summary: str, how: options.WatchedActivity
    ) -> Any:
        """Runs an activity; returns its result, None if it was cancelled."""
        self._under_way = workflow.start_activity_method(
            method,
            task,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=summary,
            **how,
        )
        try:
            return await self._under_way
        except ActivityError as error:
            if not boundary.is_cancelled(error):
                raise
            return None
        finally:
            self._under_way = None


def _wanted(summary: Summary, revision: Revision, report: Report) -> tuple[Status, ...]:
    found = statuses(
        summary,
        contexts=report.contexts,
        maximum_attempts=revision.options.retry.maximum_attempts,
        target_url=report.target_url,
    )
    if not report.check_runs:
        return found
    runs = (status.model_copy(update={"context": CHECK_RUN + status.context}) for status in found)
    return (*found, *runs)
