"""Heartbeats while the event loop is blocked.

The SDK sends heartbeats from the event loop: a blocked one would make Temporal count every job of
the worker as lost. A thread then passes them to the SDK's core, which sends them. The SDK has no
public API for that, hence the one private attribute; heartbeats by a client instead of the core
would not do: the core checks the heartbeat timeout as well, and cancels late activities.
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

from opam_ci.core.jobs.messages import JobHeartbeat

_log = logging.getLogger(__name__)

SILENCE = timedelta(seconds=5)
"""Time without heartbeats from the event loop after which the thread sends them; a quarter of the
heartbeat timeout if that is less."""

STALL_LIMIT = timedelta(minutes=10)
"""How long a blocked event loop counts as alive. One that is blocked for ever must count as lost,
since its jobs would never end."""

_INTERVAL = timedelta(seconds=1)


class Attempt(Protocol):
    """An attempt that sends heartbeats from the event loop.

    Attributes:
        task_queue: Of its worker.
        task_token: Its id for Temporal.
        heartbeat_timeout: Time without heartbeats after which it counts as lost, None if never.
        beaten_at: Time of the last heartbeat from the event loop, by `time.monotonic()`.
    """

    task_queue: str
    task_token: bytes
    heartbeat_timeout: timedelta | None
    beaten_at: float

    def state(self) -> JobHeartbeat:
        """Returns the details of a heartbeat now."""


class BackupHeartbeats:
    """Sends the heartbeats of this process's attempts while the event loop is blocked."""

    def __init__(self) -> None:
        self._workers: WeakValueDictionary[str, Worker] = WeakValueDictionary()
        self._attempts: dict[bytes, Attempt] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def attempts(self) -> int:
        """Number of attempts in this process."""
        return len(self._attempts)

    def register(self, worker: Worker) -> Worker:
        """Registers a worker, and returns it."""
        self._workers[worker.task_queue] = worker
        return worker

    @contextlib.contextmanager
    def watching(self, attempt: Attempt) -> Iterator[None]:
        """Registers an attempt for the time of a block."""
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
        """Checks the attempts each second, until there are none."""
        warned = False
        while True:
            time.sleep(_INTERVAL.total_seconds())
            with self._lock:
                if not self._attempts:
                    self._thread = None
                    return
                silent = [each for each in self._attempts.values() if _is_silent(each)]
            if silent and not warned:
                _log.warning(
                    "the event loop is blocked: a thread sends heartbeats of %d jobs", len(silent)
                )
            warned = bool(silent)
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
        except Exception as error:  # noqa: BLE001  the attempt has ended, or will be lost
            _log.warning("cannot send a heartbeat for the blocked event loop", exc_info=error)


def _is_silent(attempt: Attempt) -> bool:
    """Whether the event loop is blocked, and not for longer than `STALL_LIMIT`."""
    if attempt.heartbeat_timeout is None:
        return False
    silence = timedelta(seconds=time.monotonic() - attempt.beaten_at)
    return min(SILENCE, attempt.heartbeat_timeout / 4) <= silence < STALL_LIMIT


BACKUP_HEARTBEATS = BackupHeartbeats()
"""One for all workers of this process, which share an event loop."""
