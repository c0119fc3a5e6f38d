"""Slots for jobs, given out as long as the worker is well."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

from temporalio.worker import (
    CustomSlotSupplier,
    FixedSizeSlotSupplier,
    SlotMarkUsedContext,
    SlotPermit,
    SlotReleaseContext,
    SlotReserveContext,
    WorkerTuner,
)

from opam_ci.core.health import Health
from opam_ci.health.watch import WorkerHealth

_RECHECK_SECONDS = 1.0
"""How often somebody who waits for a slot looks whether a job has stopped being fresh."""

OTHER_SLOTS = 5
"""A build worker runs activities only; the SDK wants a number for the rest all the same."""


class _Permit(SlotPermit):
    def __init__(self) -> None:
        self.used_at: float | None = None


class BuildSlots(CustomSlotSupplier):
    """One slot for each job under way, and for the one that is being asked for.

    None is given out while the worker is quarantined or probes itself. And few (`fresh_jobs`)
    are out of which nothing is known yet, so that a worker that has just gone bad loses no more:
    a poll that is under way keeps its slot, since it cannot be called back.

    Args:
        health: Of this worker.
        builds: How many jobs it runs at once when it is well.
        clock: Counts seconds.
    """

    def __init__(
        self, health: WorkerHealth, builds: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._health = health
        self._builds = builds
        self._clock = clock
        self._lock = threading.Lock()
        self._out: set[_Permit] = set()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        health.listen(self._on_health)

    async def reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit:
        """Waits for a slot."""
        del ctx
        while True:
            self._changed.clear()
            if (permit := self._give()) is not None:
                return permit
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECHECK_SECONDS):
                    await self._changed.wait()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Gives a slot without waiting, to a job that comes with a workflow task's answer."""
        del ctx
        return self._give()

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """Notes that a job has come. The SDK calls from threads of its own."""
        if isinstance(ctx.permit, _Permit):
            ctx.permit.used_at = self._clock()
            self._wake()

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """Takes a slot back."""
        if isinstance(ctx.permit, _Permit):
            with self._lock:
                self._out.discard(ctx.permit)
            self._wake()

    def _give(self) -> _Permit | None:
        health, policy = self._health.now, self._health.policy
        with self._lock:
            if len(self._out) >= health.slots(self._builds):
                return None
            since = self._clock() - policy.fresh_for.total_seconds()
            fresh = sum(each.used_at is None or each.used_at > since for each in self._out)
            if fresh >= health.fresh_jobs(policy):
                return None
            permit = _Permit()
            self._out.add(permit)
            return permit

    def _on_health(self, health: Health) -> None:
        del health
        self._wake()

    def _wake(self) -> None:
        # The loop may be closed already when the last slots come back.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)


def tuner(slots: BuildSlots) -> WorkerTuner:
    """Returns a worker's tuner with our slots for its jobs."""
    other = FixedSizeSlotSupplier(OTHER_SLOTS)
    return WorkerTuner.create_composite(
        workflow_supplier=other,
        activity_supplier=slots,
        local_activity_supplier=other,
        nexus_supplier=other,
    )
