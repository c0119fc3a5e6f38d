"""The health of this process as a build worker, from attempts, host checks and probes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from opam_ci.activities.observe import ORCHESTRATION_POOL, AttemptBegan, AttemptEnded
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.workers.health import (
    UNPROVEN,
    Attempt,
    Finding,
    Health,
    HealthPolicy,
    WorkerState,
    after_attempt,
    after_check,
    after_probe,
)

_log = logging.getLogger(__name__)

CHECK_INTERVAL = timedelta(seconds=10)
"""How often the host is checked: two system calls."""

PROBE_TIMEOUT = timedelta(minutes=5)
"""Time limit of a probe, after which it has failed. It takes seconds; on a busy machine a minute.
"""

HostCheck = Callable[[], Finding | None]
Probe = Callable[[], Awaitable[Finding | None]]
Listener = Callable[[Health], None]


class WorkerHealth:
    """Keeps a worker's health; implements `Observer`. Lives on the worker's event loop.

    Args:
        check_host: Checks the host; cheap and quick.
        probe: Tests this worker with a real build.
        policy: When to quarantine.
        proven: Whether the worker takes jobs at once instead of after a first probe.
        clock: Returns the time.
    """

    def __init__(
        self,
        *,
        check_host: HostCheck,
        probe: Probe,
        policy: HealthPolicy | None = None,
        proven: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.policy = policy or HealthPolicy()
        self._check_host = check_host
        self._probe = probe
        self._clock = clock
        self._health = Health() if proven else UNPROVEN
        self._listeners: list[Listener] = []
        self._changed = asyncio.Event()
        self._proven = asyncio.Event()
        if proven:
            self._proven.set()

    @property
    def now(self) -> Health:
        """The health at the moment."""
        return self._health

    async def proven(self) -> None:
        """Waits until the first probe has ended, or cannot begin because of the host check."""
        await self._proven.wait()

    def listen(self, listener: Listener) -> None:
        """Calls a listener now and at every change; it must neither block nor raise."""
        self._listeners.append(listener)
        listener(self._health)

    def attempt_began(self, began: AttemptBegan) -> None:
        """Does not affect health."""

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        """Does not affect health."""

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Updates the health after an attempt; analysis and lint do not affect it."""
        if ended.outcome is not None and ended.pool != ORCHESTRATION_POOL:
            self._set(
                after_attempt(
                    self._health,
                    ended.outcome,
                    Attempt(ended.pull_request, ended.packages, ended.began_at, ended.ended_at),
                    self.policy,
                )
            )

    async def watch(self) -> None:
        """Checks the host, and probes when a probe is due, until cancelled."""
        while True:
            self._changed.clear()
            self._set(after_check(self._health, await asyncio.to_thread(self._host_finding)))
            if self._health.host is not None:
                # No probe before the host check succeeds.
                self._proven.set()
            now = self._clock()
            if self._health.needs_probe(now):
                finding = await self._probe_finding()
                self._set(after_probe(self._health, finding, now=self._clock(), policy=self.policy))
                self._proven.set()
                continue
            wait = CHECK_INTERVAL
            if self._health.until is not None and self._health.host is None:
                wait = min(wait, max(self._health.until - now, timedelta(0)))
            try:
                async with asyncio.timeout(wait.total_seconds()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _host_finding(self) -> Finding | None:
        try:
            return self._check_host()
        except OSError as error:
            return Finding(cause=Cause.STORAGE, detail=f"the host check failed: {error}")

    async def _probe_finding(self) -> Finding | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT.total_seconds()) as limit:
                return await self._probe()
        except UnfitImageError as error:
            # One platform's: the jobs of all others go on.
            _log.warning("the probe's image is unfit: %s", error)
            return None
        except InfrastructureError as error:
            return Finding(cause=error.cause, detail=str(error))
        except Exception as error:  # noqa: BLE001  a bug in the probe must stop the worker, too
            if limit.expired():
                detail = (
                    f"the probe took longer than {PROBE_TIMEOUT // timedelta(minutes=1)} minutes"
                )
                return Finding(cause=Cause.UNKNOWN, detail=detail)
            _log.exception("the probe failed")
            return Finding(cause=Cause.UNKNOWN, detail=f"the probe failed: {error!r}"[:300])

    def _set(self, health: Health) -> None:
        before, self._health = self._health, health
        if before == health:
            return
        self._changed.set()
        if (trouble := health.trouble) is not None and trouble != before.trouble:
            end = f" until {health.until:%H:%M:%S} UTC at least" if health.until else ""
            _log.warning("worker %s%s (%s): %s", health.state, end, trouble.cause, trouble.detail)
        elif health.state is WorkerState.PROBING and health.reason is not None:
            if before.state is not WorkerState.PROBING:
                cause, detail = health.reason.cause, health.reason.detail
                _log.info("worker probing after a fault (%s): %s", cause, detail)
        elif health.state is not before.state:
            _log.info("worker %s", health.state)
        for listener in self._listeners:
            listener(health)
