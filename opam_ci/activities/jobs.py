"""Activities on the list of jobs, which the index alone has."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from pydantic import ValidationError
from temporalio import activity

from opam_ci.clients.index import Index
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.build import RevdepList
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.messages import (
    ChangeJobs,
    ConcludeJobs,
    CountJobs,
    JobPage,
    PlanJobs,
    PlanRevdeps,
    PlatformStandings,
    SettleJobs,
    TakeJobs,
)
from opam_ci.core.outcome import Cause
from opam_ci.core.plan import PlannedJob, planned_jobs, revdep_jobs
from opam_ci.core.selector import RestartAsker, Taken

_PLANNED_BETWEEN_HEARTBEATS = 2_000
"""Jobs that are put into the index in some hundred milliseconds."""


class JobActivities:
    """What workflows ask of the list of jobs. All of it can be done twice.

    Args:
        index: The list.
        store: Where listings of reverse dependencies are.
    """

    def __init__(self, index: Index, store: ArtifactStore) -> None:
        self._index = index
        self._store = store

    @property
    def all(self) -> list[Callable[..., Any]]:
        """All of these activities, for a worker."""
        return [
            self.plan_jobs,
            self.plan_revdeps,
            self.take_jobs,
            self.count_jobs,
            self.restart_jobs,
            self.cancel_jobs,
            self.settle_jobs,
            self.conclude_jobs,
        ]

    @activity.defn
    async def plan_jobs(self, given: PlanJobs) -> None:
        """Puts the jobs of a head into the index; those of an earlier round run again.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        jobs = planned_jobs(given.packages, given.platforms)
        await self._plan(given, jobs, given.asker)

    @activity.defn
    async def plan_revdeps(self, given: PlanRevdeps) -> None:
        """Puts the jobs on the reverse dependencies of a package into the index.

        Raises:
            InfrastructureError: The store cannot be read or holds something else, or the index
                cannot be written.
        """
        text = await self._store.get(given.listing)
        try:
            listed = RevdepList.model_validate_json(text)
        except ValidationError as error:
            raise InfrastructureError(
                f"{given.listing} is not a list of reverse dependencies", cause=Cause.STORAGE
            ) from error
        jobs = revdep_jobs(given.platform, given.package, listed.revdeps)
        await self._plan(given, jobs, None)

    @activity.defn
    async def take_jobs(self, given: TakeJobs) -> JobPage:
        """Returns a platform's next queued jobs.

        Raises:
            UsageError: `after` is not what a page before returned.
            InfrastructureError: The index cannot be read.
        """
        return await asyncio.to_thread(self._index.take, given)

    @activity.defn
    async def count_jobs(self, given: CountJobs) -> PlatformStandings:
        """Counts the jobs of platforms.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        return PlatformStandings(platforms=await asyncio.to_thread(self._index.count, given))

    @activity.defn
    async def restart_jobs(self, given: ChangeJobs) -> Taken:
        """Queues decided jobs again, or says which it would.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        return await asyncio.to_thread(self._index.requeue, given, datetime.now(UTC))

    @activity.defn
    async def cancel_jobs(self, given: ChangeJobs) -> Taken:
        """Cancels queued jobs, or says which it would; those under way are counted with them.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        # The same for each attempt, so that a later one recognises what this one cancelled.
        at = activity.info().scheduled_time
        return await asyncio.to_thread(self._index.cancel, given, at)

    @activity.defn
    async def settle_jobs(self, given: SettleJobs) -> None:
        """Decides all undecided jobs of platforms.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        await asyncio.to_thread(self._index.settle, given, datetime.now(UTC))

    @activity.defn
    async def conclude_jobs(self, given: ConcludeJobs) -> bool:
        """Decides what only all platforms together can decide.

        Returns:
            Whether jobs have changed, or may have: an attempt before this one could not say so.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        changed = await asyncio.to_thread(self._index.conclude, given, datetime.now(UTC))
        return changed or activity.info().attempt > 1

    async def _plan(
        self, given: PlanJobs | PlanRevdeps, jobs: Iterator[PlannedJob], asker: RestartAsker | None
    ) -> None:
        plan = partial(
            self._index.plan, given.key, round_=given.round, asker=asker, at=datetime.now(UTC)
        )
        while some := tuple(islice(jobs, _PLANNED_BETWEEN_HEARTBEATS)):
            planning = asyncio.create_task(asyncio.to_thread(plan, some))
            try:
                await asyncio.shield(planning)
            except asyncio.CancelledError:
                # A thread cannot be stopped, and whoever cancels counts on that nothing follows.
                await asyncio.wait({planning})
                raise
            activity.heartbeat()
