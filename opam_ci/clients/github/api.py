"""The calls to GitHub that this CI makes."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import Field

from opam_ci.clients.github.http import RestClient
from opam_ci.core.batched import batched
from opam_ci.core.github.checks import ANNOTATIONS_LIMIT, CheckRun
from opam_ci.core.github.command import is_permitted
from opam_ci.core.github.model import Login, Sha, Tolerant, Word
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.github.reconcile import Delivery
from opam_ci.core.github.status import Status


class Permission(Tolerant):
    """What an account may do with the repository.

    Attributes:
        permission: `admin`, `write`, `read` or `none`.
        role_name: Also `maintain` or `triage`, or a name of an organisation's own.
    """

    permission: Word
    role_name: Word = ""

    @property
    def role(self) -> str:
        """The more telling of the two."""
        return self.role_name or self.permission

    @property
    def may_command(self) -> bool:
        """Whether the account may command the CI."""
        return is_permitted(self.permission, self.role_name)


class _Created(Tolerant):
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
    """Our App as registered at GitHub.

    Attributes:
        id: Its id.
        permissions: Such as `{"statuses": "write"}`.
        events: Webhook events that it is subscribed to.
    """

    id: int
    permissions: dict[str, str] = Field(default_factory=dict)
    events: tuple[str, ...] = ()


class GitHub(RestClient):
    """One repository on GitHub.

    Every call raises `InfrastructureError` with cause `github` when GitHub is not available or
    a rate limit holds (then with `retry_after`), and `GitHubRefusedError` when a retry would get
    the same response. To be used from one event loop.
    """

    @property
    def _repo(self) -> str:
        return f"/repos/{self.repository}"

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
        await self.send(_Created, "POST", f"{self._repo}/statuses/{status.sha}", body)

    async def open_pull_requests(self, base: str) -> tuple[PullRequest, ...]:
        """Lists all open pull requests onto a branch, oldest first.

        One that is closed meanwhile can push another one off its page, and so off the
        list: get those that are missing one by one.
        """
        query = {"state": "open", "base": base, "sort": "created", "direction": "asc"}
        found = await self.get_all(PullRequest, f"{self._repo}/pulls", query)
        return tuple({pull.number: pull for pull in found}.values())

    async def pull_request(self, number: int) -> PullRequest:
        """Gets one pull request."""
        return await self.get(PullRequest, f"{self._repo}/pulls/{number}")

    async def create_check_run(self, run: CheckRun) -> int:
        """Creates a check run, with all its annotations, and returns its id."""
        portions = _portions(run)
        created = await self.send(_Created, "POST", f"{self._repo}/check-runs", portions[0])
        await self._annotate(created.id, portions[1:])
        return created.id

    async def put_check_run(self, run: CheckRun) -> None:
        """Creates a check run, or updates the one that exists.

        Annotations are sent once, in their order: those that an earlier, failed call did not
        send are added. A concluded run is not opened again; a new one takes its place.
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
        found = await self.get(_FoundRuns, f"{self._repo}/commits/{sha}/check-runs?{query}")
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
        return await self.get_all(
            Delivery,
            "/app/hook/deliveries",
            {},
            identity="app",
            enough=lambda delivery: delivery.delivered_at < since,
        )

    async def redeliver(self, delivery: int) -> None:
        """Requests another attempt, which arrives as a webhook with the same guid.

        Args:
            delivery: Id of an attempt.
        """
        path = f"/app/hook/deliveries/{delivery}/attempts"
        await self.send(object, "POST", path, identity="app")

    async def permission(self, login: Login) -> Permission:
        """Returns what an account may do. Not cached, as permissions can be withdrawn."""
        path = f"{self._repo}/collaborators/{quote(login, safe='')}/permission"
        return await self.get(Permission, path)

    async def may_command(self, login: Login) -> bool:
        """Whether an account may command the CI."""
        return (await self.permission(login)).may_command

    async def comment(self, number: int, text: str) -> None:
        """Comments on a pull request. Not idempotent: a second call makes a second comment."""
        path = f"{self._repo}/issues/{number}/comments"
        await self.send(_Created, "POST", path, {"body": text})

    async def app(self) -> AppFacts:
        """Returns our App as registered at GitHub: for the check of a set-up."""
        return await self.get(AppFacts, "/app", identity="app")

    async def _annotate(self, check_run: int, portions: list[dict[str, Any]]) -> None:
        path = f"{self._repo}/check-runs/{check_run}"
        for portion in portions:
            await self.send(_Created, "PATCH", path, portion)


def _portions(run: CheckRun) -> list[dict[str, Any]]:
    """Returns the requests that make up a check run: 50 annotations go into one.

    The conclusion is in the last of them: GitHub shows the check as done with it.
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
            "output": {**whole["output"], "annotations": list(some)},
        }
        for some in batched(annotations, ANNOTATIONS_LIMIT)
    ]
    last = {**whole, "output": portions[-1]["output"]}
    return [*portions[:-1], last]
