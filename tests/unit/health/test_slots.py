"""A worker's health and its slots together: a scripted clock, scripted probes, no server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.worker import SlotPermit, SlotReserveContext

from opam_ci.activities.observe import ORCHESTRATION_POOL, AttemptEnded
from opam_ci.core.jobs.errors import UnfitImageError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Outcome, Passed
from opam_ci.core.workers.health import OWN_CAUSES, UNPROVEN, Finding, Health, WorkerState
from opam_ci.health import watch
from opam_ci.health.slots import BuildSlots, MachineSlots
from opam_ci.health.watch import WorkerHealth

ATTEMPT = timedelta(seconds=1)
PROBE = timedelta(seconds=20)
ASKED = cast("SlotReserveContext", None)
"""Neither slots nor health look at what the SDK says about the job."""


def used(permit: SlotPermit) -> Any:
    """Returns what the SDK says of a slot that is used or comes back."""
    return SimpleNamespace(permit=permit, slot_info=None)


async def quarantined(health: WorkerHealth) -> None:
    """Waits until a worker is."""
    changed = asyncio.Event()

    def look(now: Health) -> None:
        if now.state is WorkerState.QUARANTINED:
            changed.set()

    health.listen(look)
    async with asyncio.timeout(20):
        await changed.wait()


class Machine:
    """A build worker on a clock of its own, and what its probes find.

    Attributes:
        idle: How long it has given out no slot.
    """

    def __init__(self, builds: int = 1, *, proven: bool = True) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.idle = timedelta(0)
        self.finding: Finding | None = None
        self.probes = 0
        self.on_probe: Callable[[], None] = lambda: None
        self.health = WorkerHealth(
            check_host=lambda: None, probe=self._probe, proven=proven, clock=lambda: self.now
        )
        self.slots = BuildSlots(self.health, MachineSlots(builds), clock=self._seconds)

    def _seconds(self) -> float:
        return self.now.timestamp()

    async def _probe(self) -> Finding | None:
        assert self.slots.try_reserve_slot(ASKED) is None
        self.probes += 1
        self.on_probe()
        self.now += PROBE
        self.idle += PROBE
        return self.finding

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.health.watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def run(self, outcome: Outcome, *, of: str = "1", package: str = "a.1") -> None:
        """Takes a job as the SDK does, and ends it."""
        permit = await self.slots.reserve_slot(ASKED)
        self.slots.mark_slot_used(used(permit))
        self.now += ATTEMPT
        self.end(outcome, of=of, package=package)
        self.slots.release_slot(used(permit))

    def end(self, outcome: Outcome, *, of: str, package: str, pool: str = "p") -> None:
        self.health.attempt_ended(
            AttemptEnded(
                pool=pool,
                kind=JobKind.BUILD,
                is_canary=False,
                pull_request=f"pr/o/r/{of}",
                packages=(package,),
                outcome=outcome,
                is_last=False,
                began_at=self.now - ATTEMPT,
                ended_at=self.now,
            )
        )


def fault(cause: Cause) -> Errored:
    return Errored(cause=cause, evidence=Evidence(rule="x", detail=f"it was {cause}"))


PASSED = Passed(evidence=Evidence(rule="x"))


@pytest.mark.parametrize("causes", [[Cause.STORAGE], sorted(OWN_CAUSES)], ids=["one", "all"])
@pytest.mark.parametrize("packages", [1, 2])
async def test_fifteen_hostile_attempts_cost_a_pool_of_one_less_than_two_minutes(
    causes: list[Cause], packages: int
) -> None:
    machine = Machine()
    begin = machine.now
    async with machine.watched(), asyncio.timeout(20):
        for number in range(15):
            package = f"p{number % packages}.1"
            await machine.run(fault(causes[number % len(causes)]), package=package)
        # The next one's job is taken and passes: the worker is as it was.
        await machine.run(PASSED, of="2", package="b.1")
    assert machine.probes > 0
    assert machine.now - begin == machine.idle + 16 * ATTEMPT
    assert machine.idle < timedelta(minutes=2)
    assert machine.health.now == Health()


async def test_a_fast_failing_worker_is_found_by_its_first_probe() -> None:
    machine = Machine(builds=8)
    machine.finding = Finding(cause=Cause.SANDBOX, detail="no namespaces")
    permits = [machine.slots.try_reserve_slot(ASKED) for _ in range(8)]
    # Of four jobs nothing is known: so many can be lost, and no more.
    assert sum(permit is not None for permit in permits) == 4
    async with machine.watched(), asyncio.timeout(20):
        machine.end(fault(Cause.SANDBOX), of="1", package="a.1")
        await quarantined(machine.health)
        assert machine.slots.try_reserve_slot(ASKED) is None
    assert machine.health.now.trouble == machine.finding


async def test_running_jobs_go_on_and_one_at_a_time_is_added_after_a_probe() -> None:
    machine = Machine(builds=8)
    long = machine.slots.try_reserve_slot(ASKED)
    assert long is not None
    machine.slots.mark_slot_used(used(long))
    machine.now += timedelta(minutes=5)
    async with machine.watched(), asyncio.timeout(20):
        await machine.run(fault(Cause.IMAGE))
        first = await machine.slots.reserve_slot(ASKED)
        assert machine.slots.try_reserve_slot(ASKED) is None
        # One that has run for a while did not fail fast.
        machine.slots.mark_slot_used(used(first))
        machine.now += timedelta(minutes=2)
        assert machine.slots.try_reserve_slot(ASKED) is not None


async def test_unrelated_faults_while_it_probes_quarantine_it() -> None:
    machine = Machine(builds=2)
    machine.on_probe = lambda: machine.end(fault(Cause.IMAGE), of="2", package="b.1")
    async with machine.watched(), asyncio.timeout(20):
        await machine.run(fault(Cause.IMAGE))
        await quarantined(machine.health)
    assert machine.probes == 1
    assert machine.health.now.strikes == 1


async def test_a_new_worker_gives_no_slot_before_its_first_probe() -> None:
    machine = Machine(proven=False)
    assert machine.health.now == UNPROVEN
    async with machine.watched(), asyncio.timeout(20):
        await machine.run(PASSED)
    assert machine.probes == 1


async def test_faults_of_analysis_and_lint_do_not_affect_health() -> None:
    machine = Machine()
    for number in range(5):
        machine.end(fault(Cause.GIT), of=f"{number}", package=f"{number}", pool=ORCHESTRATION_POOL)
    assert machine.health.now == Health()
    machine.end(fault(Cause.IMAGE), of="1", package="a.1")
    machine.end(PASSED, of="1", package="a.1", pool=ORCHESTRATION_POOL)
    assert machine.health.now.state is WorkerState.PROBING


async def test_an_unfit_image_of_the_probe_stops_no_other_platform() -> None:
    machine = Machine(proven=False)

    def refuse() -> None:
        raise UnfitImageError("the image of the probe's platform lacks bwrap")

    machine.on_probe = refuse
    async with machine.watched():
        await machine.run(Passed(evidence=Evidence(rule="x")))
    assert machine.health.now.state is WorkerState.HEALTHY
    assert machine.probes == 1


async def test_a_probe_that_hangs_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PROBE_TIMEOUT", timedelta(seconds=0.01))

    async def hang() -> None:
        await asyncio.Event().wait()

    health = WorkerHealth(check_host=lambda: None, probe=hang)
    task = asyncio.create_task(health.watch())
    await quarantined(health)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert health.now.trouble is not None
    assert health.now.trouble.detail.startswith("the probe took longer than")


async def test_pools_of_a_machine_share_its_slots() -> None:
    shared = MachineSlots(2)
    health = WorkerHealth(check_host=lambda: None, probe=never, proven=True)
    roots, boxes = BuildSlots(health, shared), BuildSlots(health, shared)
    # An empty pool's poll, which waits for a job, takes no slot from the other pool.
    assert boxes.try_reserve_slot(ASKED) is not None
    first, second = roots.try_reserve_slot(ASKED), roots.try_reserve_slot(ASKED)
    assert first is not None
    assert second is not None
    roots.mark_slot_used(used(first))
    roots.mark_slot_used(used(second))
    assert roots.try_reserve_slot(ASKED) is None
    assert BuildSlots(health, shared).try_reserve_slot(ASKED) is None
    # The end of a job in one pool is a slot for the others, at once.
    waiting = asyncio.create_task(BuildSlots(health, shared).reserve_slot(ASKED))
    await asyncio.sleep(0)
    roots.release_slot(used(first))
    async with asyncio.timeout(0.5):
        assert await waiting is not None


async def test_a_sick_runner_does_not_stop_the_other_ones_jobs() -> None:
    shared = MachineSlots(2)
    sick = WorkerHealth(check_host=lambda: None, probe=never, proven=False)
    well = WorkerHealth(check_host=lambda: None, probe=never, proven=True)
    assert BuildSlots(sick, shared).try_reserve_slot(ASKED) is None
    assert BuildSlots(well, shared).try_reserve_slot(ASKED) is not None


async def never() -> Finding | None:
    raise AssertionError("nothing is to be probed")
