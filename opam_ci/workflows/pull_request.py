"""PullRequestWorkflow: one pull request, from its first head until it is closed."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationError
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.github.messages import ToPost
    from opam_ci.core.github.origin import ClosedAs
    from opam_ci.core.incidents.messages import Rejudge
    from opam_ci.core.incidents.restarts import has_budget
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        PlatformProgress,
        PullRequestInput,
        RevdepsProgress,
    )
    from opam_ci.core.outcome import Cancelled
    from opam_ci.core.recording import RowBatch, batch_of
    from opam_ci.core.requests import RestartSelector, Revision
    from opam_ci.core.summary import Counts, Summary
    from opam_ci.core.text import problems
    from opam_ci.workflows import options
    from opam_ci.workflows.github import GitHubSide
    from opam_ci.workflows.pause import pause, see_through
    from opam_ci.workflows.showing import show
    from opam_ci.workflows.testing import Testing
    from opam_ci.workflows.writing import write_records

_NOTICES_KEPT = 20


@workflow.defn
class PullRequestWorkflow:
    """Tests every head of one pull request; a new head supersedes the one before.

    Signals: `head_changed`, `restart`, `cancel`, `closed`; `rejudge` from whoever writes to
    the index. Query: `summary`; `to_post` for the activity that tells GitHub.
    """

    @workflow.init
    def __init__(self, given: PullRequestInput) -> None:
        self._given = given
        # What is posted, and when, follows from it: workflows that are open stay as they were.
        self._counts_builds = workflow.patched("counts-of-what-ran")
        self._testing = Testing.resume(given)
        self._github = GitHubSide(given, self._note)
        self._sequence = given.sequence
        self._notices = deque(given.notices, maxlen=_NOTICES_KEPT)
        self._next: Revision | None = None
        self._restarts: deque[RestartSelector] = deque()
        self._cancel_asked = False
        self._closed = False
        self._backlog: deque[RowBatch] = deque()
        self._stale = True
        self._finished = False

    @workflow.run
    async def run(self, given: PullRequestInput) -> Counts:
        """Runs until the pull request is closed, or, for a one-off check, decided.

        Args:
            given: Which pull request, and what an earlier run carried over.

        Returns:
            The counts of the last head.
        """
        if self._testing is not None and not given.jobs:
            self._testing.begin()
        reporter = asyncio.create_task(self._report_changes())
        writer = asyncio.create_task(
            write_records(self._backlog, is_over=lambda: self._finished and not self._is_stale())
        )
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
        cancelled = await see_through(reporter, writer) or cancelled
        last_words = asyncio.create_task(self._say_last_words())
        cancelled = await see_through(last_words) or cancelled
        self._github.end()
        cancelled = await see_through(github) or cancelled
        if cancelled is not None:
            raise cancelled
        return self.summary().counts

    @workflow.signal
    def head_changed(self, revision: Any = None) -> None:
        """A new head is to be tested; the same head again only if it says so.

        Args:
            revision: A Revision as JSON.
        """
        try:
            said = Revision.model_validate(revision)
        except ValidationError as error:
            self._note(f"head_changed refused: {problems(error)}")
            return
        origin = said.origin
        if origin and not self._github.is_news(origin.as_of, said.head, sure=origin.sure):
            return
        self._next = said
        # What was asked about the head before is overtaken; so is a close by a reopen.
        self._cancel_asked = self._closed = False

    @workflow.signal
    def restart(self, selector: Any = None) -> None:
        """Starts decided jobs again: those the CI itself lost, unless told otherwise.

        Args:
            selector: A RestartSelector as JSON, such as `{"which": "failed"}`; nothing
                selects all errored jobs. Taken as it comes, since it is typed by hand.
        """
        try:
            self._restarts.append(RestartSelector.model_validate(selector or {}))
        except ValidationError as error:
            self._note(f"restart refused: {problems(error)}")

    @workflow.signal
    def cancel(self) -> None:
        """Stops all jobs under way; the pull request stays open and can be restarted."""
        self._cancel_asked = True

    @workflow.signal
    def closed(self, said: Any = None) -> None:
        """The pull request was closed or merged: stop, and end.

        Args:
            said: A ClosedAs as JSON; nothing for a close that nothing can have overtaken.
        """
        try:
            as_of = ClosedAs.model_validate(said) if said is not None else None
        except ValidationError as error:
            self._note(f"closed refused: {problems(error)}")
            return
        if as_of and not self._github.is_news(as_of.as_of, None, sure=as_of.sure):
            return
        self._closed = True
        self._next = None

    @workflow.signal
    def platform_progress(self, said: PlatformProgress | None = None) -> None:
        """A PlatformWorkflow tells of its jobs."""
        if self._testing is not None and said is not None:
            self._testing.progress(said)
            if self._counts_builds:
                packages = {row.job.package for row in said.jobs}
                unavailable = self._testing.revision.options.unavailable
                self._testing.table.conclude(packages, unavailable, workflow.now())

    @workflow.signal
    def revdeps_progress(self, said: RevdepsProgress | None = None) -> None:
        """A RevdepsWorkflow tells how its jobs stand."""
        if self._testing is not None and said is not None:
            self._testing.revdeps_progress(said)

    @workflow.signal
    def rejudge(self, said: Rejudge | None = None) -> None:
        """Other jobs throw another light on verdicts of this head's."""
        if self._testing is not None and said is not None:
            number = self._testing.rejudge(said)
            if number:
                self._note(f"verdicts judged again: {number}, since {said.jobs[0].detail}")

    @workflow.signal
    def attempt_faulted(self, said: AttemptFaulted | None = None) -> None:
        """An attempt of analysis or lint met an infrastructure fault."""
        if self._testing is not None and said is not None:
            self._testing.on_repository.attempt_faulted(said)
            self._github.met(said)

    @workflow.signal
    def attempt_started(self, said: AttemptStarted | None = None) -> None:
        """A further attempt of analysis or lint has begun."""
        if self._testing is not None and said is not None:
            self._testing.on_repository.attempt_started(said)

    @workflow.query
    def summary(self) -> Summary:
        """Returns the state of the current head."""
        testing = self._testing
        return Summary(
            pull_request=self._given.pull_request.title,
            head=testing.revision.head if testing else "",
            base=testing.revision.base if testing else "",
            request=testing.revision.request if testing else "",
            planned=testing.planned if testing else False,
            packages=testing.on_repository.packages if testing else (),
            jobs=testing.table.rows if testing else (),
            groups=testing.groups.all if testing else (),
            notices=(*(testing.on_repository.notices if testing else ()), *self._notices),
            updated_at=workflow.now(),
            counts_all=not self._counts_builds,
        )

    @workflow.query
    def to_post(self) -> ToPost:
        """Returns what GitHub is to be told at this moment."""
        testing = self._testing
        if testing is None:
            return ToPost()
        return self._github.to_post(self.summary(), testing.revision, testing.opened_at)

    async def _serve(self) -> None:
        while await self._something_to_do():
            if self._testing is not None and self._testing.crash is not None:
                # No failure of the workflow's: its task fails, and goes on with mended code.
                raise RuntimeError("a task of the testing crashed") from self._testing.crash
            if self._next is not None:
                await self._take_next()
            if self._cancel_asked:
                self._cancel_asked = False
                await self._stop("request")
            while self._restarts and self._next is None and self._testing is not None:
                await self._restart(self._testing, self._restarts.popleft())
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
        try:
            await workflow.wait_condition(
                lambda: (
                    self._is_called()
                    or self._is_over()
                    or self._may_continue_as_new()
                    or self._is_parked() != parked
                ),
                timeout=limit,
            )
        except TimeoutError:
            if parked:
                return False
            if self._testing is not None:
                await self._testing.look_for_adopted()
        return self._is_called() or not self._is_over()

    def _is_called(self) -> bool:
        crashed = self._testing is not None and self._testing.crash is not None
        restarts = bool(self._restarts) and self._testing is not None
        return bool(
            crashed or self._closed or self._cancel_asked or self._next is not None or restarts
        )

    def _is_decided_once(self) -> bool:
        testing = self._testing
        return (
            testing is not None
            and not testing.revision.options.keep_open
            and testing.planned
            and testing.is_idle
        )

    def _is_over(self) -> bool:
        """Whether a one-off check is decided, written down, and a restart could mend nothing."""
        return self._is_decided_once() and not self._is_parked() and not self._is_changed()

    def _is_parked(self) -> bool:
        testing = self._testing
        return self._is_decided_once() and testing is not None and testing.is_restartable

    async def _take_next(self) -> None:
        revision, self._next = self._next, None
        if revision is None:
            return
        testing = self._testing
        if testing is not None and not revision.is_more_than(testing.revision):
            # A redelivered webhook, or a poll that sees what it saw before.
            return
        if testing is not None:
            await self._stop("superseded")
        self._restarts.clear()
        if testing is not None:
            self._notices.clear()
        self._testing = Testing(self._given.pull_request, revision, workflow.now())
        if testing is not None and workflow.info().is_continue_as_new_suggested():
            await self._continue_as_new()
        self._testing.begin()
        self._stale = True

    async def _restart(self, testing: Testing, selector: RestartSelector) -> None:
        if selector.head not in {None, testing.revision.head}:
            self._note(f"restart: head {selector.head} is superseded; nothing was restarted")
            return
        if not has_budget(selector.asker, testing.automatic):
            self._note(
                "restart: too many jobs were restarted without anybody asking; what is errored "
                "now waits for somebody to do so"
            )
            return
        number = await testing.restart(selector)
        if not number:
            self._note(
                f"restart: no decided job matches {selector.model_dump_json(exclude_defaults=True)}"
            )

    async def _stop(self, by: Literal["superseded", "closed", "request"]) -> None:
        if self._testing is not None:
            await self._testing.stop(Cancelled(by=by))
            self._collect()

    def _note(self, text: str) -> None:
        self._notices.append(text)
        self._stale = True

    def _may_continue_as_new(self) -> bool:
        return (
            workflow.info().is_continue_as_new_suggested()
            and self._testing is not None
            and self._testing.only_children_run
            and not self._is_called()
        )

    async def _continue_as_new(self) -> None:
        """Goes on in a new run with a short history, once everything is written down."""
        self._collect()
        self._github.halt()
        await workflow.wait_condition(
            lambda: self._is_called() or (self._github.is_idle and not self._is_changed())
        )
        if self._is_called():
            self._github.go_on()
            # What was just asked would be lost; the next quiet moment will do as well.
            return
        carried = PullRequestInput(
            pull_request=self._given.pull_request,
            sequence=self._sequence,
            notices=tuple(self._notices),
        )
        if self._testing is not None:
            carried = self._testing.carry_over(carried)
        carried = self._github.carry_over(carried)
        workflow.continue_as_new(carried)

    def _collect(self) -> None:
        """Puts changed rows on the backlog of what is to be written."""
        testing = self._testing
        if testing is None or not (testing.is_dirty or self._stale):
            return
        self._stale = testing.groups.is_changed = False
        summary = self.summary()
        self._github.look(summary, testing.revision, hurried=self._closed)
        while True:
            self._sequence += 1
            self._backlog.append(
                batch_of(
                    testing.key,
                    summary,
                    testing.table.take_changed(options.PROGRESS_ROWS),
                    sequence=self._sequence,
                    merge_tree=testing.on_repository.merge_tree,
                    is_open=not self._closed,
                    pools={each.name: each.pool for each in testing.revision.options.platforms},
                )
            )
            if not testing.table.is_dirty:
                return

    def _is_stale(self) -> bool:
        return self._testing is not None and (self._stale or self._testing.is_dirty)

    def _is_changed(self) -> bool:
        """Whether something is not written down yet."""
        return self._is_stale() or bool(self._backlog)

    def _is_hurried(self) -> bool:
        return self._finished or self._closed or self._is_decided_once()

    async def _report_changes(self) -> None:
        """Shows what changed and puts it on the backlog, collected over a while."""
        while not self._finished or self._is_stale():
            await workflow.wait_condition(lambda: self._finished or self._is_stale())
            length = options.report_interval(workflow.info().get_current_history_length())
            await pause(length, until=self._is_hurried)
            self._collect()
            show(self._given.pull_request, self.summary())
