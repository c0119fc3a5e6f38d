"""The fault of an attempt whose worker was lost, made from its last heartbeat."""

from datetime import datetime

from opam_ci.core.jobs.messages import JobHeartbeat
from opam_ci.core.jobs.outcome import Cause, Evidence
from opam_ci.core.jobs.summary import Fault

LOST = "heartbeat-lost"
"""Rule of the fault of an attempt whose heartbeats stopped."""


def lost(previous: JobHeartbeat | None, attempt: int, at: datetime) -> Fault:
    """Returns the fault of an attempt whose heartbeats stopped.

    Args:
        previous: The last heartbeat that arrived; ignored if it is of another attempt.
        attempt: The attempt that was lost.
        at: When the loss was noticed.
    """
    known = previous if previous is not None and previous.attempt == attempt else None
    where = f" in phase {known.phase}" if known and known.phase else ""
    worker = f"worker {known.worker}" if known else "the worker"
    detail = f"{worker} sends no more heartbeats{where}: killed, crashed, or cut off"
    return Fault(
        attempt=attempt,
        cause=Cause.WORKER_LOST,
        evidence=Evidence(
            rule=LOST,
            phase=known and known.phase,
            worker=known and known.worker,
            attempt=attempt,
            detail=detail,
        ),
        worker=known and known.worker,
        at=at,
        started_at=known and known.started_at,
        log=known and known.log,
        alone=known is not None and known.alone,
    )
