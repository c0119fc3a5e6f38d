"""The sources of one job: those that this machine has, and those that the job fetches.

See docs/adr/0039-sources-once.md. The store only spares downloads: whatever is wrong with it, the
job fetches as without it, and opam compares all that it takes with the checksums.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from opam_ci.clients.runners.cache.archives import ArchiveStore, show_mirrored
from opam_ci.clients.runners.cache.source_hosts import SourceHosts
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.executor import READ_LIMIT, Read
from opam_ci.clients.runners.phases.mirrors import Mirrors
from opam_ci.core.classify.sources import refused_url
from opam_ci.core.jobs.archives import Archive, host_of
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.facts import OpamAction


class SourceStore:
    """What the jobs of a machine share: archives, and what is known of hosts.

    Args:
        home: The directory of images, layers and job roots.
        limit: Bytes of archives that are kept; with 0 jobs share nothing.
    """

    def __init__(self, home: Path, limit: int) -> None:
        self.archives = ArchiveStore(home / "sources", limit)
        self._hosts = SourceHosts(home / "source-hosts")
        self._is_on = limit > 0

    def of_job(self, directory: Path, mirrors: Mirrors) -> "JobSources | None":
        """Returns one job's use of the store, None if there can be none.

        Args:
            directory: A directory of the job, beside what it writes.
            mirrors: Its archive mirrors.
        """
        view = directory / "sources"
        try:
            if self._is_on:
                view.mkdir(mode=0o755)
                view.chmod(0o755)
                return JobSources(self.archives, self._hosts, view, mirrors)
        except OSError:
            pass  # the job's first write says more
        return None

    async def sweep(self) -> None:
        """Removes what killed workers left, and archives above the limit."""
        await self.archives.sweep()
        await asyncio.to_thread(self._hosts.sweep)


class JobSources:
    """One job's use of the store.

    Args:
        archives: The archives of the machine.
        hosts: What is known of hosts.
        view: What the job sees of the store: an empty directory.
        mirrors: The job's archive mirrors.

    Attributes:
        mirrors: Those, and what the job sees of the store.
        counts: How many archives came from where.
        has_some: Whether the job sees archives that this machine has.
        has_all: Whether it needs no others: then there is nothing to fetch.
    """

    def __init__(
        self, archives: ArchiveStore, hosts: SourceHosts, view: Path, mirrors: Mirrors
    ) -> None:
        self._archives = archives
        self._hosts = hosts
        self._view = view
        self._local = mirrors.directories
        self._missing: tuple[Archive, ...] = ()
        self._began_at = 0.0
        self.mirrors = mirrors.with_sources(view)
        self.counts = SourceCounts()
        self.has_some = self.has_all = False

    @asynccontextmanager
    async def fetching(
        self, wanted: Iterable[Archive], own: Iterable[Archive], note: Callable[[str], None]
    ) -> AsyncIterator[None]:
        """Shows the job what this machine has; then the job's turn to fetch the others has come.

        Args:
            wanted: All archives that the job needs.
            own: Those of the package under test, which the job fetches from where its author says
                that they are.
            note: Writes a line into the job's log.
        """
        asked = dict.fromkeys(own)
        fixed = {checksum for archive in asked for checksum in archive.checksums}
        shared = dict.fromkeys(archive for archive in wanted if fixed.isdisjoint(archive.checksums))
        missing = await self._unseen(shared, note)
        async with AsyncExitStack() as stack:
            try:
                if missing:
                    await stack.enter_async_context(
                        self._archives.fetching(
                            missing, lambda: note("waiting for another job that fetches the same")
                        )
                    )
                    # The other job may have fetched all of it.
                    missing = await self._unseen(missing, note)
                self._missing = (*missing, *await self._unmirrored(asked, note))
                await stack.enter_async_context(
                    self._hosts.turn(
                        (host for archive in self._missing for host in archive.hosts),
                        lambda host: note(f"waiting before {host} is asked again"),
                    )
                )
            except OSError as error:
                note(f"other jobs may fetch the same: {_what(error)}")
                self._missing = (*missing, *asked)
            if taken := self.counts.taken:
                note(f"{taken} archives from this machine's store of sources")
            self.has_all = not self._missing
            self._began_at = self._hosts.now()
            yield

    async def _unseen(
        self, archives: Iterable[Archive], note: Callable[[str], None]
    ) -> tuple[Archive, ...]:
        """Shows archives to the job; returns those that neither the store nor a mirror here has."""
        unseen = await self._unmirrored(archives, note)
        for archive in tuple(unseen):
            try:
                if await asyncio.to_thread(self._archives.show, archive, self._view):
                    unseen.remove(archive)
                    self.has_some = True
                    self.counts = SourceCounts(taken=self.counts.taken + 1)
            except OSError as error:
                note(f"the store of sources cannot be read: {_what(error)}")
                break
        return tuple(unseen)

    async def _unmirrored(
        self, archives: Iterable[Archive], note: Callable[[str], None]
    ) -> list[Archive]:
        """Shows archives to the job; returns those that no mirror on this machine has."""
        missing = []
        for archive in archives:
            try:
                seen = await asyncio.to_thread(self._show_mirrored, archive)
            except OSError as error:
                note(f"a mirror on this machine cannot be read: {_what(error)}")
                seen = False
            self.has_some |= seen
            if not seen:
                missing.append(archive)
        return missing

    def _show_mirrored(self, archive: Archive) -> bool:
        return any(
            show_mirrored(archive, self._view, mirror, inside) for mirror, inside in self._local
        )

    async def keep(self, read: Read, note: Callable[[str], None]) -> None:
        """Puts into the store what the job has fetched.

        Args:
            read: Reads files of the job's build root.
            note: Writes a line into the job's log.
        """
        fetched = new = 0
        try:
            for archive in self._missing:
                # One by one, since each may take as much memory as all of them may.
                found = await read(
                    *(f"{phases.DOWNLOADS}/{path}" for path in archive.paths), limit=READ_LIMIT
                )
                if not found:
                    continue
                fetched += 1
                new += await asyncio.to_thread(
                    self._archives.keep, archive, next(iter(found.values()))
                )
            if new:
                await self._archives.prune()
        except OSError as error:
            note(f"what was fetched cannot be kept: {_what(error)}")
        self.counts = self.counts.model_copy(update={"fetched": fetched})

    async def record(
        self, *, ok: bool, actions: Sequence[OpamAction], network_works: bool | None
    ) -> None:
        """Writes down which hosts refused downloads, for all jobs of this machine.

        Args:
            ok: Whether everything could be fetched.
            actions: What opam reported.
            network_works: Whether another host could be reached after a failed download.
        """
        urls = (refused_url(each.command or "") for each in actions if each.action == "fetch")
        refusing = [host for url in urls if url and (host := host_of(url)) is not None]
        try:
            if ok:
                hosts = {host for archive in self._missing for host in archive.hosts}
                await asyncio.to_thread(self._hosts.answered, hosts)
            elif network_works is not False:
                await asyncio.to_thread(self._hosts.refused, refusing, began_at=self._began_at)
        except OSError:
            pass  # others ask it then


def _what(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "") or type(error).__name__
