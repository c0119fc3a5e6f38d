"""Upper bounds that reverse dependencies lack: for pages, as files, and for the JSON API."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.index import Index
from opam_ci.clients.judge import judged
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.records import JobRecord, RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.bounds import (
    MOST_FILES,
    BoundedFile,
    BoundsPatch,
    Regression,
    bounded_file,
    by_revdep,
)
from opam_ci.web.addresses import requested_job
from opam_ci.web.head_pages import find
from opam_ci.web.rendering import answer
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources

_AT_ONCE = 8
"""Logs whose ends are read at once."""

_PATCH = "text/x-patch; charset=utf-8"


class Bounds:
    """Reads what is confirmed from the index, and the opam files from the store.

    Args:
        sources: Index and store.
    """

    def __init__(self, sources: PageSources) -> None:
        self._sources = sources

    async def read(self, key: RevisionKey, job: str | None = None) -> BoundsPatch:
        """Returns the bounds that reverse dependencies of a head lack.

        Args:
            key: The testing.
            job: Id of the only job that is looked at; None for all.

        Raises:
            InfrastructureError: The index or the store cannot be read.
        """
        found = by_revdep(await self._sources.ask(Index.regressions, key, job=job))
        slots = asyncio.Semaphore(_AT_ONCE)

        async def file(revdep: str, regressions: list[Regression]) -> BoundedFile:
            async with slots:
                return bounded_file(revdep, regressions, await self._opam_file(regressions))

        files = await asyncio.gather(*(file(*each) for each in found[:MOST_FILES]))
        return BoundsPatch(files=tuple(files), more=max(0, len(found) - MOST_FILES))

    async def _opam_file(self, regressions: list[Regression]) -> str:
        """Returns the opam file that is stored with one of the attempts; empty if none is."""
        for log in dict.fromkeys(each.log for each in regressions if each.log is not None):
            kept = await judged.load(self._sources.store, log)
            environment = None if kept is None else kept.facts.environment
            if environment is not None and environment.opam_file:
                return environment.opam_file
        return ""


class BoundsFiles:
    """The patches, as files to download.

    Args:
        site: What pages are made from.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._bounds = Bounds(site.sources)

    async def of_head(self, request: Request) -> Response:
        """Answers with the patch of all reverse dependencies of a head."""
        found = await self._bounds.read(await find(self._site, request))
        return answer(request, found.text, media_type=_PATCH)

    async def of_job(self, request: Request) -> Response:
        """Answers with the patch of one."""
        key = await find(self._site, request)
        found = await self._bounds.read(key, requested_job(request))
        return answer(request, found.text, media_type=_PATCH)

    async def on_page(self, job: JobRecord) -> BoundedFile | None:
        """Returns what the page of a job shows; None if there is nothing, or the store is away."""
        if job.status.job.kind not in REVDEP_KINDS or job.standing is not Standing.FAILED:
            return None
        try:
            found = await self._bounds.read(job.revision, job.status.job.id)
        except InfrastructureError:
            return None
        return found.files[0] if found.files else None
