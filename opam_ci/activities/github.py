"""Activities that tell GitHub, ask it, and catch up with it."""

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
from opam_ci.activities.heartbeats import beating
from opam_ci.clients.git_upstream import upstream_in
from opam_ci.clients.github import GitHub
from opam_ci.clients.github_errors import GitHubRefusedError
from opam_ci.clients.github_late import confirmed
from opam_ci.clients.github_posting import Posting, Writer, post_due
from opam_ci.clients.lint_findings import load_findings
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.github.action import (
    Action,
    Cancel,
    Closed,
    HeadChanged,
    Ignore,
    Misunderstood,
    Reconcile,
    RefreshBase,
    Restart,
    Tracked,
)
from opam_ci.core.github.check_page import annotation
from opam_ci.core.github.checks import Annotation
from opam_ci.core.github.late import LATE_AFTER, current, is_late
from opam_ci.core.github.messages import (
    Carried,
    Delivered,
    Look,
    PostTask,
    Reconciled,
    ReconcileTask,
    ToPost,
)
from opam_ci.core.github.ordering import ClosedAs
from opam_ci.core.github.pace import Posted, doubted
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.github.reconcile import compare, to_redeliver
from opam_ci.core.github.revision import Policy
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.requests import PullRequestRef, Revision
from opam_ci.core.selector import RestartSelector

_QUERY_TIMEOUT = timedelta(seconds=20)
_A_LITTLE_LATER = timedelta(seconds=5)
_POSTED: TypeAdapter[dict[str, Posted]] = TypeAdapter(dict[str, Posted])


class Steers(Protocol):
    """How activities reach the workflows of pull requests: see `gateway.PullRequests`."""

    async def head_changed(
        self, ref: PullRequestRef, revision: Revision, posting: PostingOptions | None
    ) -> None:
        """Starts a workflow, or tells the running one."""

    async def closed(self, ref: PullRequestRef, said: ClosedAs) -> bool:
        """Tells that it is closed."""

    async def restart(
        self, ref: PullRequestRef, selectors: Collection[RestartSelector], *, head: str | None
    ) -> bool:
        """Restarts jobs."""

    async def cancel(self, ref: PullRequestRef) -> bool:
        """Stops jobs."""

    async def running(self, owner: str, repo: str) -> dict[int, str]:
        """Lists running workflows with their heads."""

    async def with_head(self, owner: str, repo: str, head: str) -> tuple[int, ...]:
        """Lists those that test a head."""


class GitHubActivities:
    """What needs GitHub's API; one client for all, which knows ETags, tokens and limits."""

    def __init__(  # noqa: PLR0913 - each is a part that it is put together from
        self,
        github: GitHub,
        steers: Steers,
        store: ArtifactStore,
        *,
        tracked: Tracked,
        policy: Policy,
        clones: Path,
    ) -> None:
        self._github = github
        self._steers = steers
        self._store = store
        self._tracked = tracked
        self._policy = policy
        owner, _, repo = tracked.repository.partition("/")
        self._owner, self._repo = owner, repo
        self._upstream = upstream_in(clones, owner, repo, policy.clone_url)

    @activity.defn(name="github_post")
    async def post(self, task: PostTask) -> Posting:
        """Posts the statuses of a pull request that are due.

        What to post it asks the workflow: after an hour without GitHub, what was to be
        posted an hour ago is nobody's concern.

        Raises:
            ApplicationError: GitHub is not there or says "later"; what was posted before
                that is in the heartbeat's details.
        """
        info = activity.info()
        if info.workflow_id is None:
            raise RuntimeError("an activity of a workflow runs without one")
        handle = activity.client().get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        )
        wanted: ToPost = await handle.query(
            "to_post", result_type=ToPost, rpc_timeout=_QUERY_TIMEOUT
        )
        clock = _clock()
        before = details_as(_POSTED, info.heartbeat_details)
        posted = {**wanted.posted, **(before or {})}
        if info.attempt > 1:
            # The attempt before may have sent something of which no answer came.
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
            with beating(beat):
                done = await post_due(
                    writer.send,
                    wanted.statuses,
                    posted,
                    clock=clock,
                    pace=wanted.pace,
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
    async def look(self, task: Look) -> str:
        """Asks GitHub how a pull request is, and tells its workflow.

        Returns:
            What GitHub says, in a word.
        """
        with github_errors(), beating(activity.heartbeat):
            return await self._look(task.pull_request, _clock()())

    @activity.defn(name="github_carry_out")
    async def carry_out(self, given: Delivered) -> Carried:
        """Does what a delivery asks for.

        Raises:
            ApplicationError: GitHub is not there, or Temporal; tried again until it is.
        """
        with github_errors(), beating(activity.heartbeat):
            now = _clock()()
            action = await confirmed(given.action, self._github, self._tracked, now)
            return await self._carry_out(action, now, sure=is_late(given.action, now))

    @activity.defn(name="github_reconcile")
    async def reconcile(self, task: ReconcileTask) -> Reconciled:
        """Compares the open pull requests with the workflows, and has missed deliveries repeated.

        Raises:
            ApplicationError: GitHub is not there, or Temporal; tried again until it is.
        """
        with github_errors(), beating(activity.heartbeat):
            return await self._reconcile(task.since, _clock()())

    async def prepare(self) -> None:
        """Makes or refreshes the clone, so that the first head finds it there.

        Raises:
            InfrastructureError: It cannot be fetched.
        """
        await asyncio.to_thread(self._upstream.refresh, self._policy.branch)

    async def _carry_out(self, action: Action, now: datetime, *, sure: bool) -> Carried:
        match action:
            case HeadChanged():
                ref = action.pull_request
                revision = self._policy.revision(action, authoritative=sure)
                await self._steers.head_changed(ref, revision, self._policy.posting_for(ref))
                words = f"head {action.head[:12]}: {action.why}"
            case Closed():
                return await self._close(action, sure=sure)
            case RefreshBase():
                tip = await asyncio.to_thread(self._upstream.refresh, self._policy.branch)
                words = f"clone at {tip[:12]}"
            case Reconcile():
                found = await self._reconcile(timedelta(days=3), now)
                words = f"{len(found.missed)} missed"
            case Ignore():
                words = action.reason
            case Restart() | Cancel() | Misunderstood():
                words = await self._command(action)
        return Carried(words=words)

    async def _close(self, action: Closed, *, sure: bool) -> Carried:
        said = ClosedAs(as_of=action.as_of, authoritative=sure)
        told = await self._steers.closed(action.pull_request, said)
        # An older head that comes after this would bring the workflow back. Once it is late
        # it does not; until then this is looked at again.
        return Carried(
            words=action.why if told else f"{action.why}: no workflow",
            again_at=None if sure else action.as_of + LATE_AFTER + _A_LITTLE_LATER,
        )

    async def _command(self, action: Restart | Cancel | Misunderstood) -> str:
        if action.ask_permission and not await self._may_command(action.by):
            return f"{action.by} may not command"
        match action:
            case Misunderstood():
                if (number := action.pull_request.number) is not None:
                    await self._github.comment(number, action.answer)
                return "answered"
            case Cancel():
                told = await self._steers.cancel(action.pull_request)
                return "cancelled" if told else "no workflow"
            case Restart():
                numbers = action.numbers
                if not numbers and action.head is not None:
                    numbers = await self._steers.with_head(self._owner, self._repo, action.head)
                told_all = [
                    number
                    for number in numbers
                    if await self._steers.restart(
                        self._tracked.ref(number), action.selectors, head=action.head
                    )
                ]
                return f"restarted: {told_all}" if told_all else "no workflow with that head"

    async def _may_command(self, login: str) -> bool:
        try:
            return await self._github.may_command(login)
        except GitHubRefusedError:
            # Nobody that GitHub knows in this repository.
            return False

    async def _look(self, ref: PullRequestRef, now: datetime) -> str:
        if ref.number is None:
            raise RuntimeError(f"{ref.title} is not on GitHub")
        closed = Closed(pull_request=ref, why="closed", as_of=now)
        action: Action
        try:
            pull = await self._github.pull_request(ref.number)
        except GitHubRefusedError:
            # Deleted, or moved to another repository.
            action = closed
        else:
            action = current(closed, pull, self._tracked)
        return (await self._carry_out(action, now, sure=True)).words

    async def _reconcile(self, since: timedelta, now: datetime) -> Reconciled:
        # First the workflows: what starts meanwhile is listed by GitHub.
        running = await self._steers.running(self._owner, self._repo)
        listed = await self._github.open_pull_requests(self._policy.branch)
        found = compare(listed, running, self._tracked, lately=now - since)
        for missed in (*found.missed, *found.renewed):
            await self._carry_out(missed, now, sure=False)
        for number in found.suspects:
            await self._look(self._tracked.ref(number), now)
        return Reconciled(
            open_pull_requests=len(listed),
            missed=tuple(missed.pull_request.number or 0 for missed in found.missed),
            looked_at=found.suspects,
            redelivered=await self._redeliver(since, now),
        )

    async def _redeliver(self, since: timedelta, now: datetime) -> int:
        if self._tracked.app_id is None:
            return 0
        failed = to_redeliver(await self._github.deliveries(now - since), now)
        asked = 0
        for delivery in failed:
            # GitHub forgets deliveries; one that it no longer has is not asked for again.
            with contextlib.suppress(GitHubRefusedError):
                await self._github.redeliver(delivery)
                asked += 1
        return asked


def _clock() -> Callable[[], datetime]:
    """Returns Temporal's clock: a worker's own may be wrong, and that one orders all."""
    started_at, begun = activity.info().started_time, time.monotonic()
    return lambda: started_at + timedelta(seconds=time.monotonic() - begun)
