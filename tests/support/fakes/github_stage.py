"""A stage for stories: the fake GitHub, the receiver, and workers on a Temporal server."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle

from opam_ci.activities.github import GitHubActivities
from opam_ci.app.github_service import github_worker
from opam_ci.app.pull_requests import PullRequests
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.github.action import Tracked
from opam_ci.core.github.debounce import Debounce
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.github.revision import Policy, lighter
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import Summary
from opam_ci.web.acceptance import Acceptance
from opam_ci.web.webhook import Webhook
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.deliveries import InMemoryDeliveries
from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_wire import Description, Wire, connect, listener
from tests.support.fakes.world import Script, is_decided, workers

_LOOK_INTERVAL = 0.05
"""Seconds between two polls."""

CHECKS = CheckOptions(
    retry=RetrySettings(
        initial_interval=timedelta(seconds=2), backoff_coefficient=1, maximum_attempts=3
    ),
    heartbeat_timeout=timedelta(seconds=5),
)


def policy_for(  # noqa: PLR0913 - each is a setting that a story may need
    *,
    checks: CheckOptions = CHECKS,
    check_runs: bool = True,
    debounce: Debounce | None = None,
    clone_url: str = "file:///nowhere",
    heartbeat_timeout: timedelta = timedelta(seconds=5),
    target: str | None = "https://ci.example.org/{owner}/{repo}/{number}",
) -> Policy:
    return Policy(
        clone_url=clone_url,
        branch="master",
        posting=PostingOptions(
            check_runs=check_runs,
            debounce=debounce or Debounce(interval=timedelta(seconds=2)),
            heartbeat_timeout=heartbeat_timeout,
        ),
        target=target,
        checks=checks,
        draft_checks=lighter(checks),
    )


class Stage:
    """The parts of a story, and ways to observe them."""

    def __init__(  # noqa: PLR0913 - each is a part of the stage
        self,
        client: Client,
        fake: FakeGitHub,
        script: Script,
        *,
        policy: Policy,
        clones: Path,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        description: Description | None = None,
    ) -> None:
        self.client = client
        self.fake = fake
        self.script = script
        self.wire = Wire(fake, description)
        self.tracked = Tracked(repository=fake.full_name, app_id=fake.app_id)
        self.policy = policy
        self.store = ArtifactStore.open("memory:")
        self.github = connect(fake, self.wire)
        self.pull_requests = PullRequests(client)
        self.activities = GitHubActivities(
            self.github,
            self.pull_requests,
            self.store,
            tracked=self.tracked,
            policy=policy,
            clones=clones,
        )
        self.deliveries = InMemoryDeliveries()
        self.webhook = Webhook(
            secret=fake.secret,
            tracked=self.tracked,
            accept=Acceptance(self.pull_requests, policy, clock=fake.clock).accept,
            deliveries=self.deliveries,
        )
        fake.listener = listener(self.webhook)
        self._sleep = sleep

    def reconfigure(self, **changes: object) -> None:
        """Has the CI run with other settings from now on."""
        self.policy = Policy.model_validate(dict(self.policy) | changes)
        self.activities._policy = self.policy
        accept = Acceptance(self.pull_requests, self.policy, clock=self.fake.clock).accept
        self.webhook.accept = accept

    def handle(self, number: int) -> WorkflowHandle[PullRequestWorkflow, object]:
        return self.client.get_workflow_handle(self.tracked.ref(number).workflow_id)

    async def summary(self, number: int) -> Summary:
        found: Summary = await self.handle(number).query(PullRequestWorkflow.summary)
        return found

    async def decided(self, number: int) -> Summary:
        """Waits until every job of a pull request is decided."""
        for _ in range(600):
            summary = await self.summary(number)
            if is_decided(summary):
                return summary
            await self._sleep(_LOOK_INTERVAL)
        raise AssertionError(f"never decided: {summary.model_dump_json(indent=1)}")

    def words(self, head: str, context: str = "opam-ci") -> list[str]:
        """Returns all statuses of a head, oldest first."""
        return [
            f"{status['state']}: {status['description']}"
            for status in self.fake.statuses.get((head, context), [])
        ]

    def last(self, head: str, context: str = "opam-ci") -> str:
        return (self.words(head, context) or ["nothing"])[-1]

    def page(self, head: str) -> dict[str, str]:
        """Returns what the page of a head has for each context, from the index alone."""
        index = self.script.index.real
        key = index.find_head(self.fake.full_name, head=head)
        page = index.head_page(key, maximum_attempts=3) if key is not None else None
        contexts = page.contexts if page is not None else ()
        return {each.name: f"{each.state}: {each.description}" for each in contexts}

    async def until_paged(self, head: str) -> None:
        """Waits until the page of a head says what was posted of it last, in each context."""
        posting = self.policy.posting
        assert posting is not None
        names = [each.name for each in posting.contexts]
        await self.until(lambda: self.page(head) == {name: self.last(head, name) for name in names})

    async def until(self, so: Callable[[], bool], *, seconds: float = 60) -> None:
        """Waits until a condition holds; the limit is for a busy machine."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if so():
                return
            await self._sleep(_LOOK_INTERVAL)
        heads = {
            key: [f"{s['state']}: {s['description']}" for s in all_]
            for key, all_ in self.fake.statuses.items()
        }
        raise AssertionError(f"the condition never held; GitHub has {heads}")

    async def ended(self, number: int) -> None:
        """Waits until a pull request's workflow has ended, and with it all of its statuses."""
        handle = self.handle(number)
        await handle.result()
        assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED

    @contextlib.contextmanager
    def unheard(self) -> Iterator[None]:
        """No webhook of what happens in a block is received; `fake.redeliver` sends it later."""
        listener, self.fake.listener = self.fake.listener, None
        try:
            yield
        finally:
            self.fake.listener = listener

    async def until_said(
        self, head: str, words: str, context: str = "opam-ci", *, seconds: float = 60
    ) -> None:
        """Waits until the last status of a head contains this text."""
        await self.until(lambda: words in self.last(head, context), seconds=seconds)


@contextlib.asynccontextmanager
async def staged(  # noqa: PLR0913 - each is a part of the stage
    client: Client,
    fake: FakeGitHub,
    script: Script,
    *,
    clones: Path,
    policy: Policy | None = None,
    description: Description | None = None,
) -> AsyncIterator[Stage]:
    """Runs workers for a story."""
    stage = Stage(
        client,
        fake,
        script,
        policy=policy or policy_for(),
        clones=clones,
        description=description,
    )
    async with workers(client, script), github_worker(client, stage.activities):
        yield stage
    await stage.github.close()
