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


class MachineSlots:
    """The slots of a machine, which the pools that it serves share.

    A poll that waits for a job cannot be withdrawn, so it takes a slot from its own pool alone: an
    empty pool would hold one of the others'. When several pools have such a poll, a job too many
    may arrive in each but one; it waits for the end of another one (`BuildActivities`).

    Args:
        builds: Number of jobs that the machine runs at once.

    Attributes:
        lock: Held to read or change the slots.
        running: Number of jobs under way, in all pools.
    """

    def __init__(self, builds: int) -> None:
        self.builds = builds
        self.lock = threading.Lock()
        self.running = 0
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls a listener when a slot may have become free."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Calls the listeners."""
        for listener in self._listeners:
            listener()


class BuildSlots(CustomSlotSupplier):
    """One slot of a pool for each job under way, and for the one that is being polled for.

    None is available while the worker is quarantined or probes itself. And few (`fresh_jobs`) are
    used by jobs that have just begun, so that a worker that has just broken loses no more: a
    pending poll keeps its slot, since it cannot be withdrawn.

    Args:
        health: Of the pool's runner.
        machine: What the pools of this machine share.
        clock: Counts seconds.
    """

    def __init__(
        self,
        health: WorkerHealth,
        machine: MachineSlots,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health
        self._machine = machine
        self._clock = clock
        self._out: set[_Permit] = set()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        health.listen(self._on_health)
        machine.listen(self._wake)

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
            with self._machine.lock:
                ctx.permit.used_at = self._clock()
                self._machine.running += 1
            self._wake()

    def release_slot(self, ctx: SlotReleaseContext) -> None:
        """Releases a slot."""
        if isinstance(ctx.permit, _Permit):
            with self._machine.lock:
                self._out.discard(ctx.permit)
                self._machine.running -= ctx.permit.used_at is not None
            self._machine.changed()

    def _reserve(self) -> _Permit | None:
        health, policy, machine = self._health.now, self._health.policy, self._machine
        with machine.lock:
            if len(self._out) >= health.slots(machine.builds):
                return None
            polling = sum(each.used_at is None for each in self._out)
            if machine.running + polling >= machine.builds:
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
