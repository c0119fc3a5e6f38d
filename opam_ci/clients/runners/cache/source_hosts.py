"""Hosts of sources that have just refused downloads: all jobs of a machine leave them alone.

A host counts requests by address, so that a machine is what shares a pause: its workers have one
address, those of another machine have another.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from opam_ci.clients.runners.sandbox import locks
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.whole_file import write_whole
from opam_ci.core.jobs.source_hosts import Refusals, refused

_PATIENCE: Final = 180.0
"""Seconds for which one fetch leaves hosts alone at most."""

_LIMIT: Final = 4096
"""Bytes of what is written about a host."""

_AT_ONCE: Final = 20
"""Hosts that one fetch can have written down."""


class SourceHosts:
    """What the jobs of a machine know of hosts of sources.

    Args:
        home: Where that is written down.
        now: Returns the time, in seconds since the epoch.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        home: Path,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._home = home
        self._now = now
        self._sleep = sleep

    @asynccontextmanager
    async def turn(
        self, hosts: Iterable[str], waiting: Callable[[str], None]
    ) -> AsyncIterator[None]:
        """Waits until hosts may be asked; one job at a time asks those that have just refused.

        It takes three minutes at most: then a job asks in any case.

        Args:
            hosts: The hosts.
            waiting: Called with a host whose pause is waited for.

        Raises:
            OSError: What is known cannot be read.
        """
        refusing = [host for host in dict.fromkeys(hosts) if self._refusals(host) is not None]
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    # 16 locks for all hosts, taken in one order.
                    for bucket in sorted({_name(host)[:1] for host in refusing}):
                        await stack.enter_async_context(locks.lock(self._home / f"lock-{bucket}"))
                    for host in refusing:
                        # Whoever asked before may have been refused, too, or served.
                        while (left := self._pause(host)) > 0:
                            waiting(host)
                            await self._sleep(left)
            yield

    def _pause(self, host: str) -> float:
        known = self._refusals(host)
        return 0.0 if known is None else known.pause(self._now())

    def refused(self, hosts: Iterable[str], *, began_at: float) -> None:
        """Writes down that hosts have refused a download.

        Args:
            hosts: The hosts.
            began_at: When the download began, in seconds since the epoch.

        Raises:
            OSError: It cannot be written.
        """
        for host in list(dict.fromkeys(hosts))[:_AT_ONCE]:
            now = refused(self._refusals(host), host, began_at=began_at, now=self._now())
            write_whole(self._home / _name(host), now.model_dump_json().encode())

    def answered(self, hosts: Iterable[str]) -> None:
        """Writes down that hosts have served a download.

        Raises:
            OSError: It cannot be written.
        """
        for host in hosts:
            (self._home / _name(host)).unlink(missing_ok=True)

    def now(self) -> float:
        """Returns the time by which refusals are written down."""
        return self._now()

    def sweep(self) -> None:
        """Removes what means nothing any more."""
        for path in self._home.glob("*"):
            if not path.name.startswith("lock-"):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < self._now() - 3600:
                        path.unlink()

    def _refusals(self, host: str) -> Refusals | None:
        if not self._home.is_dir():
            return None
        data = beneath.read(self._home, _name(host), limit=_LIMIT)
        if data is None:
            return None
        try:
            known = Refusals.model_validate_json(data)
        except ValidationError:
            return None  # torn, or of another version
        return None if known.host != host or known.is_forgotten(self._now()) else known


def _name(host: str) -> str:
    return hashlib.sha256(host.encode()).hexdigest()[:32]
