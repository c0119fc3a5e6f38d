"""Activities on the index, which is the only list of jobs."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

from pydantic import ValidationError
from temporalio import activity

from opam_ci.activities.reuse import Reuse
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.threads import INDEX
from opam_ci.core.jobs.build import RevdepList, not_built_notice
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.hold import Author, Hold, day_of, hold_for
from opam_ci.core.jobs.messages import (
    ChangeJobs,
    ConcludeJobs,
    CountJobs,
    EarlyStops,
    JobPage,
    PlanJobs,
    PlannedPlatforms,
    PlanRevdeps,
    PlatformStandings,
    SettleJobs,
    StopEarly,
    TakeJobs,
)
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.plan import PlannedJob, planned_jobs, revdep_jobs, service_of
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import RestartOrigin, Taken
from opam_ci.core.platforms.model import Platform
from opam_ci.core.platforms.select import choose
from opam_ci.core.text.taken import reused_notice

_PLANNED_BETWEEN_HEARTBEATS = 2_000
"""Jobs that are added to the index in some hundred milliseconds."""


ServedPools = Callable[[frozenset[str]], Awaitable[frozenset[str]]]


class JobActivities:
    """Activities on the list of jobs. All of them are idempotent.

    Args:
        index: The list.
        store: Has the listings of reverse dependencies.
        served_pools: Returns which of some pools are served.
    """

    def __init__(self, index: Index, store: ArtifactStore, served_pools: ServedPools) -> None:
        self._index = index
        self._store = store
        self._served_pools = served_pools

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
            self.stop_early,
        ]

    @activity.defn
    async def plan_jobs(self, message: PlanJobs) -> PlannedPlatforms:
        """Adds the jobs of a head to the index; those of an earlier round run again.

        Jobs with the same inputs as one that ran have its verdict at once.

        A platform is built in the first of its pools that is served; one of which none is, is
        skipped as a whole.

        Raises:
            InfrastructureError: The index cannot be written, or Temporal does not say which pools
                are served.
        """
        pools = frozenset(each.pool for one in message.platforms for each in one.choices)
        served = await self._served_pools(pools) if pools else pools
        chosen = {one.name: choose(one, served) for one in message.platforms}
        jobs = planned_jobs(
            message.packages,
            [one for one in chosen.values() if one is not None],
            unserved=[one for one in message.platforms if chosen[one.name] is None],
            lint=message.lint,
        )
        on = [one for one in chosen.values() if one is not None]
        reuse = await self._reuse(message, on, message.submitted)
        await self._plan(message, jobs, message.origin, reuse)
        notices: list[str | None] = []
        for job, listed in tuple(reuse.listings.items()):
            flagged = len(listed.flagged)
            notices.append(not_built_notice(job.platform, job.package, flagged))
            revdeps = await self._revdep_jobs(message.key, job.platform, job.package, listed)
            await self._plan(message, revdeps, message.origin, reuse)
        platforms = tuple(chosen[one.name] or one for one in message.platforms)
        outcomes = {
            one.name: service_of(one, is_served=chosen[one.name] is not None) for one in platforms
        }
        await INDEX.run(self._index.serve, message.key, outcomes, datetime.now(UTC))
        if reuse.reused:
            notices.append(reused_notice(reuse.reused))
        return PlannedPlatforms(platforms=platforms, notices=tuple(filter(None, notices)))

    @activity.defn
    async def plan_revdeps(self, message: PlanRevdeps) -> None:
        """Adds the jobs on the reverse dependencies of a package to the index.

        Raises:
            InfrastructureError: The listing cannot be read or is invalid, or the index cannot be
                written.
        """
        text = await self._store.get(message.listing)
        try:
            listed = RevdepList.model_validate_json(text)
        except ValidationError as error:
            raise InfrastructureError(
                f"{message.listing} is not a list of reverse dependencies", cause=Cause.STORAGE
            ) from error
        jobs = await self._revdep_jobs(message.key, message.platform, message.package, listed)
        on = [message.on] if message.on is not None else []
        await self._plan(message, jobs, None, await self._reuse(message, on))

    @activity.defn
    async def take_jobs(self, message: TakeJobs) -> JobPage:
        """Returns a platform's next queued jobs, without those that wait for an approval.

        With each come the verdicts that it may turn out to have once it has a solution.

        Raises:
            UsageError: `after` is not the cursor of a previous page.
            InfrastructureError: The index cannot be read.
        """
        hold = None
        if message.author is not None and message.author.is_limited:
            # Temporal's clock, by which the workflow waits.
            now = activity.info().started_time
            hold = await INDEX.run(self._hold, message.key, message.author, now)
        return await INDEX.run(self._index.take, message, hold, datetime.now(UTC))

    @activity.defn
    async def count_jobs(self, message: CountJobs) -> PlatformStandings:
        """Counts the jobs of platforms.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        return PlatformStandings(platforms=await INDEX.run(self._index.count, message))

    @activity.defn
    async def restart_jobs(self, message: ChangeJobs) -> Taken:
        """Queues decided jobs again, or returns which it would.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        return await INDEX.run(self._index.requeue, message, datetime.now(UTC))

    @activity.defn
    async def cancel_jobs(self, message: ChangeJobs) -> Taken:
        """Cancels queued jobs, or returns which it would; those under way are counted with them.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        # The same for each attempt, so that a later one recognises what this one cancelled.
        at = activity.info().scheduled_time
        return await INDEX.run(self._index.cancel, message, at)

    @activity.defn
    async def settle_jobs(self, message: SettleJobs) -> None:
        """Decides all undecided jobs of platforms.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        await INDEX.run(self._index.settle, message, datetime.now(UTC))

    @activity.defn
    async def conclude_jobs(self, message: ConcludeJobs) -> bool:
        """Decides jobs that depend on all platforms together.

        Returns:
            Whether jobs have changed, or may have in a previous attempt.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        changed = await INDEX.run(self._index.conclude, message, datetime.now(UTC))
        changed |= await self._compare(message)
        changed |= await self._mark_fixed(message)
        return changed or activity.info().attempt > 1

    @activity.defn
    async def stop_early(self, message: StopEarly) -> EarlyStops:
        """Skips reverse dependencies on a platform if enough of a package's fail alike.

        Returns:
            Of which packages; what its workflow has in hand of them is to be skipped, too.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        return await INDEX.run(self._index.stop_early, message, datetime.now(UTC))

    async def _revdep_jobs(
        self, key: RevisionKey, platform: str, package: str, listed: RevdepList
    ) -> Iterator[PlannedJob]:
        first = await INDEX.run(self._index.failed_before, key, platform)
        return revdep_jobs(platform, package, listed.revdeps, first=first)

    async def _reuse(
        self,
        message: PlanJobs | PlanRevdeps,
        platforms: Iterable[Platform],
        submitted: tuple[str, ...] = (),
    ) -> Reuse:
        return await Reuse.of(
            message.key,
            message.reuse,
            platforms,
            self._index,
            self._store,
            submitted=submitted,
            takes_verdicts=message.round == 1,
        )

    async def _compare(self, message: ConcludeJobs) -> bool:
        """Compares failures with the base, as far as that has run; plans what has not."""
        compare = partial(self._index.compare, message.key, frozenset(message.there))
        done = await INDEX.run(compare, datetime.now(UTC))
        known = {one.name for one in message.platforms}
        wanted = [job for job in done.missing if job.platform in known]
        if not wanted:
            return done.changed
        reuse = await self._reuse_on_base(message)
        await self._plan(message, (PlannedJob(job=job) for job in wanted), None, reuse)
        # Those that take a verdict are decided already.
        await INDEX.run(compare, datetime.now(UTC))
        return True

    async def _mark_fixed(self, message: ConcludeJobs) -> bool:
        """Marks jobs that passed and are known to fail on the base; runs none for that."""
        if message.reuse is None or not message.platforms:
            return False
        there = frozenset(message.there)
        passed = await INDEX.run(self._index.passed, message.key, there)
        if not passed:
            return False
        now = datetime.now(UTC)
        failing = await (await self._reuse_on_base(message)).failing(passed, now)
        return await INDEX.run(self._index.mark_fixed, message.key, failing, now)

    async def _reuse_on_base(self, message: ConcludeJobs) -> Reuse:
        return await Reuse.of(
            message.key, message.reuse, message.platforms, self._index, self._store, on_base=True
        )

    def _hold(self, key: RevisionKey, author: Author, now: datetime) -> Hold | None:
        used = 0.0
        if author.hours_a_day is not None:
            rows = self._index.authors(day_of(now), repository=key.repository, author=author.login)
            used = sum(row.cpu_hours for row in rows)
        return hold_for(author, used, now)

    async def _plan(
        self,
        message: PlanJobs | PlanRevdeps | ConcludeJobs,
        jobs: Iterator[PlannedJob],
        origin: RestartOrigin | None,
        reuse: Reuse,
    ) -> None:
        now = datetime.now(UTC)
        plan = partial(self._index.plan, message.key, round_=message.round, origin=origin, at=now)
        while batch := tuple(islice(jobs, _PLANNED_BETWEEN_HEARTBEATS)):
            planning = asyncio.create_task(INDEX.run(plan, await reuse.complete(batch, now)))
            try:
                await asyncio.shield(planning)
            except asyncio.CancelledError:
                # A thread cannot be stopped, and the canceller relies on no later changes.
                await asyncio.wait({planning})
                raise
            activity.heartbeat()
