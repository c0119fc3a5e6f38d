"""The GitHub side of a PullRequestWorkflow: order of events, and posting of statuses."""

from collections import deque
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
    from opam_ci.core.github.debounce import UNDELAYED, Debounce, Due, doubted, due, reconsidered
    from opam_ci.core.github.messages import DeliveryResult, FetchTask, PostContent, PostTask
    from opam_ci.core.github.model import HEAD_GONE
    from opam_ci.core.github.ordering import LatestEvent, compare_events
    from opam_ci.core.github.posting_options import PostingOptions
    from opam_ci.core.github.refusal import Refusal
    from opam_ci.core.github.status import About, Channel, Status, statuses
    from opam_ci.core.jobs.messages import revision_key
    from opam_ci.core.jobs.signals import AttemptFaulted
    from opam_ci.core.jobs.summary import Summary
    from opam_ci.workflows import options
    from opam_ci.workflows.pause import pause
    from opam_ci.workflows.states import PullRequestState, TestingState

_SUPERSEDED_KEPT = 10
"""Heads pushed in a row, while GitHub does not answer, whose final statuses are still posted."""


class GitHubPosting:
    """Orders the events of a pull request on GitHub, and posts its statuses.

    For a pull request of a local clone, which has no `Origin`, it starts no activity.
    """

    def __init__(self, state: PullRequestState, note: Callable[[str], None]) -> None:
        """Continues where an earlier run ended.

        Args:
            state: Of the pull request; the latest event and what was posted are kept there.
            note: Receives repeated refusals of GitHub.
        """
        self._state = state
        self._note = note
        self._pull_request = state.pull_request
        self._wanted: tuple[Status, ...] = ()
        self._posting = PostingOptions()
        self._superseded: deque[PostContent] = deque(maxlen=_SUPERSEDED_KEPT)
        self._fetch_at: datetime | None = None
        self._fetch_refusal: Refusal | None = None
        self._hurried = False
        self._paused = False
        self._ended = False
        self._under_way: ActivityHandle[Any] | None = None

    # Events from GitHub.

    def is_newer(self, as_of: datetime, head: str | None, *, authoritative: bool) -> bool:
        """Whether an event is newer than what is known.

        If that is unclear, GitHub is queried, and an authoritative event follows.

        Args:
            as_of: Time of the event, by GitHub's clock.
            head: The head, None for a close.
            authoritative: Whether GitHub's API confirmed it.
        """
        how = compare_events(self._state.latest_event, as_of, head, authoritative=authoritative)
        if how == "newer":
            self._state.latest_event = LatestEvent(as_of=as_of, head=head)
        elif how == "unclear":
            self.resync()
        return how == "newer"

    def resync(self) -> None:
        """Queries GitHub for the pull request: what is known of it is unclear."""
        self._fetch_at = workflow.now()

    def head_confirmed(self) -> None:
        """Notes that GitHub named the head again: it may accept the statuses that it refused."""
        if any(last.refusal is not None for last in self._state.posted.values()):
            self._state.posted = reconsidered(self._state.posted, workflow.now())

    def attempt_faulted(self, event: AttemptFaulted) -> None:
        """Queries GitHub if it no longer has the head: probably a newer one was pushed."""
        if event.fault.evidence.rule == HEAD_GONE:
            self.resync()

    # Statuses on GitHub.

    def update(self, summary: Summary, testing: TestingState, *, hurried: bool) -> None:
        """Notes the statuses that GitHub should have from now on.

        Args:
            summary: State of the head.
            testing: The head, and how its results are posted.
            hurried: Whether these may be the final statuses.
        """
        self._hurried = hurried
        self._posting = testing.posting or PostingOptions()
        self._wanted = _wanted(summary, testing)

    def superseded(self, summary: Summary, testing: TestingState) -> None:
        """Notes the final statuses of a head: they are posted before those of the next one.

        Without them GitHub would show for good what was under way when the next one was pushed.
        They are lost only if the workflow continues as new at this moment.
        """
        # In older histories they were not posted.
        if testing.posting is not None and workflow.patched("statuses of superseded heads"):
            content = self._content(summary, testing)
            self._superseded.append(content.model_copy(update={"debounce": UNDELAYED}))
            self._drop_superseded()

    def to_post(self, summary: Summary, testing: TestingState) -> PostContent:
        """Returns the statuses and check runs that GitHub should have at this moment."""
        if self._superseded:
            return self._superseded[0].model_copy(update={"posted": self._state.posted})
        return self._content(summary, testing)

    def _content(self, summary: Summary, testing: TestingState) -> PostContent:
        posting = testing.posting
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
                    maximum_attempts=testing.revision.options.retry.maximum_attempts,
                    target_url=posting.target_url,
                )
                if context.about is About.LINTER:
                    annotated = context.name
        return PostContent(
            statuses=_wanted(summary, testing),
            check_runs=runs,
            posted=self._state.posted,
            debounce=UNDELAYED if self._hurried else posting.debounce,
            annotated=annotated,
            testing=revision_key(self._pull_request, summary.head, testing.opened_at),
        )

    @property
    def is_behind(self) -> bool:
        """Whether a status is still to be posted, or the state on GitHub is unclear."""
        return self._under_way is not None or self._next_at(UNDELAYED) is not None

    def hurry(self) -> None:
        """Posts without debounce from now on: these may be the final statuses."""
        self._hurried = True

    def pause(self) -> None:
        """Starts no activity, and cancels the one under way, which may be waiting for GitHub.

        It is repeated by the next run, or after `resume`.
        """
        self._paused = True
        if self._under_way is not None:
            self._under_way.cancel()

    def resume(self) -> None:
        """Starts activities again after `pause`."""
        self._paused = False

    def end(self) -> None:
        """Ends `run`: statuses that are not posted yet never are."""
        self._ended = True
        self.pause()

    @property
    def is_idle(self) -> bool:
        """Whether no activity is under way."""
        return self._under_way is None

    async def run(self) -> None:
        """Posts statuses, and queries GitHub where events are unclear, until `end`."""
        while True:
            self._drop_superseded()
            await workflow.wait_condition(
                lambda: self._ended or (not self._paused and self._next_at() is not None)
            )
            if self._ended:
                return
            if self._is_fetch_due():
                self._fetch_at = None
                await self._do_fetch()
            elif self._due(self._current_debounce).post:
                await self._do_post()
            else:
                await self._wait()

    @property
    def _current_debounce(self) -> Debounce:
        return UNDELAYED if self._hurried else self._posting.debounce

    def _due(self, debounce: Debounce) -> Due:
        wanted = self._wanted
        if self._superseded:
            wanted, debounce = self._superseded[0].statuses, UNDELAYED
        return due(wanted, self._state.posted, workflow.now(), debounce)

    def _drop_superseded(self) -> None:
        """Drops superseded heads of which GitHub has nothing, or all that it accepts now."""
        # An activity under way may be posting something of it.
        while self._superseded and self._under_way is None and not self._is_outdated():
            self._superseded.popleft()

    def _is_outdated(self) -> bool:
        """Whether GitHub has statuses of the first superseded head, and not its final ones."""
        heads = {each.sha for each in self._superseded[0].statuses}
        has_some = any(last.status.sha in heads for last in self._state.posted.values())
        return has_some and bool(self._due(UNDELAYED).post)

    def _is_fetch_due(self) -> bool:
        return self._fetch_at is not None and self._fetch_at <= workflow.now()

    def _next_at(self, debounce: Debounce | None = None) -> datetime | None:
        """Returns when the next activity is due, None for never."""
        found = self._due(debounce or self._current_debounce)
        next_at = workflow.now() if found.post else found.next_at
        return min(filter(None, (next_at, self._fetch_at)), default=None)

    async def _wait(self) -> None:
        next_at = self._next_at()
        if next_at is None:
            return
        await pause(
            next_at - workflow.now(),
            until=lambda: (
                self._ended
                or self._paused
                or self._is_fetch_due()
                or bool(self._due(self._current_debounce).post)
            ),
        )

    async def _do_post(self) -> None:
        done = await self._execute(
            GitHubActivities.post,
            PostTask(pull_request=self._pull_request),
            "statuses to GitHub",
            options.github_activity(self._posting.heartbeat_timeout),
        )
        if done is None:
            self._state.posted = doubted(self._state.posted)
            return
        self._state.posted = dict(done.posted)
        for refusal in done.refused:
            self._note(refusal)

    async def _do_fetch(self) -> None:
        done: DeliveryResult | None = await self._execute(
            GitHubActivities.look,
            FetchTask(pull_request=self._pull_request, refusal=self._fetch_refusal),
            "fetch the pull request from GitHub",
            options.github_activity(),
        )
        if done is None:
            return
        self._fetch_refusal = done.refusal
        if done.again_at is not None:
            self._fetch_at = min(filter(None, (done.again_at, self._fetch_at)))

    async def _execute(
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


def _wanted(summary: Summary, testing: TestingState) -> tuple[Status, ...]:
    posting = testing.posting
    if posting is None:
        return ()
    found = statuses(
        summary,
        contexts=posting.contexts,
        maximum_attempts=testing.revision.options.retry.maximum_attempts,
        target_url=posting.target_url,
    )
    if not posting.check_runs:
        return found
    runs = (status.model_copy(update={"channel": Channel.CHECK_RUN}) for status in found)
    return (*found, *runs)
