"""Activities on lists of reverse dependencies: from the store, and from the index."""

import asyncio
from collections.abc import Iterator

from pydantic import ValidationError
from temporalio import activity

from opam_ci.clients.index import Index, JobFilter, Page, Place, RevisionFilter
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.build import Revdep
from opam_ci.core.errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.records import JobRecord
from opam_ci.core.revdeps import (
    REVDEP_KINDS,
    FindJobs,
    FoundJob,
    FoundJobs,
    ListPart,
    RevdepList,
    is_taken,
)
from opam_ci.core.summary import cause_of

_FOUND_AT_ONCE = 500
"""Rows that one look into the index reads."""


class RevdepsActivities:
    """What a RevdepsWorkflow asks: which packages come next, and which jobs run again."""

    def __init__(self, store: ArtifactStore, index: Index) -> None:
        self._store = store
        self._index = index

    @activity.defn
    async def list_part(self, part: ListPart) -> RevdepList:
        """Returns a part of a stored listing.

        Raises:
            InfrastructureError: The store cannot be read, or holds something else.
        """
        text = await self._store.get(part.key)
        try:
            whole = RevdepList.model_validate_json(text)
        except ValidationError as error:
            raise InfrastructureError(
                f"{part.key} holds no list of reverse dependencies", cause=Cause.STORAGE
            ) from error
        chosen: tuple[Revdep, ...] = whole.revdeps[part.start : part.start + part.limit]
        return RevdepList(revdeps=chosen)

    @activity.defn
    async def find_jobs(self, wanted: FindJobs) -> FoundJobs:
        """Returns a part of the jobs that a restart takes; it can be empty in the middle.

        Builds come before tests.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        number, _, after = (wanted.after or "0 ").partition(" ")
        kind = REVDEP_KINDS[int(number)]
        page: Page[JobRecord] = await asyncio.to_thread(
            self._index.jobs,
            JobFilter(
                of=RevisionFilter(revision=wanted.revision),
                platform=wanted.platform,
                package=wanted.package,
                kind=kind,
            ),
            place=Place(limit=_FOUND_AT_ONCE, after=after or None),
        )
        following = None
        if page.following is not None:
            following = f"{number} {page.following}"
        elif int(number) + 1 < len(REVDEP_KINDS):
            following = f"{int(number) + 1} "
        return FoundJobs(jobs=tuple(_taken(wanted, page)), following=following)


def _taken(wanted: FindJobs, page: Page[JobRecord]) -> Iterator[FoundJob]:
    for record in page.items:
        status = record.status
        if is_taken(wanted.selector, status.job, status.outcome):
            yield FoundJob(
                job=status.job,
                standing=record.standing,
                cause=cause_of(status),
                automatic=status.automatic,
            )
