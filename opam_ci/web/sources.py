"""What pages are made from: the index and the store, opened when they are first needed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Concatenate, ParamSpec, TypeVar

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails
from opam_ci.clients.logs.view import LogViews
from opam_ci.clients.threads import INDEX
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.pages.ops import OpsPage
from opam_ci.core.platforms.model import PlatformTable

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT = 10.0
"""Seconds for one answer of the index: a reader waits no longer, and a page has few of them."""

_OPS_SECONDS = 10.0
"""How long the state of the CI is shown before it is read again: to read it costs more than other
pages, and it is public."""


@dataclass
class PageSources:
    """Index and store, which may be away for a while.

    Attributes:
        index_url: SQLAlchemy URL of the index.
        store: Of logs.
        platforms: The file of platforms and pools.
        contexts: The contexts that are posted to GitHub.
        maximum_attempts: Attempts of a job, for "attempt k of n"; None if they are not known.
        temporal_ui: Address of Temporal's Web UI, for operators; empty for none.
        namespace: Temporal's, for links to it.
        public_url: Address of the pages for others; empty for that of the request.
    """

    index_url: str
    store: ArtifactStore
    platforms: PlatformTable
    contexts: tuple[Context, ...] = DEFAULT_CONTEXTS
    maximum_attempts: int | None = None
    temporal_ui: str = ""
    namespace: str = "default"
    public_url: str = ""
    _index: Index | None = field(default=None, init=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _ops: tuple[float, OpsPage] | None = field(default=None, init=False)
    _reading_ops: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @cached_property
    def views(self) -> LogViews:
        """The logs of the store; one reader for all who follow one."""
        return LogViews(self.store, LogTails(self.store))

    async def ask(
        self, question: Callable[Concatenate[Index, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls a method of the index on a thread.

        Raises:
            InfrastructureError: The index is away, or does not answer in time.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                async with self._opening:
                    if self._index is None:
                        self._index = await INDEX.run(Index.open, self.index_url)
                return await INDEX.run(question, self._index, *args, **kwargs)
        except TimeoutError as error:
            raise InfrastructureError(
                f"the index did not answer within {_TIMEOUT:.0f} s", cause=Cause.STORAGE
            ) from error

    async def ops(self) -> OpsPage:
        """Returns the state of the CI, read from the index once for all who look at it.

        Raises:
            InfrastructureError: The index is away, or does not answer in time.
        """
        async with self._reading_ops:
            now = time.monotonic()
            if self._ops is None or now - self._ops[0] >= _OPS_SECONDS:
                self._ops = (now, await self.ask(Index.ops_page, datetime.now(UTC)))
            return self._ops[1]

    async def close(self) -> None:
        """Closes the index."""
        if self._index is not None:
            await INDEX.run(self._index.close)
