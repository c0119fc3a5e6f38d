"""PullRequestWorkflow: one pull request, from its first head until it is closed."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.github.messages import PostContent
    from opam_ci.core.github.ordering import ClosedAs
    from opam_ci.core.github.posting_options import PostingOptions
    from opam_ci.core.incidents.restarts import has_budget
    from opam_ci.core.jobs.hold import Approval, next_restart
    from opam_ci.core.jobs.messages import opened_at
    from opam_ci.core.jobs.moved_base import BaseChanged, difference, is_tested_again
    from opam_ci.core.jobs.outcome import CancelledBy, Passed
    from opam_ci.core.jobs.plan import ANALYSIS
    from opam_ci.core.jobs.records import Recorded, RevisionKey, RevisionRecord, RowBatch
    from opam_ci.core.jobs.requests import Revision
    from opam_ci.core.jobs.selector import (
        CancelUpdate,
        JobSelector,
        RestartOrigin,
        RestartSelector,
        RestartUpdate,
        Taken,
    )
    from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted, PlatformProgress
    from opam_ci.core.jobs.summary import Counts, JobStatus, State, Summary
    from opam_ci.core.text.status import markdown_matrix, problems
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records
    from opam_ci.workflows.github import GitHubPosting
    from opam_ci.workflows.pause import finish, pause, wait_for
    from opam_ci.workflows.states import PullRequestState, TestingState
    from opam_ci.workflows.testing import Testing

_NOTICES_KEPT = 20
_AUTHOR_RESTARTS_KEPT = 1000
"""More than any limit for an hour."""

M = TypeVar("M", bound=BaseModel)


@dataclass
class _Request:
    """A request to change the testing; requests are executed one after the other.

    Attributes:
        kind: The change.
        selector: Which jobs.
        preview: Whether only to return what it would take.
        result: What it took, once it is done.
    """

    kind: Literal["restart", "cancel", "recount", "approve"]
    selector: JobSelector = JobSelector()  # noqa: RUF009  frozen
    preview: bool = False
    result: Taken | None = None


class _Next(NamedTuple):
    """A head that waits for the one before it to stop."""

    revision: Revision
    posting: PostingOptions | None


@workflow.defn
class PullRequestWorkflow:
    """Tests every head of one pull request; a new head supersedes the one before.

    Signals: `head_changed`, `restart`, `cancel`, `approve`, `closed`; `resync` to fetch the pull
    request from GitHub; `recount` after a change of the index by others; `base_changed` after a
    move of the base. Updates: `restart_jobs` and `cancel_jobs`, which return what they took.
    Queries: `summary`; `to_post` for the activity that posts statuses.
    """

    @workflow.init
    def __init__(self, state: PullRequestState) -> None:
        self._state = state
        self._records = Records(self._written_down)
        self._testing: Testing | None = None
        if state.testing is not None:
            self._testing = self._new_testing(state.testing)
        self._github = GitHubPosting(state, self._note)
        self._next: _Next | None = None
        self._requests: deque[_Request] = deque()
        self._is_cancel_requested = False
        self._closed = False
        self._stale = True
        self._finished = False

    @workflow.run
    async def run(self, state: PullRequestState) -> Counts:
        """Runs until the pull request is closed, or, for a one-off check, decided.

        Args:
            state: The pull request, with the state of the previous run.

        Returns:
            The counts of the last head.
        """
        del state  # `__init__` has it.
        if self._testing is not None and not self._testing.state.planned:
            # The previous run ended between two heads.
            self._testing.begin()
        reporter = asyncio.create_task(self._report_changes())
        writer = asyncio.create_task(self._records.run())
        github = asyncio.create_task(self._github.run())
        cancelled: asyncio.CancelledError | None = None
        try:
            await self._serve()
        except asyncio.CancelledError as error:
            # `temporal workflow cancel`: stop the builds, record that, and end.
            await asyncio.shield(self._stop("request"))
            cancelled = error
        # Not in a `finally`: after a bug nothing more may happen in this task.
        self._finished = True
        self._reject_requests("the pull request was closed before it was done")
        cancelled = await finish(reporter) or cancelled
        self._records.end()
        cancelled = await finish(writer) or cancelled
        flushed = asyncio.create_task(self._flush_github_statuses())
        cancelled = await finish(flushed) or cancelled
        self._github.end()
        cancelled = await finish(github) or cancelled
        await workflow.wait_condition(workflow.all_handlers_finished)
        if cancelled is not None:
            raise cancelled
        return self.summary().counts

    @workflow.signal
    def head_changed(self, revision: Any = None, posting: Any = None) -> None:
        """A new head is to be tested; the same head again only with `again`.

        Args:
            revision: A Revision as JSON.
            posting: PostingOptions as JSON, None where nothing is posted to GitHub.
        """
        new = self._parsed("head_changed", Revision, revision)
        how = None if posting is None else self._parsed("head_changed", PostingOptions, posting)
        if new is None or (posting is not None and how is None):
            return
        origin = new.origin
        if origin and not self._github.is_newer(
            origin.as_of, new.head, authoritative=origin.authoritative
        ):
            return
        # Supersedes a cancel of the previous head; a reopen supersedes a close.
        self._is_cancel_requested = self._closed = False
        tested = self._testing.revision if self._testing is not None else None
        if self._next is None and tested is not None and not new.is_more_than(tested):
            # A redelivered webhook, or a poll without a change.
            self._github.head_confirmed()
            return
        self._next = _Next(new, how)

    @workflow.signal
    def restart(self, selector: Any = None) -> None:
        """Restarts decided jobs, by default the errored ones.

        Args:
            selector: A RestartSelector as JSON, such as `{"which": "failed"}`; nothing
                selects all errored jobs. Validated here, since it is typed by hand.
        """
        parsed = self._parsed("restart", RestartSelector, selector or {})
        if parsed is not None:
            self._requests.append(_Request("restart", parsed))

    @workflow.signal
    def cancel(self, selector: Any = None) -> None:
        """Stops jobs under way; the pull request stays open and can be restarted.

        Args:
            selector: A JobSelector as JSON; nothing selects all jobs.
        """
        parsed = self._parsed("cancel", JobSelector, selector or {})
        if parsed == JobSelector():
            # At once: it supersedes earlier requests.
            self._is_cancel_requested = True
        elif parsed is not None:
            self._requests.append(_Request("cancel", parsed))

    @workflow.signal
    def recount(self, testing: RevisionKey | None = None) -> None:
        """The index was changed by others: verdicts of a testing were revised."""
        if self._testing is not None and testing in {None, self._testing.key}:
            self._requests.append(_Request("recount"))

    @workflow.signal
    def closed(self, event: Any = None) -> None:
        """The pull request was closed or merged: stop, and end.

        Args:
            event: A ClosedAs as JSON; nothing for a close that is certainly the newest event.
        """
        parsed = None if event is None else self._parsed("closed", ClosedAs, event)
        if event is not None and parsed is None:
            return
        if parsed and not self._github.is_newer(
            parsed.as_of, None, authoritative=parsed.authoritative
        ):
            return
        self._closed = True
        self._next = None

    @workflow.signal
    def approve(self, approval: Any = None) -> None:
        """Somebody with rights approves what waits for that.

        Args:
            approval: An Approval as JSON.
        """
        parsed = self._parsed("approve", Approval, approval)
        if parsed is None:
            return
        self._state.approval = parsed.joined(self._state.approval)
        # A head that is yet to be tested finds it in the state.
        if self._testing is not None and self._is_approved(self._testing.revision):
            self._requests.append(_Request("approve"))
        elif self._testing is not None and self._testing.state.holds:
            self._note("the head was pushed after the approval: comment /opam-ci ok again")

    @workflow.signal
    def base_changed(self, moved: Any = None) -> None:
        """The base branch moved: once it is decided, the head is merged and analysed again.

        Args:
            moved: A BaseChanged as JSON; only the newest counts.
        """
        parsed = self._parsed("base_changed", BaseChanged, moved)
        if parsed is not None:
            self._state.new_base = parsed

    @workflow.signal
    def resync(self) -> None:
        """GitHub does not list the pull request any more: its state is fetched."""
        self._github.resync()

    @workflow.update
    async def restart_jobs(self, update: Any = None) -> Taken:
        """Does the same as `restart`, and returns what it took.

        Args:
            update: A RestartUpdate as JSON.
        """
        return await self._request("restart", RestartUpdate, update)

    @workflow.update
    async def cancel_jobs(self, update: Any = None) -> Taken:
        """Does the same as `cancel`, and returns what it took.

        Args:
            update: A CancelUpdate as JSON.
        """
        return await self._request("cancel", CancelUpdate, update)

    @workflow.signal
    def platform_progress(self, report: PlatformProgress | None = None) -> None:
        """A PlatformWorkflow reports its progress."""
        if self._testing is not None and report is not None:
            self._testing.progress(report)

    @workflow.signal
    def attempt_faulted(self, event: AttemptFaulted | None = None) -> None:
        """An attempt of the analysis met an infrastructure fault."""
        if self._testing is not None and event is not None:
            self._testing.attempts.attempt_faulted(event)
            self._github.attempt_faulted(event)

    @workflow.signal
    def attempt_started(self, event: AttemptStarted | None = None) -> None:
        """A further attempt of the analysis has begun."""
        if self._testing is not None and event is not None:
            self._testing.attempts.attempt_started(event)

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
            hold=next(iter(testing.state.holds.values()), None),
            effect=testing.state.effect,
            notices=(*testing.state.notices, *notices),
            estimated_until=testing.state.estimated_until,
            updated_at=workflow.now(),
        )

    @workflow.query
    def to_post(self) -> PostContent:
        """Returns what to post to GitHub at this moment."""
        testing = self._testing
        if testing is None:
            return PostContent()
        return self._github.to_post(self.summary(), testing.state)

    async def _serve(self) -> None:
        while await self._wait_for_work():
            if self._testing is not None:
                self._testing.tasks.check()
            if self._next is not None:
                await self._take_next()
            if self._is_cancel_requested:
                self._is_cancel_requested = False
                await self._stop("request")
            while self._requests and not self._is_interrupted():
                await self._execute(self._requests[0])
                self._requests.popleft()
            if self._testing is not None and self._testing.needs_conclusion:
                await self._testing.conclude()
            await self._follow_base()
            if self._closed:
                await self._stop("closed")
                await workflow.wait_condition(lambda: not self._is_changed() or not self._closed)
                await self._flush_github_statuses(lambda: not self._closed)
                if self._closed:
                    return
            if self._may_continue_as_new():
                await self._continue_as_new()

    async def _flush_github_statuses(self, until: Callable[[], bool] = lambda: False) -> None:
        """Waits, up to POSTING_PATIENCE, until the final statuses are posted."""
        self._github.hurry()
        if self._github.is_behind:
            await pause(
                options.POSTING_PATIENCE, until=lambda: until() or not self._github.is_behind
            )

    async def _wait_for_work(self) -> bool:
        """Waits; returns False when a one-off check has nothing left to wait for."""
        testing = self._testing
        parked = self._is_parked()
        watch = options.ORPHAN_CHECK_INTERVAL if testing and testing.has_adopted else None
        limit = options.PARKED_TIMEOUT if parked else watch
        if not await wait_for(
            lambda: (
                self._has_work()
                or self._is_over()
                or self._may_continue_as_new()
                or self._is_parked() != parked
            ),
            limit=limit,
        ):
            if parked:
                return False
            if self._testing is not None:
                await self._testing.check_adopted()
        return self._has_work() or not self._is_over()

    def _has_work(self) -> bool:
        testing = self._testing
        return bool(
            self._is_interrupted()
            or (testing is not None and testing.tasks.crash is not None)
            or (testing is not None and testing.needs_conclusion)
            or self._requests
            or self._is_base_due()
        )

    def _is_interrupted(self) -> bool:
        """Whether an event supersedes everything else."""
        return self._closed or self._is_cancel_requested or self._next is not None

    def _is_base_due(self) -> bool:
        """Whether the head is to be merged into a base that moved, now that it is decided."""
        testing = self._testing
        return self._state.new_base is not None and testing is not None and testing.may_follow_base

    async def _follow_base(self) -> None:
        """Merges a decided head into a base that moved; tests it again only if something differs.

        Until that is known nothing changes, neither rows nor statuses.
        """
        testing, moved = self._testing, self._state.new_base
        if testing is None or moved is None or self._is_interrupted() or not self._is_base_due():
            return
        analysis = testing.analysis.outcome
        # The base of an analysis that failed is not known for sure.
        if isinstance(analysis, Passed) and testing.revision.base == moved.base:
            self._state.new_base = None
            return

        def is_abandoned() -> bool:
            return self._is_interrupted() or bool(self._requests)

        look = await testing.look_at_base(moved.base, is_abandoned)
        if look is None or is_abandoned() or analysis is None:
            return
        if self._state.new_base == moved:
            self._state.new_base = None
        found = difference(analysis, testing.state.inputs, look)
        if testing.state.inputs is None:
            testing.state.inputs = look.inputs
        if is_tested_again(found, moved, testing.state.opened_at, workflow.now()):
            revision = testing.revision.model_copy(update={"base": look.base})
            await self._test(revision, testing.state.posting)

    def _is_decided_once(self) -> bool:
        testing = self._testing
        return (
            testing is not None
            and not testing.revision.options.keep_open
            and testing.is_idle
            and testing.state.concluded
        )

    def _is_over(self) -> bool:
        """Whether a one-off check is decided and recorded, and has nothing to restart."""
        return self._is_decided_once() and not self._is_parked() and not self._is_changed()

    def _is_parked(self) -> bool:
        testing = self._testing
        return self._is_decided_once() and testing is not None and testing.is_restartable

    def _new_testing(self, state: TestingState) -> Testing:
        self._state.testing = state
        return Testing(self._state.pull_request, state, self._records, self._is_interrupted)

    async def _take_next(self) -> None:
        if self._next is None:
            return
        (revision, posting), self._next = self._next, None
        testing = self._testing
        if testing is not None and not revision.is_more_than(testing.revision):
            # Pushed away and back before a worker noticed: an abandoned testing is resumed.
            if testing.is_abandoned:
                testing.begin()
            self._requests.append(_Request("recount"))
            return
        await self._test(revision, posting)

    async def _test(self, revision: Revision, posting: PostingOptions | None) -> None:
        """Tests a head from its beginning; what was tested before is stopped."""
        testing = self._testing
        if testing is not None:
            await self._stop("superseded")
            if revision.head != testing.revision.head:
                self._github.superseded(self.summary(), testing.state)
            self._state.notices.clear()
            self._reject_requests("superseded by a newer head before it was done")
            self._requests.clear()
        before = testing.state.opened_at if testing is not None else None
        self._testing = self._new_testing(
            TestingState(
                revision=revision,
                posting=posting,
                opened_at=opened_at(workflow.now(), before),
                analysis=JobStatus(job=ANALYSIS),
                approved=self._is_approved(revision),
            )
        )
        self._stale = True
        if testing is not None and workflow.info().is_continue_as_new_suggested():
            await self._continue_as_new()
        self._testing.begin()

    def _is_approved(self, revision: Revision) -> bool:
        """Whether no limit of the author applies to a head."""
        testing, approval, origin = self._testing, self._state.approval, revision.origin
        if (
            testing is not None
            and testing.revision.head == revision.head
            and testing.state.approved
        ):
            # Another base, or no draft any more: the approval of the head stays.
            return True
        return approval is not None and origin is not None and approval.covers(origin.as_of)

    async def _request(
        self,
        kind: Literal["restart", "cancel"],
        model: type[RestartUpdate | CancelUpdate],
        update: Any,
    ) -> Taken:
        parsed = self._parsed(kind, model, update or {})
        if parsed is None:
            return Taken(refusal=self._state.notices[-1])
        request = _Request(kind, parsed.selector, parsed.preview)
        self._requests.append(request)
        await workflow.wait_condition(lambda: request.result is not None)
        return request.result or Taken()

    def _reject_requests(self, reason: str) -> None:
        for request in self._requests:
            request.result = Taken(refusal=reason)

    async def _execute(self, request: _Request) -> None:
        request.result = await self._result(request)
        if request.result.refusal is not None and not request.preview:
            self._note(f"{request.kind}: {request.result.refusal}")

    async def _result(self, request: _Request) -> Taken:
        testing, selector = self._testing, request.selector
        if testing is None:
            return Taken(refusal="no head was tested yet")
        head = testing.revision.head
        if selector.head is not None and not head.startswith(selector.head):
            return Taken(
                refusal=f"head {selector.head} is superseded by {head[:12]}; nothing was done"
            )
        match request.kind:
            case "recount":
                await testing.recount()
            case "approve":
                await testing.approve()
            case "cancel":
                return await testing.cancel(selector, preview=request.preview)
            case "restart":
                if not isinstance(selector, RestartSelector):
                    raise TypeError("the selector of a restart must be a RestartSelector")
                refusal = self._refusal_of_restart(testing, selector.origin)
                if refusal is not None:
                    return refusal
                if selector.origin is RestartOrigin.AUTHOR and not request.preview:
                    self._state.author_restarts.append(workflow.now())
                    del self._state.author_restarts[:-_AUTHOR_RESTARTS_KEPT]
                return await testing.restart(selector, preview=request.preview)
        return Taken()

    def _refusal_of_restart(self, testing: Testing, origin: RestartOrigin) -> Taken | None:
        """Returns why no job is restarted, None if some may be."""
        if not has_budget(origin, testing.state.restart_budget_used):
            return Taken(
                refusal="automatic restart limit reached: restart the errored jobs with "
                "`opam-ci restart`"
            )
        author = testing.revision.author if origin is RestartOrigin.AUTHOR else None
        at = author and next_restart(author, self._state.author_restarts, workflow.now())
        if author is None or at is None:
            return None
        return Taken(
            refusal=f"an author may restart jobs {author.restarts_an_hour} times an hour: repeat "
            f"it after {at:%H:%M:%S} UTC, or ask somebody with triage or write access"
        )

    def _parsed(self, what: str, model: type[M], message: Any) -> M | None:
        try:
            return model.model_validate(message)
        except ValidationError as error:
            self._note(f"invalid {what}: {problems(error)}")
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
            and not self._has_work()
        )

    async def _continue_as_new(self) -> None:
        """Continues in a new run with a short history, once everything is recorded."""
        self._collect()
        self._github.pause()
        await workflow.wait_condition(
            lambda: (
                self._has_work()
                or (
                    self._github.is_idle
                    and not self._is_changed()
                    and workflow.all_handlers_finished()
                )
            )
        )
        if self._has_work():
            self._github.resume()
            # The new request would be lost; the next idle moment will do as well.
            return
        workflow.continue_as_new(self._state)

    def _collect(self) -> None:
        """Adds changes to the backlog of the index, and updates the statuses to post."""
        testing = self._testing
        if testing is None or not (testing.is_dirty or self._stale):
            return
        self._stale = testing.is_changed = False
        rows = testing.take_analysis()
        summary = self.summary()
        self._github.update(summary, testing.state, hurried=self._closed)
        self._state.sequence += 1
        author = testing.revision.author
        record = RevisionRecord(
            key=testing.key,
            base=summary.base,
            merge_tree=testing.state.merge_tree,
            is_open=not self._closed,
            author=author.login if author is not None else None,
            state=summary.state,
            planned=summary.planned,
            concluded=summary.concluded,
            changes=tuple(dict.fromkeys(each.kind for each in summary.packages)),
            hold=summary.hold,
            effect=summary.effect,
            updated_at=workflow.now(),
            sequence=self._state.sequence,
        )
        self._records.add(
            RowBatch(
                key=record.key,
                revision=record,
                rows=rows,
                sequence=record.sequence,
                updated_at=record.updated_at,
            )
        )

    def _written_down(self, batch: RowBatch, done: Recorded) -> None:
        testing = self._testing
        if testing is None or testing.key != batch.key:
            return
        if testing.state.estimated_until != done.estimated_until:
            testing.state.estimated_until = done.estimated_until
            # While all its jobs wait for their turn nothing else changes.
            self._github.update(self.summary(), testing.state, hurried=self._closed)

    def _is_stale(self) -> bool:
        return self._testing is not None and (self._stale or self._testing.is_dirty)

    def _is_changed(self) -> bool:
        """Whether there are changes that are not recorded yet."""
        return self._is_stale() or not self._records.is_empty

    def _is_hurried(self) -> bool:
        return self._finished or self._closed or self._is_decided_once()

    async def _report_changes(self) -> None:
        """Shows and records changes, collected over the report interval."""
        while not self._finished or self._is_stale():
            await workflow.wait_condition(lambda: self._finished or self._is_stale())
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=self._is_hurried)
            self._collect()
            self._show()

    def _show(self) -> None:
        """Shows the state in the Web UI, and sets the search attributes."""
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
