"""The calls to GitHub that this CI makes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import Field

from opam_ci.clients.github_auth import Credentials
from opam_ci.clients.github_http import PUBLIC_API, TOTAL_TIMEOUT, Requests
from opam_ci.core.github.checks import ANNOTATIONS_LIMIT, CheckRun
from opam_ci.core.github.command import is_permitted
from opam_ci.core.github.model import Login, RepositoryName, Sha, Tolerant, Word
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.github.reconcile import Delivery
from opam_ci.core.github.status import Status


class _Permission(Tolerant):
    permission: Word
    role_name: Word = ""


class _Made(Tolerant):
    id: int


class _FoundOutput(Tolerant):
    annotations_count: int = 0


class _FoundRun(Tolerant):
    id: int
    external_id: str | None = None
    status: Word = ""
    output: _FoundOutput = _FoundOutput()


class _FoundRuns(Tolerant):
    check_runs: tuple[_FoundRun, ...]


class AppFacts(Tolerant):
    """What GitHub knows of our App.

    Attributes:
        id: Its id.
        permissions: Such as `{"statuses": "write"}`.
        events: Webhook events that it is subscribed to.
    """

    id: int
    permissions: dict[str, str] = Field(default_factory=dict)
    events: tuple[str, ...] = ()


class GitHub:
    """One repository on GitHub.

    Every call raises `InfrastructureError` with cause `github` when GitHub is not there or
    says "later" (then with `retry_after`), and `GitHubRefusedError` when it will give the
    same answer again. To be used from one event loop.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of its own
        self,
        repository: RepositoryName,
        credentials: Credentials,
        *,
        base_url: str = PUBLIC_API,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        total_timeout: timedelta = TOTAL_TIMEOUT,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            repository: Owner and name.
            credentials: An App's, or a token.
            base_url: Of the API; another one for GitHub Enterprise and for tests.
            transport: For tests.
            clock: For tests.
            total_timeout: Longest request, waiting for its turn included.
        """
        self.repository = repository
        self._repo = f"/repos/{repository}"
        self._requests = Requests(
            repository,
            credentials,
            base_url=base_url,
            transport=transport,
            clock=clock,
            total_timeout=total_timeout,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        await self._requests.close()

    async def create_status(self, status: Status) -> None:
        """Posts a commit status.

        Raises:
            GitHubRefusedError: The commit is gone, or has 1,000 statuses of this context.
        """
        body = {
            "state": status.state.value,
            "description": status.description,
            "context": status.context,
            "target_url": status.target_url,
        }
        await self._requests.send(_Made, "POST", f"{self._repo}/statuses/{status.sha}", body)

    async def open_pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        """Lists all open pull requests onto a branch, oldest first.

        One that is closed meanwhile can push another one off its page, and so off the
        list: whoever is missing must be asked for by itself.
        """
        query = {"state": "open", "base": base, "sort": "created", "direction": "asc"}
        found = await self._requests.list(PullRequest, f"{self._repo}/pulls", query)
        return tuple({pull.number: pull for pull in found}.values())

    async def pull_request(self, number: int) -> PullRequest:
        """Gets one pull request."""
        return await self._requests.get(PullRequest, f"{self._repo}/pulls/{number}")

    async def create_check_run(self, run: CheckRun) -> int:
        """Creates a check run, with all its annotations, and returns its id."""
        portions = _portions(run)
        made = await self._requests.send(_Made, "POST", f"{self._repo}/check-runs", portions[0])
        await self._annotate(made.id, portions[1:])
        return made.id

    async def put_check_run(self, run: CheckRun) -> None:
        """Makes a check run what it should be, whether it was there before or not.

        Annotations are given once, in their order: those that an earlier call did not come
        to are added. A concluded run is not opened again; a new one takes its place.
        """
        found = await self._newest_run(run.head_sha, run.name, run.external_id)
        if found is None or (found.status == "completed" and run.conclusion is None):
            await self.create_check_run(run)
            return
        if run.output is not None:
            rest = run.output.annotations[found.output.annotations_count :]
            output = run.output.model_copy(update={"annotations": rest})
            run = run.model_copy(update={"output": output})
        await self.update_check_run(found.id, run)

    async def _newest_run(self, sha: Sha, name: str, external_id: str) -> _FoundRun | None:
        query = httpx.QueryParams({"check_name": name, "filter": "latest", "per_page": "100"})
        found = await self._requests.get(
            _FoundRuns, f"{self._repo}/commits/{sha}/check-runs?{query}"
        )
        runs = [run for run in found.check_runs if run.external_id == external_id]
        return max(runs, key=lambda run: run.id, default=None)

    async def update_check_run(self, check_run: int, run: CheckRun) -> None:
        """Overwrites a check run. Its annotations are added to those it has.

        Args:
            check_run: Its id.
            run: How it should be.
        """
        portions = _portions(run)
        # It belongs to the commit for which it was made.
        await self._annotate(
            check_run, [{k: v for k, v in part.items() if k != "head_sha"} for part in portions]
        )

    async def deliveries(self, since: datetime) -> tuple[Delivery, ...]:
        """Lists the attempts to deliver webhooks of our App, newest first.

        Args:
            since: Older ones may be missing.
        """
        return await self._requests.list(
            Delivery,
            "/app/hook/deliveries",
            {},
            who="app",
            enough=lambda delivery: delivery.delivered_at < since,
        )

    async def redeliver(self, delivery: int) -> None:
        """Asks for another attempt; it comes as a webhook with the same guid.

        Args:
            delivery: Id of an attempt.
        """
        path = f"/app/hook/deliveries/{delivery}/attempts"
        await self._requests.send(object, "POST", path, who="app")

    async def may_command(self, login: Login) -> bool:
        """Whether an account may command the CI: asked anew each time, as rights end."""
        path = f"{self._repo}/collaborators/{quote(login, safe='')}/permission"
        found = await self._requests.get(_Permission, path)
        return is_permitted(found.permission, found.role_name)

    async def comment(self, number: int, text: str) -> None:
        """Comments on a pull request. Not idempotent: repeated, it is there twice."""
        path = f"{self._repo}/issues/{number}/comments"
        await self._requests.send(_Made, "POST", path, {"body": text})

    async def app(self) -> AppFacts:
        """Returns what GitHub knows of our App: for the check of a set-up."""
        return await self._requests.get(AppFacts, "/app", who="app")

    async def _annotate(self, check_run: int, portions: list[dict[str, Any]]) -> None:
        path = f"{self._repo}/check-runs/{check_run}"
        for portion in portions:
            await self._requests.send(_Made, "PATCH", path, portion)


def _portions(run: CheckRun) -> list[dict[str, Any]]:
    """Returns the requests that make up a check run: 50 annotations go into one.

    The conclusion comes with the last of them: GitHub shows the check as done with it.
    """
    whole = run.model_dump(mode="json", exclude_none=True)
    annotations = whole.get("output", {}).pop("annotations", [])
    if len(annotations) <= ANNOTATIONS_LIMIT:
        if annotations:
            whole["output"]["annotations"] = annotations
        return [whole]
    open_run = {k: v for k, v in whole.items() if k not in {"conclusion", "completed_at"}}
    portions = [
        {
            **open_run,
            "status": "in_progress",
            "output": {**whole["output"], "annotations": annotations[at : at + ANNOTATIONS_LIMIT]},
        }
        for at in range(0, len(annotations), ANNOTATIONS_LIMIT)
    ]
    last = {**whole, "output": portions[-1]["output"]}
    return [*portions[:-1], last]
