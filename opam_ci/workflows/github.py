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
    from opam_ci.core.github.debounce import UNDELAYED, Debounce, Due, doubted, due
    from opam_ci.core.github.messages import FetchTask, PostContent, PostTask
    from opam_ci.core.github.model import HEAD_GONE
    from opam_ci.core.github.ordering import LatestEvent, compare_events
    from opam_ci.core.github.posting_options import PostingOptions
    from opam_ci.core.github.status import About, Channel, Status, statuses
    from opam_ci.core.jobs.messages import revision_key
    from opam_ci.core.jobs.requests import Revision
    from opam_ci.core.jobs.signals import AttemptFaulted
    from opam_ci.core.jobs.summary import Summary
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause
    from opam_ci.workflows.states import PullRequestState, TestingState


class GitHubPosting:
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
        self._pace: Debounce = UNDELAYED
        self._heartbeat_timeout = options.GITHUB_HEARTBEAT_TIMEOUT
        self._doubtful = False
        self._hurried = False
        self._halted = False
        self._ended = False
        self._under_way: ActivityHandle[Any] | None = None

    # What GitHub says.

    def is_newer(self, as_of: datetime, head: str | None, *, authoritative: bool) -> bool:
        """Whether an event is newer than what is known.

        Where that is unclear, GitHub is asked, and an authoritative event follows.

        Args:
            as_of: Time of the event, by GitHub's clock.
            head: The head, None for a close.
            authoritative: Whether GitHub's API confirmed it.
        """
        how = compare_events(self._state.latest_event, as_of, head, authoritative=authoritative)
        if how == "newer":
            self._state.latest_event = LatestEvent(as_of=as_of, head=head)
        elif how == "unclear":
            self._doubtful = True
        return how == "newer"

    def met(self, said: AttemptFaulted) -> None:
        """Takes note of a fault: a head that GitHub no longer has was pushed over."""
        if said.fault.evidence.rule == HEAD_GONE:
            self._doubtful = True

    # What GitHub is told.

    def update(self, summary: Summary, testing: TestingState, *, hurried: bool) -> None:
        """Notes the statuses that GitHub should have from now on.

        Args:
            summary: State of the head.
            testing: The head, and how its results are posted.
            hurried: Whether these may be the final statuses.
        """
        self._hurried = hurried
        posting = testing.posting
        if posting is None:
            self._wanted = ()
            return
        self._pace = posting.pace
        self._heartbeat_timeout = posting.heartbeat_timeout
        self._wanted = _wanted(summary, testing.revision, posting)

    def to_post(self, summary: Summary, testing: TestingState) -> PostContent:
        """Returns the statuses and check runs that GitHub should have at this moment."""
        posting, revision = testing.posting, testing.revision
        if posting is None:
            return PostContent()
        runs = {}
        annotated = None
        if posting.check_runs:
            for context in posting.contexts:
                runs[context.name] = check_run(
                    summary,
                    context,
                    posting.contexts,
                    pull_request=self._pull_request,
                    maximum_attempts=revision.options.retry.maximum_attempts,
                    target_url=posting.target_url,
                )
                if context.about is About.LINTER:
                    annotated = context.name
        return PostContent(
            statuses=_wanted(summary, revision, posting),
            check_runs=runs,
            posted=self._state.posted,
            pace=UNDELAYED if self._hurried else posting.pace,
            annotated=annotated,
            testing=revision_key(self._pull_request, summary.head, testing.opened_at),
        )

    @property
    def is_behind(self) -> bool:
        """Whether GitHub does not know yet how things stand, or we do not know it of GitHub."""
        return self._doubtful or self._under_way is not None or bool(self._due(UNDELAYED).post)

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
    def _current_pace(self) -> Debounce:
        return UNDELAYED if self._hurried else self._pace

    def _due(self, pace: Debounce) -> Due:
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
            FetchTask(pull_request=self._pull_request),
            "ask GitHub how the pull request is",
            options.github_activity(),
        )

    async def _ask(
        self, method: Any, task: PostTask | FetchTask, summary: str, how: options.WatchedActivity
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


def _wanted(summary: Summary, revision: Revision, posting: PostingOptions) -> tuple[Status, ...]:
    found = statuses(
        summary,
        contexts=posting.contexts,
        maximum_attempts=revision.options.retry.maximum_attempts,
        target_url=posting.target_url,
    )
    if not posting.check_runs:
        return found
    runs = (status.model_copy(update={"channel": Channel.CHECK_RUN}) for status in found)
    return (*found, *runs)
