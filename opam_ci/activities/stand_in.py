"""Heartbeats while the event loop is blocked.

The SDK sends heartbeats from the event loop: what blocks it would make Temporal count every job of
the worker as lost. A thread then hands them to the SDK's core, which sends them by itself. The
SDK has no public way to do so, hence the one private attribute; a heartbeat that goes past the
core, by a client, would not do: the core keeps the time as well, and cancels what is late.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Protocol
from weakref import WeakValueDictionary

from temporalio.bridge.proto import ActivityHeartbeat
from temporalio.worker import Worker

from opam_ci.core.messages import JobHeartbeat

_log = logging.getLogger(__name__)

SILENCE = timedelta(seconds=5)
"""How long the event loop may send nothing before the thread does; a quarter of the heartbeat
timeout where that is less."""

STALL_LIMIT = timedelta(minutes=10)
"""How long a blocked event loop counts as alive. One that is stuck for good must be lost, for its
jobs would never end."""

_INTERVAL = timedelta(seconds=1)


class Attempt(Protocol):
    """An attempt that sends heartbeats from the event loop.

    Attributes:
        task_queue: From which its worker took it.
        task_token: What Temporal knows it by.
        heartbeat_timeout: Silence after which Temporal counts it as lost, None if never.
        beaten_at: When the event loop last had its turn, as `time.monotonic()` says.
    """

    task_queue: str
    task_token: bytes
    heartbeat_timeout: timedelta | None
    beaten_at: float

    def state(self) -> JobHeartbeat:
        """Returns what a heartbeat says now."""


class StandIn:
    """Knows the attempts of this process, and sends their heartbeats when nobody else does."""

    def __init__(self) -> None:
        self._workers: WeakValueDictionary[str, Worker] = WeakValueDictionary()
        self._attempts: dict[bytes, Attempt] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def attempts(self) -> int:
        """How many attempts run in this process."""
        return len(self._attempts)

    def serve(self, worker: Worker) -> Worker:
        """Stands in for the attempts of a worker, and returns it."""
        self._workers[worker.task_queue] = worker
        return worker

    @contextlib.contextmanager
    def watching(self, attempt: Attempt) -> Iterator[None]:
        """Watches over an attempt for the time of a block."""
        with self._lock:
            self._attempts[attempt.task_token] = attempt
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="heartbeats", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._attempts[attempt.task_token]

    def _watch(self) -> None:
        """Looks after the attempts each second, until there are none."""
        told = False
        while True:
            time.sleep(_INTERVAL.total_seconds())
            with self._lock:
                if not self._attempts:
                    self._thread = None
                    return
                silent = [each for each in self._attempts.values() if _is_silent(each)]
            if silent and not told:
                _log.warning("the event loop is blocked: %d jobs get heartbeats", len(silent))
            told = bool(silent)
            for attempt in silent:
                self._beat(attempt)

    def _beat(self, attempt: Attempt) -> None:
        worker = self._workers.get(attempt.task_queue)
        if worker is None:
            return
        converter = worker.client.data_converter.payload_converter
        heartbeat = ActivityHeartbeat(
            task_token=attempt.task_token, details=converter.to_payloads([attempt.state()])
        )
        try:
            worker._bridge_worker.record_activity_heartbeat(heartbeat)  # noqa: SLF001 - see above
        except Exception as error:  # noqa: BLE001  the attempt is over, or will be lost
            _log.warning("could not stand in for a blocked event loop", exc_info=error)


def _is_silent(attempt: Attempt) -> bool:
    """Returns whether the event loop is blocked, and not yet for so long that it is lost."""
    if attempt.heartbeat_timeout is None:
        return False
    silence = timedelta(seconds=time.monotonic() - attempt.beaten_at)
    return min(SILENCE, attempt.heartbeat_timeout / 4) <= silence < STALL_LIMIT


STAND_IN = StandIn()
"""One for all workers of this process, which share an event loop."""
