"""A server with pages, API and actions, over a real index; workflows and GitHub are fakes."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr
from starlette.types import ASGIApp

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import Tracked
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate, Taken
from opam_ci.web.action_service import routes_beside_pages
from opam_ci.web.actions import Actions
from opam_ci.web.pages import application
from opam_ci.web.sign_in import SignIn
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from opam_ci.web.tokens import Tokens
from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_oauth import FakeOAuth
from tests.support.fakes.github_wire import connect
from tests.support.fakes.serving import served

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REPOSITORY = "o/r"

Answer = Taken | None | UsageError | InfrastructureError

THREE = Taken(jobs=3, by_platform={"p": 3}, first=("build p a.1", "build p b.1", "build p c.1"))


@dataclass
class FakeWorkflows:
    """Takes the updates of workflows.

    Attributes:
        answer: To each.
        updates: Those that came.
    """

    answer: Answer = THREE
    updates: list[tuple[str, RestartUpdate | CancelUpdate]] = field(default_factory=list)

    async def restart_jobs(
        self, workflow_id: str, update: RestartUpdate | CancelUpdate
    ) -> Taken | None:
        self.updates.append((workflow_id, update))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    cancel_jobs = restart_jobs


class CiServer:
    """The server, and what stands behind it."""

    def __init__(self, folder: Path, url: str = "http://127.0.0.1") -> None:
        self.index_url = f"sqlite:///{folder}/index.sqlite"
        self.index = Index.open(self.index_url)
        self.store = ArtifactStore.open(f"file://{folder}/store")
        self.github = FakeGitHub(full_name=REPOSITORY)
        self.github.roles |= {"maintainer": "maintain", "triager": "triage"}
        self.oauth = FakeOAuth(
            tokens={f"ghp_{name}": name for name in ("maintainer", "triager", "alice", "mallory")}
        )
        self.workflows = FakeWorkflows()
        self.sources = PageSources(
            index_url=self.index_url, store=self.store, platforms=load_platforms(None)
        )
        oauth = self.oauth.client()
        self.sign_in = SignIn(oauth, SecretStr("a secret"), url=url)
        self.actions = Actions(
            sources=self.sources,
            updates=self.workflows,
            github=connect(self.github),
            sign_in=self.sign_in,
            tokens=Tokens(oauth),
            tracked=Tracked(repository=REPOSITORY),
            clock=lambda: NOON,
        )

    def application(self) -> ASGIApp:
        site = Site(self.sources, acts_on=REPOSITORY)
        return application(site, routes_beside_pages(site, self.actions))

    def write_log(self, key: str, text: bytes) -> None:
        """Stores the log of an attempt that has ended."""

        async def write() -> None:
            async with LogWriter(self.store, key) as log:
                log.write(text)

        asyncio.run(write())

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serves it on a free port; yields its URL."""
        with served(self.application()) as url:
            yield url

    def close(self) -> None:
        asyncio.run(self.sources.close())
        self.index.close()
