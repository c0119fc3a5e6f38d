"""Activities that use GitHub's API: posting, deliveries, reconciliation."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter
from temporalio import activity

from opam_ci.activities.boundary import details_as, github_errors
from opam_ci.activities.heartbeats import heartbeating
from opam_ci.clients.git.healing import Recovery
from opam_ci.clients.git.upstream import upstream_in
from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.github.posting import Posting, Writer, post_due
from opam_ci.clients.github.redelivery import confirmed
from opam_ci.clients.lint.findings import load_findings
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import (
    Action,
    Approve,
    Cancel,
    Closed,
    HeadChanged,
    Ignore,
    Reconcile,
    RefreshBase,
    Restart,
    Tracked,
    UnknownCommand,
)
from opam_ci.core.github.check_page import annotation
from opam_ci.core.github.checks import Annotation
from opam_ci.core.github.debounce import Posted, doubted
from opam_ci.core.github.messages import (
    BaseMoved,
    DeliveryResult,
    DeliveryTask,
    FetchTask,
    FollowBase,
    PostContent,
    PostTask,
    Reconciled,
    ReconcileTask,
)
from opam_ci.core.github.ordering import ClosedAs
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.github.reconcile import REDELIVERED_FOR, compare, to_redeliver
from opam_ci.core.github.redelivery import LATE_AFTER, current, is_late
from opam_ci.core.github.refusal import MISSING_FOR, Refusal, refused_again
from opam_ci.core.github.revision import Policy
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.hold import Approval
from opam_ci.core.jobs.moved_base import BaseChanged
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.requests import PullRequestRef, Revision
from opam_ci.core.jobs.selector import RestartOrigin, RestartSelector, RestartUpdate, Taken

_QUERY_TIMEOUT = timedelta(seconds=20)
_MARGIN = timedelta(seconds=5)
_NOTIFIED_AT_ONCE = 5
_NOTIFY_PAUSE = timedelta(seconds=5)
"""Between so many pull requests. Merging again takes a second of processor time, and fewer of them
at once than an orchestration worker has slots leave some to new heads."""

_NOTIFIED_WITHIN = timedelta(minutes=15)
"""Half of an attempt's time limit, however many pull requests are open."""

_POSTED: TypeAdapter[dict[str, Posted]] = TypeAdapter(dict[str, Posted])


class PullRequestClient(Protocol):
    """Client of the workflows of pull requests, implemented by `app.pull_requests.PullRequests`."""

    async def head_changed(
        self, ref: PullRequestRef, revision: Revision, posting: PostingOptions | None
    ) -> None:
        """Signals a new head; starts the workflow if needed."""

    async def closed(self, ref: PullRequestRef, event: ClosedAs) -> bool:
        """Signals that the pull request is closed."""

    async def restart(
        self, ref: PullRequestRef, selectors: Collection[RestartSelector], *, head: str | None
    ) -> bool:
        """Restarts jobs."""

    async def cancel(self, ref: PullRequestRef) -> bool:
        """Stops jobs."""

    async def approve(self, ref: PullRequestRef, approval: Approval) -> bool:
        """Approves what waits for that."""

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs, and returns which."""

    async def resync(self, ref: PullRequestRef) -> bool:
        """Has its state fetched from GitHub."""

    async def running(self, owner: str, repo: str) -> dict[int, str]:
        """Lists running workflows with their heads."""

    async def base_moved(self, repository: str, moved: BaseMoved) -> None:
        """Signals that the base branch has moved, or may have."""

    async def base_changed(self, ref: PullRequestRef, moved: BaseChanged) -> bool:
        """Signals a moved base to a pull request that is open."""

    async def with_head(self, owner: str, repo: str, head: str) -> tuple[int, ...]:
        """Lists those that test a head."""


class GitHubActivities:
    """Activities that use GitHub's API; they share one client with its ETags, tokens and limits."""

    def __init__(  # noqa: PLR0913 - each is a dependency of its own
        self,
        github: GitHub,
        pull_requests: PullRequestClient,
        store: ArtifactStore,
        *,
        tracked: Tracked,
        policy: Policy,
        clones: Path,
        on_recovery: Callable[[Recovery], None] = lambda _: None,
    ) -> None:
        self._github = github
        self._pull_requests = pull_requests
        self._store = store
        self._tracked = tracked
        self._policy = policy
        owner, _, repo = tracked.repository.partition("/")
        self._owner, self._repo = owner, repo
        self._upstream = upstream_in(clones, owner, repo, policy.clone_url, on_recovery)

    @activity.defn(name="github_post")
    async def post(self, task: PostTask) -> Posting:
        """Posts the statuses of a pull request that are due.

        It queries the workflow for them: after an hour without GitHub, the statuses of an hour
        ago are outdated.

        Raises:
            ApplicationError: GitHub is unavailable or limits requests; the statuses posted
                before that are in the heartbeat's details.
        """
        info = activity.info()
        if info.workflow_id is None:
            raise RuntimeError("github_post runs without a workflow")
        handle = activity.client().get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        )
        wanted: PostContent = await handle.query(
            "to_post", result_type=PostContent, rpc_timeout=_QUERY_TIMEOUT
        )
        clock = _clock()
        before = details_as(_POSTED, info.heartbeat_details)
        posted = {**wanted.posted, **(before or {})}
        if info.attempt > 1:
            # The previous attempt may have posted a status without getting a response.
            posted = doubted(posted)

        def beat() -> None:
            activity.heartbeat(_POSTED.dump_python(posted, mode="json"))

        def note(now: Mapping[str, Posted]) -> None:
            nonlocal posted
            posted = dict(now)
            beat()

        async def annotations() -> tuple[Annotation, ...]:
            if wanted.testing is None:
                return ()
            findings = await load_findings(self._store, wanted.testing)
            return tuple(annotation(finding) for finding in findings)

        writer = Writer(
            self._github,
            wanted.check_runs,
            annotated=wanted.annotated,
            annotations=annotations,
        )
        with github_errors():
            with heartbeating(beat):
                done = await post_due(
                    writer.send,
                    wanted.statuses,
                    posted,
                    clock=clock,
                    debounce=wanted.debounce,
                    on_posted=note,
                )
            if done.trouble is not None:
                beat()
                raise InfrastructureError(
                    done.trouble, cause=Cause.GITHUB, retry_after=done.retry_after
                )
        del task
        return done

    @activity.defn(name="github_look")
    async def look(self, task: FetchTask) -> DeliveryResult:
        """Fetches a pull request's state from GitHub, and signals it to its workflow.

        A pull request that GitHub does not show for some minutes counts as closed: it was deleted,
        or moved to another repository. A missing permission says nothing about it.

        Raises:
            ApplicationError: GitHub or Temporal is unavailable; retried until it is.
        """
        with github_errors(), heartbeating(activity.heartbeat):
            return await self._look(task.pull_request, task.refusal, _clock()())

    @activity.defn(name="github_carry_out")
    async def carry_out(self, delivered: DeliveryTask) -> DeliveryResult:
        """Executes the action of a delivery; it is repeated for a day while GitHub refuses.

        Raises:
            ApplicationError: GitHub or Temporal is unavailable; retried until it is.
        """
        with github_errors(), heartbeating(activity.heartbeat):
            now = _clock()()
            late = is_late(delivered.action, now)
            try:
                action = await confirmed(delivered.action, self._github, self._tracked, now)
                return await self._carry_out(action, now, authoritative=late)
            except GitHubRefusedError as error:
                return _refused(refused_again(delivered.refusal, str(error), now))

    @activity.defn(name="github_reconcile")
    async def reconcile(self, task: ReconcileTask) -> Reconciled:
        """Compares the open pull requests with the workflows, and redelivers missed deliveries.

        Raises:
            ApplicationError: GitHub or Temporal is unavailable; retried until it is.
        """
        with github_errors(), heartbeating(activity.heartbeat):
            return await self._reconcile(task.since, _clock()())

    @activity.defn(name="github_check_base")
    async def check_base(self) -> str:
        """Has the base itself checked; returns its newest commit.

        Raises:
            ApplicationError: GitHub or Temporal is unavailable; retried until it is.
        """
        with github_errors(), heartbeating(activity.heartbeat):
            branch = self._policy.branch
            tip = await self._upstream.in_turn(self._upstream.refresh, branch)
            ref = PullRequestRef(owner=self._owner, repo=self._repo, branch=branch)
            revision = self._policy.base_revision(tip, _clock()())
            await self._pull_requests.head_changed(ref, revision, None)
            return tip

    @activity.defn(name="github_follow_base")
    async def follow_base(self, task: FollowBase) -> str:
        """Notifies the workflows of open pull requests of the base's newest commit.

        A few at a time, the newest pull request first: each of them merges again.

        Returns:
            The commit.

        Raises:
            ApplicationError: GitHub or Temporal is unavailable; retried until it is.
        """
        with github_errors(), heartbeating(activity.heartbeat):
            tip = await self._upstream.in_turn(self._upstream.refresh, self._policy.branch)
            if tip != task.followed and self._policy.follow_interval is not None:
                moved = BaseChanged(base=tip, retest_interval=self._policy.retest_interval)
                numbers = await self._pull_requests.running(self._owner, self._repo)
                within = _NOTIFIED_WITHIN * _NOTIFIED_AT_ONCE / max(1, len(numbers))
                pause = min(_NOTIFY_PAUSE, within).total_seconds()
                for count, number in enumerate(sorted(numbers, reverse=True), 1):
                    await self._pull_requests.base_changed(self._tracked.ref(number), moved)
                    if count % _NOTIFIED_AT_ONCE == 0:
                        await asyncio.sleep(pause)
            return tip

    async def prepare(self) -> None:
        """Makes or refreshes the clone, so that it is ready for the first head.

        Raises:
            InfrastructureError: It cannot be fetched.
        """
        await self._upstream.in_turn(self._upstream.refresh, self._policy.branch)

    async def _carry_out(
        self, action: Action, now: datetime, *, authoritative: bool
    ) -> DeliveryResult:
        match action:
            case HeadChanged():
                ref = action.pull_request
                revision = self._policy.revision(action, authoritative=authoritative)
                await self._pull_requests.head_changed(ref, revision, self._policy.posting_for(ref))
                done = f"head {action.head[:12]}: {action.why}"
            case Closed():
                return await self._close(action, authoritative=authoritative)
            case RefreshBase():
                tip = await self._upstream.in_turn(self._upstream.refresh, self._policy.branch)
                await self._base_moved()
                done = f"clone at {tip[:12]}"
            case Reconcile():
                found = await self._reconcile(REDELIVERED_FOR, now)
                done = f"{len(found.missed)} missed"
            case Ignore():
                done = action.reason
            case Restart() | Cancel() | Approve() | UnknownCommand():
                done = await self._command(action)
        return DeliveryResult(words=done)

    async def _close(self, action: Closed, *, authoritative: bool) -> DeliveryResult:
        event = ClosedAs(as_of=action.as_of, authoritative=authoritative)
        is_running = await self._pull_requests.closed(action.pull_request, event)
        # An older head that arrives after this would start the workflow again. Once it is late
        # it does not; until then this is repeated.
        return DeliveryResult(
            words=action.why if is_running else f"{action.why}: no workflow",
            again_at=None if authoritative else action.as_of + LATE_AFTER + _MARGIN,
        )

    async def _command(self, action: Restart | Cancel | Approve | UnknownCommand) -> str:
        if action.check_permission and not await self._github.may_command(action.by):
            return f"{action.by} may not command"
        match action:
            case UnknownCommand():
                if (number := action.pull_request.number) is not None:
                    await self._github.comment(number, action.answer)
                return "answered"
            case Cancel():
                is_running = await self._pull_requests.cancel(action.pull_request)
                return "cancelled" if is_running else "no workflow"
            case Approve():
                is_running = await self._pull_requests.approve(action.pull_request, action.approval)
                return "approved" if is_running else "no workflow"
            case Restart():
                return await self._restart(action)

    async def _restart(self, action: Restart) -> str:
        if (
            action.by_author
            and self._policy.author_restarts is not None
            and not await self._github.may_command(action.by)
        ):
            return await self._restart_by_author(action)
        numbers = action.numbers
        if not numbers and action.head is not None:
            numbers = await self._pull_requests.with_head(self._owner, self._repo, action.head)
        restarted = [
            number
            for number in numbers
            if await self._pull_requests.restart(
                self._tracked.ref(number), action.selectors, head=action.head
            )
        ]
        return f"restarted: {restarted}" if restarted else "no workflow with that head"

    async def _restart_by_author(self, action: Restart) -> str:
        """Restarts jobs within the author's limit, and answers if that, or another rule, refuses.

        The answer is a comment, one for each of the author's.
        """
        (number,) = action.numbers
        for selector in action.selectors:
            chosen = selector.model_copy(update={"origin": RestartOrigin.AUTHOR})
            workflow_id = self._tracked.ref(number).workflow_id
            try:
                taken = await self._pull_requests.restart_jobs(
                    workflow_id, RestartUpdate(selector=chosen)
                )
            except UsageError:
                return "no workflow"
            if taken is not None and taken.refusal is not None:
                await self._github.comment(number, f"Nothing was restarted: {taken.refusal}.")
                return taken.refusal
        return f"restarted: [{number}]"

    async def _look(
        self, ref: PullRequestRef, before: Refusal | None, now: datetime
    ) -> DeliveryResult:
        if ref.number is None:
            raise RuntimeError(f"{ref.title} is not on GitHub")
        closed = Closed(pull_request=ref, why="closed", as_of=now)
        action: Action
        try:
            pull = await self._github.pull_request(ref.number)
        except GitHubRefusedError as error:
            refusal = refused_again(before, str(error), now)
            is_same = before is not None and before.reason == refusal.reason
            if not (error.is_missing and is_same and now - refusal.since >= MISSING_FOR):
                return _refused(refusal)
            action = closed
        else:
            action = current(closed, pull, self._tracked)
        return await self._carry_out(action, now, authoritative=True)

    async def _reconcile(self, since: timedelta, now: datetime) -> Reconciled:
        # The workflows first: pull requests that open meanwhile are in GitHub's list.
        running = await self._pull_requests.running(self._owner, self._repo)
        listed = await self._github.open_pull_requests(self._policy.branch)
        found = compare(listed, running, self._tracked, lately=now - since)
        for missed in (*found.missed, *found.renewed):
            await self._carry_out(missed, now, authoritative=False)
        for number in found.suspects:
            await self._pull_requests.resync(self._tracked.ref(number))
        # Without webhooks nothing else says so.
        await self._base_moved()
        return Reconciled(
            open_pull_requests=len(listed),
            missed=tuple(missed.pull_request.number or 0 for missed in found.missed),
            looked_at=found.suspects,
            redelivered=await self._redeliver(since, now),
        )

    async def _base_moved(self) -> None:
        if (interval := self._policy.follow_interval) is not None:
            moved = BaseMoved(interval=interval)
            await self._pull_requests.base_moved(self._tracked.repository, moved)

    async def _redeliver(self, since: timedelta, now: datetime) -> int:
        if self._tracked.app_id is None:
            return 0
        failed = to_redeliver(await self._github.deliveries(now - since), now)
        redelivered = 0
        for delivery in failed:
            # GitHub may have deleted the delivery meanwhile.
            with contextlib.suppress(GitHubRefusedError):
                await self._github.redeliver(delivery)
                redelivered += 1
        return redelivered


def _refused(refusal: Refusal) -> DeliveryResult:
    return DeliveryResult(words=refusal.reason, again_at=refusal.retry_at, refusal=refusal)


def _clock() -> Callable[[], datetime]:
    """Returns Temporal's clock, which orders all events: a worker's own may be wrong."""
    started_at, begun = activity.info().started_time, time.monotonic()
    return lambda: started_at + timedelta(seconds=time.monotonic() - begun)
