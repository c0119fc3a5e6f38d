"""Metrics of a build worker's health."""

from opam_ci.clients.host import HostNeeds, HostReading, check_host, read_host
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.workers.health import Finding, Health, WorkerState
from opam_ci.metrics.catalog import Metrics


class HealthMetrics:
    """Metrics of the health of a build worker.

    Args:
        metrics: The metrics to set.
        pools: Pools of the worker.
    """

    def __init__(self, metrics: Metrics, pools: tuple[str, ...]) -> None:
        self._metrics = metrics
        self._pools = pools
        self._before: Health | None = None
        for pool in pools:
            for cause in Cause:
                metrics.quarantines.labels(pool, cause.value)

    def show(self, health: Health) -> None:
        """Updates the metrics; a listener of `WorkerHealth`."""
        before, self._before = self._before, health
        trouble = health.trouble
        for pool in self._pools:
            for state in WorkerState:
                here = 1 if health.state is state else 0
                self._metrics.worker_state.labels(pool, state.value).set(here)
            for cause in Cause:
                here = 1 if trouble is not None and trouble.cause is cause else 0
                self._metrics.worker_trouble.labels(pool, cause.value).set(here)
            if trouble is not None and before is not None and _is_another(before, health):
                self._metrics.quarantines.labels(pool, trouble.cause.value).inc()


def _is_another(before: Health, now: Health) -> bool:
    """Whether a quarantine has begun that is not the previous one."""
    return before.trouble is None or now.strikes > before.strikes


class MeteredHost:
    """Checks the host and sets its metrics.

    Args:
        metrics: The metrics to set.
        needs: Free resources that the host must have.
    """

    def __init__(self, metrics: Metrics, needs: HostNeeds) -> None:
        self._metrics = metrics
        self._needs = needs
        metrics.disk_needed.set(needs.free_bytes)
        metrics.inodes_needed.set(needs.free_inodes)

    def check(self) -> Finding | None:
        """Returns what the host lacks.

        Raises:
            OSError: The file system cannot be read.
        """
        reading = read_host(self._needs.home)
        self._show(reading)
        return check_host(reading, self._needs)

    def _show(self, reading: HostReading) -> None:
        self._metrics.disk_free.set(reading.free_bytes)
        if reading.free_inodes is not None:
            self._metrics.inodes_free.set(reading.free_inodes)
        self._metrics.memory_available.set(reading.memory_bytes)
