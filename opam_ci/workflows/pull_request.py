"""PullRequestWorkflow: one pull request, from its first head until it is closed."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.github.messages import ToPost
    from opam_ci.core.github.ordering import ClosedAs
    from opam_ci.core.github.posting_options import PostingOptions
    from opam_ci.core.incidents.restarts import has_budget
    from opam_ci.core.messages import opened_at
    from opam_ci.core.outcome import CancelledBy
    from opam_ci.core.plan import ANALYSIS
    from opam_ci.core.recording import batch_of
    from opam_ci.core.records import RevisionKey
    from opam_ci.core.requests import Revision
    from opam_ci.core.selector import (
        CancelUpdate,
        JobSelector,
        RestartSelector,
        RestartUpdate,
        Taken,
    )
    from opam_ci.core.signals import AttemptFaulted, AttemptStarted, PlatformProgress
    from opam_ci.core.summary import Counts, JobStatus, State, Summary
    from opam_ci.core.text import markdown_matrix, problems
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records
    from opam_ci.workflows.github import GitHubSide
    from opam_ci.workflows.pause import came_true, pause, see_through
    from opam_ci.workflows.states import PullRequestState, TestingState
    from opam_ci.workflows.testing import Testing

_NOTICES_KEPT = 20

M = TypeVar("M", bound=BaseModel)


@dataclass
class _Order:
    """Something that is asked of the testing, one after the other.

    Attributes:
        what: What.
        selector: Which jobs.
        preview: Whether only to say what it would take.
        answer: What it took, once it is done.
    """

    what: Literal["restart", "cancel", "recount"]
    selector: JobSelector = JobSelector()  # noqa: RUF009  frozen
    preview: bool = False
    answer: Taken | None = None


class _Next(NamedTuple):
    """A head that waits for the one before it to stop."""

    revision: Revision
    posting: PostingOptions | None


@workflow.defn
class PullRequestWorkflow:
    """Tests every head of one pull request; a new head supersedes the one before.

    Signals: `head_changed`, `restart`, `cancel`, `closed`; `recount` from whoever changed the
    index. Updates: `restart_jobs` and `cancel_jobs`, which answer what they took. Query:
    `summary`; `to_post` for the activity that tells GitHub.
    """

    @workflow.init
    def __init__(self, state: PullRequestState) -> None:
        self._state = state
        self._records = Records()
        self._testing: Testing | None = None
        if state.testing is not None:
            self._testing = self._new_testing(state.testing)
        self._github = GitHubSide(state, self._note)
        self._next: _Next | None = None
        self._orders: deque[_Order] = deque()
        self._cancel_asked = False
        self._closed = False
        self._stale = True
        self._finished = False

    @workflow.run
    async def run(self, state: PullRequestState) -> Counts:
        """Runs until the pull request is closed, or, for a one-off check, decided.

        Args:
            state: Which pull request, and what an earlier run knew.

        Returns:
            The counts of the last head.
        """
        del state  # `__init__` has it.
        if self._testing is not None and not self._testing.state.planned:
            # The run before this one ended between two heads.
            self._testing.begin()
        reporter = asyncio.create_task(self._report_changes())
        writer = asyncio.create_task(self._records.run())
        github = asyncio.create_task(self._github.run())
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._serve()
        except asyncio.CancelledError as error:
            # `temporal workflow cancel`: stop the builds, write that down, and end.
            await asyncio.shield(self._stop("request"))
            cancelled = error
        # Not in a `finally`: after a bug of ours nothing more may happen in this task.
        self._finished = True
        for order in self._orders:
            order.answer = Taken(refusal="the pull request was closed before it was done")
        cancelled = await see_through(reporter) or cancelled
        self._records.end()
        cancelled = await see_through(writer) or cancelled
        last_words = asyncio.create_task(self._say_last_words())
        cancelled = await see_through(last_words) or cancelled
        self._github.end()
        cancelled = await see_through(github) or cancelled
        await workflow.wait_condition(workflow.all_handlers_finished)
        if cancelled is not None:
            raise cancelled
        return self.summary().counts

    @workflow.signal
    def head_changed(self, revision: Any = None, posting: Any = None) -> None:
        """A new head is to be tested; the same head again only if the revision says so.

        Args:
            revision: A Revision as JSON.
            posting: PostingOptions as JSON, None where nothing is posted to GitHub.
        """
        new = self._parsed("head_changed", Revision, revision)
        options_given = posting is not None
        how = self._parsed("head_changed", PostingOptions, posting) if options_given else None
        if new is None or (options_given and how is None):
            return
        origin = new.origin
        if origin and not self._github.is_newer(
            origin.as_of, new.head, authoritative=origin.authoritative
        ):
            return
        # What was asked about the head before is overtaken; so is a close by a reopen.
        self._cancel_asked = self._closed = False
        tested = self._testing.revision if self._testing is not None else None
        if self._next is None and tested is not None and not new.is_more_than(tested):
            # A redelivered webhook, or a poll that sees what it saw before.
            return
        self._next = _Next(new, how)

    @workflow.signal
    def restart(self, selector: Any = None) -> None:
        """Starts decided jobs again: those the CI itself lost, unless told otherwise.

        Args:
            selector: A RestartSelector as JSON, such as `{"which": "failed"}`; nothing
                selects all errored jobs. Taken as it comes, since it is typed by hand.
        """
        said = self._parsed("restart", RestartSelector, selector or {})
        if said is not None:
            self._orders.append(_Order("restart", said))

    @workflow.signal
    def cancel(self, selector: Any = None) -> None:
        """Stops jobs under way; the pull request stays open and can be restarted.

        Args:
            selector: A JobSelector as JSON; nothing selects all jobs.
        """
        said = self._parsed("cancel", JobSelector, selector or {})
        if said == JobSelector():
            # At once: what was asked before is overtaken by it.
            self._cancel_asked = True
        elif said is not None:
            self._orders.append(_Order("cancel", said))

    @workflow.signal
    def recount(self, testing: RevisionKey | None = None) -> None:
        """The index was changed by others: verdicts of a testing were judged again."""
        if self._testing is not None and testing in {None, self._testing.key}:
            self._orders.append(_Order("recount"))

    @workflow.signal
    def closed(self, said: Any = None) -> None:
        """The pull request was closed or merged: stop, and end.

        Args:
            said: A ClosedAs as JSON; nothing for a close that nothing can have overtaken.
        """
        as_of = None if said is None else self._parsed("closed", ClosedAs, said)
        if said is not None and as_of is None:
            return
        if as_of and not self._github.is_newer(
            as_of.as_of, None, authoritative=as_of.authoritative
        ):
            return
        self._closed = True
        self._next = None

    @workflow.update
    async def restart_jobs(self, given: Any = None) -> Taken:
        """Does what `restart` does, and answers what it took.

        Args:
            given: A RestartUpdate as JSON.
        """
        said = self._parsed("restart", RestartUpdate, given or {})
        if said is None:
            return Taken(refusal=self._state.notices[-1])
        return await self._order(_Order("restart", said.selector, said.preview))

    @workflow.update
    async def cancel_jobs(self, given: Any = None) -> Taken:
        """Does what `cancel` does, and answers what it took.

        Args:
            given: A CancelUpdate as JSON.
        """
        said = self._parsed("cancel", CancelUpdate, given or {})
        if said is None:
            return Taken(refusal=self._state.notices[-1])
        return await self._order(_Order("cancel", said.selector, said.preview))

    @workflow.signal
    def platform_progress(self, said: PlatformProgress | None = None) -> None:
        """A PlatformWorkflow tells of its jobs."""
        if self._testing is not None and said is not None:
            self._testing.progress(said)

    @workflow.signal
    def attempt_faulted(self, said: AttemptFaulted | None = None) -> None:
        """An attempt of the analysis met an infrastructure fault."""
        if self._testing is not None and said is not None:
            self._testing.attempts.attempt_faulted(said)
            self._github.met(said)

    @workflow.signal
    def attempt_started(self, said: AttemptStarted | None = None) -> None:
        """A further attempt of the analysis has begun."""
        if self._testing is not None and said is not None:
            self._testing.attempts.attempt_started(said)

    @workflow.query
    def summary(self) -> Summary:
        """Returns the state of the current head."""
        testing, notices = self._testing, tuple(self._state.notices)
        if testing is None:
            return Summary(
                pull_request=self._state.pull_request.title, head="", base="", notices=notices
            )
        standings = tuple(testing.standings)
        return Summary(
            pull_request=self._state.pull_request.title,
            head=testing.revision.head,
            base=testing.revision.base,
            request=testing.revision.request,
            planned=testing.state.planned,
            concluded=testing.state.concluded,
            packages=testing.state.packages,
            tallies=tuple(each for standing in standings for each in standing.counts),
            jobs=tuple(row for standing in standings for row in standing.shown),
            notices=(*testing.state.notices, *notices),
            updated_at=workflow.now(),
        )

    @workflow.query
    def to_post(self) -> ToPost:
        """Returns what GitHub is to be told at this moment."""
        testing = self._testing
        if testing is None:
            return ToPost()
        return self._github.to_post(self.summary(), testing.state)

    async def _serve(self) -> None:
        while await self._something_to_do():
            if self._testing is not None:
                self._testing.tasks.check()
            if self._next is not None:
                await self._take_next()
            if self._cancel_asked:
                self._cancel_asked = False
                await self._stop("request")
            while self._orders and not self._is_called_away():
                await self._carry_out(self._orders[0])
                self._orders.popleft()
            if self._testing is not None and self._testing.needs_conclusion:
                await self._testing.conclude()
            if self._closed:
                await self._stop("closed")
                await workflow.wait_condition(lambda: not self._is_changed() or not self._closed)
                await self._say_last_words(lambda: not self._closed)
                if self._closed:
                    return
            if self._may_continue_as_new():
                await self._continue_as_new()

    async def _say_last_words(self, until: Callable[[], bool] = lambda: False) -> None:
        """Waits until GitHub knows how things ended, as long as that is worth it."""
        self._github.hurry()
        if self._github.is_behind:
            await pause(
                options.POSTING_PATIENCE, until=lambda: until() or not self._github.is_behind
            )

    async def _something_to_do(self) -> bool:
        """Waits; returns False when a one-off check has nothing left to wait for."""
        testing = self._testing
        parked = self._is_parked()
        watch = options.ORPHAN_CHECK_INTERVAL if testing and testing.has_adopted else None
        limit = options.PARKED_TIMEOUT if parked else watch
        if not await came_true(
            lambda: (
                self._is_called()
                or self._is_over()
                or self._may_continue_as_new()
                or self._is_parked() != parked
            ),
            limit=limit,
        ):
            if parked:
                return False
            if self._testing is not None:
                await self._testing.look_for_adopted()
        return self._is_called() or not self._is_over()

    def _is_called(self) -> bool:
        testing = self._testing
        return bool(
            self._is_called_away()
            or (testing is not None and testing.tasks.crash is not None)
            or (testing is not None and testing.needs_conclusion)
            or self._orders
        )

    def _is_called_away(self) -> bool:
        """Whether something came that makes all else pointless."""
        return self._closed or self._cancel_asked or self._next is not None

    def _is_decided_once(self) -> bool:
        testing = self._testing
        return (
            testing is not None
            and not testing.revision.options.keep_open
            and testing.is_idle
            and testing.state.concluded
        )

    def _is_over(self) -> bool:
        """Whether a one-off check is decided, written down, and a restart could mend nothing."""
        return self._is_decided_once() and not self._is_parked() and not self._is_changed()

    def _is_parked(self) -> bool:
        testing = self._testing
        return self._is_decided_once() and testing is not None and testing.is_restartable

    def _new_testing(self, state: TestingState) -> Testing:
        self._state.testing = state
        return Testing(self._state.pull_request, state, self._records, self._is_called_away)

    async def _take_next(self) -> None:
        if self._next is None:
            return
        (revision, posting), self._next = self._next, None
        testing = self._testing
        if testing is not None and not revision.is_more_than(testing.revision):
            # Pushed away and back before anybody had looked: what was given up is taken up again.
            if testing.is_given_up:
                testing.begin()
            self._orders.append(_Order("recount"))
            return
        if testing is not None:
            await self._stop("superseded")
            self._state.notices.clear()
            for order in self._orders:
                order.answer = Taken(refusal="a newer head came before it was done")
            self._orders.clear()
        before = testing.state.opened_at if testing is not None else None
        self._testing = self._new_testing(
            TestingState(
                revision=revision,
                posting=posting,
                opened_at=opened_at(workflow.now(), before),
                analysis=JobStatus(job=ANALYSIS),
            )
        )
        self._stale = True
        if testing is not None and workflow.info().is_continue_as_new_suggested():
            await self._continue_as_new()
        self._testing.begin()

    async def _order(self, order: _Order) -> Taken:
        self._orders.append(order)
        await workflow.wait_condition(lambda: order.answer is not None)
        return order.answer or Taken()

    async def _carry_out(self, order: _Order) -> None:
        order.answer = await self._answer(order)
        if order.answer.refusal is not None and not order.preview:
            self._note(f"{order.what}: {order.answer.refusal}")

    async def _answer(self, order: _Order) -> Taken:
        testing, selector = self._testing, order.selector
        if testing is None:
            return Taken(refusal="no head was tested yet")
        head = testing.revision.head
        if selector.head is not None and not head.startswith(selector.head):
            return Taken(
                refusal=f"head {selector.head} is superseded by {head[:12]}; nothing was done"
            )
        match order.what:
            case "recount":
                await testing.recount()
                return Taken()
            case "cancel":
                return await testing.cancel(selector, preview=order.preview)
            case "restart":
                if not isinstance(selector, RestartSelector):
                    raise TypeError("a restart has a restart's selector")
                if not has_budget(selector.asker, testing.state.automatic):
                    return Taken(
                        refusal="too many jobs were restarted without anybody asking; what is "
                        "errored now waits for somebody to do so"
                    )
                return await testing.restart(selector, preview=order.preview)

    def _parsed(self, what: str, model: type[M], given: Any) -> M | None:
        try:
            return model.model_validate(given)
        except ValidationError as error:
            self._note(f"{what} refused: {problems(error)}")
            return None

    async def _stop(self, by: CancelledBy) -> None:
        if self._testing is not None:
            await self._testing.stop(by)
            self._collect()

    def _note(self, text: str) -> None:
        self._state.notices.append(text)
        del self._state.notices[:-_NOTICES_KEPT]
        self._stale = True

    def _may_continue_as_new(self) -> bool:
        return (
            workflow.info().is_continue_as_new_suggested()
            and self._testing is not None
            and self._testing.only_children_run
            and workflow.all_handlers_finished()
            and not self._is_called()
        )

    async def _continue_as_new(self) -> None:
        """Goes on in a new run with a short history, once everything is written down."""
        self._collect()
        self._github.halt()
        await workflow.wait_condition(
            lambda: (
                self._is_called()
                or (
                    self._github.is_idle
                    and not self._is_changed()
                    and workflow.all_handlers_finished()
                )
            )
        )
        if self._is_called():
            self._github.go_on()
            # What was just asked would be lost; the next quiet moment will do as well.
            return
        workflow.continue_as_new(self._state)

    def _collect(self) -> None:
        """Has what changed written down, and notes what GitHub is to be told."""
        testing = self._testing
        if testing is None or not (testing.is_dirty or self._stale):
            return
        self._stale = testing.is_changed = False
        rows = testing.take_analysis()
        summary = self.summary()
        self._github.update(summary, testing.state, hurried=self._closed)
        self._state.sequence += 1
        self._records.add(
            batch_of(
                testing.key,
                summary,
                rows,
                sequence=self._state.sequence,
                merge_tree=testing.state.merge_tree,
                is_open=not self._closed,
            )
        )

    def _is_stale(self) -> bool:
        return self._testing is not None and (self._stale or self._testing.is_dirty)

    def _is_changed(self) -> bool:
        """Whether something is not written down yet."""
        return self._is_stale() or not self._records.is_empty

    def _is_hurried(self) -> bool:
        return self._finished or self._closed or self._is_decided_once()

    async def _report_changes(self) -> None:
        """Shows what changed and has it written down, collected over a while."""
        while not self._finished or self._is_stale():
            await workflow.wait_condition(lambda: self._finished or self._is_stale())
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=self._is_hurried)
            self._collect()
            self._show()

    def _show(self) -> None:
        """Makes the state visible in the Web UI, and findable by search attributes."""
        summary, ref = self.summary(), self._state.pull_request
        workflow.set_current_details(markdown_matrix(summary))
        retrying = summary.counts.retrying and summary.state is State.PENDING
        workflow.upsert_search_attributes(
            [
                options.CI_REPO.value_set(f"{ref.owner}/{ref.repo}"),
                options.CI_PULL_REQUEST.value_set(ref.slug),
                options.CI_STATE.value_set("retrying" if retrying else summary.state.value),
                options.CI_CAUSES.value_set([cause.value for cause in summary.causes]),
                options.CI_HEAD.value_set(summary.head),
            ]
        )
