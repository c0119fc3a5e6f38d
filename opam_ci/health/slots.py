"""Slots for jobs, available while the worker is healthy."""

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

from opam_ci.core.workers.health import Health
from opam_ci.health.watch import WorkerHealth

_RECHECK_SECONDS = 1.0
"""How often a waiting reservation checks whether a job is no longer fresh."""

OTHER_SLOTS = 5
"""A build worker runs activities only, but the SDK requires a number for all kinds of tasks."""


class _Permit(SlotPermit):
    def __init__(self) -> None:
        self.used_at: float | None = None


class BuildSlots(CustomSlotSupplier):
    """One slot for each job under way, and for the one that is being polled for.

    None is available while the worker is quarantined or probes itself. And few (`fresh_jobs`) are
    used by jobs that have just begun, so that a worker that has just broken loses no more: a
    pending poll keeps its slot, since it cannot be withdrawn.

    Args:
        health: Of this worker.
        builds: Number of jobs that it runs at once when it is healthy.
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
            if (permit := self._reserve()) is not None:
                return permit
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RECHECK_SECONDS):
                    await self._changed.wait()

    def try_reserve_slot(self, ctx: SlotReserveContext) -> SlotPermit | None:
        """Returns a slot without waiting, for a job in the response to a workflow task."""
        del ctx
        return self._reserve()

    def mark_slot_used(self, ctx: SlotMarkUsedContext) -> None:
        """Marks a slot as used by a job. The SDK calls from threads of its own."""
        if isinstance(ctx.permit, _Permit):
            ctx.permit.used_at = self._clock()
            self._wake()

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """Releases a slot."""
        if isinstance(ctx.permit, _Permit):
            with self._lock:
                self._out.discard(ctx.permit)
            self._wake()

    def _reserve(self) -> _Permit | None:
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
        # The loop may be closed already when the last slots are released.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)


def tuner(slots: BuildSlots) -> WorkerTuner:
    """Returns a worker's tuner with these slots for its jobs."""
    other = FixedSizeSlotSupplier(OTHER_SLOTS)
    return WorkerTuner.create_composite(
        workflow_supplier=other,
        activity_supplier=slots,
        local_activity_supplier=other,
        nexus_supplier=other,
    )
