"""The health of this process as a build worker: fed by attempts, host checks and probes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from opam_ci.activities.observe import ORCHESTRATION_POOL, AttemptBegan, AttemptEnded
from opam_ci.core.health import (
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
from opam_ci.core.job import JobKind
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.recording import RowBatch

_log = logging.getLogger(__name__)

CHECK_INTERVAL = timedelta(seconds=10)
"""How often the host is looked at: two system calls."""

PROBE_TIMEOUT = timedelta(minutes=5)
"""How long a probe may take before it counts as bad. It takes seconds; a busy machine a minute."""

Look = Callable[[], Finding | None]
Probe = Callable[[], Awaitable[Finding | None]]
Listener = Callable[[Health], None]


class WorkerHealth:
    """Keeps a worker's health; implements `Observer`. Lives on the worker's event loop.

    Args:
        look: Looks at the host; cheap and quick.
        probe: Finds out with a real build whether this worker can work.
        policy: When to step back.
        proven: Whether the worker takes jobs at once instead of after a first probe.
        clock: Tells the time.
    """

    def __init__(
        self,
        *,
        look: Look,
        probe: Probe,
        policy: HealthPolicy | None = None,
        proven: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.policy = policy or HealthPolicy()
        self._look = look
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
        """How the worker is at the moment."""
        return self._health

    async def proven(self) -> None:
        """Waits until the first probe has ended, or cannot begin: the host lacks something."""
        await self._proven.wait()

    def listen(self, listener: Listener) -> None:
        """Has a listener told of every change from now on; it must neither block nor raise."""
        self._listeners.append(listener)
        listener(self._health)

    def attempt_began(self, began: AttemptBegan) -> None:
        """Says nothing about the worker."""

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        """Says nothing about the worker."""

    def attempt_ended(self, ended: AttemptEnded) -> None:
        """Takes in what an attempt came to; analysis and lint say nothing about builds."""
        if ended.outcome is not None and ended.pool != ORCHESTRATION_POOL:
            self._become(
                after_attempt(
                    self._health,
                    ended.outcome,
                    Attempt(ended.pull_request, ended.packages, ended.began_at, ended.ended_at),
                    self.policy,
                )
            )

    async def watch(self) -> None:
        """Looks at the host, and probes when that is needed, until cancelled."""
        while True:
            self._changed.clear()
            self._become(after_check(self._health, await asyncio.to_thread(self._looked)))
            if self._health.host is not None:
                # No probe before the machine has what it needs.
                self._proven.set()
            now = self._clock()
            if self._health.needs_probe(now):
                finding = await self._probed()
                self._become(
                    after_probe(self._health, finding, now=self._clock(), policy=self.policy)
                )
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

    def _looked(self) -> Finding | None:
        try:
            return self._look()
        except OSError as error:
            return Finding(cause=Cause.STORAGE, detail=f"the host check failed: {error}")

    async def _probed(self) -> Finding | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT.total_seconds()) as limit:
                return await self._probe()
        except InfrastructureError as error:
            return Finding(cause=error.cause, detail=str(error))
        except Exception as error:  # noqa: BLE001  a worker whose probe has a bug must not build on
            if limit.expired():
                detail = (
                    f"the probe took longer than {PROBE_TIMEOUT // timedelta(minutes=1)} minutes"
                )
                return Finding(cause=Cause.UNKNOWN, detail=detail)
            _log.exception("the probe failed")
            return Finding(cause=Cause.UNKNOWN, detail=f"the probe failed: {error!r}"[:300])

    def _become(self, health: Health) -> None:
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
