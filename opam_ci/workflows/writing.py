"""Writing a backlog of records to the index."""

from collections import deque
from collections.abc import Callable

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.record import RecordActivities
    from opam_ci.core.recording import RowBatch
    from opam_ci.workflows import options


async def write_records(backlog: deque[RowBatch], *, is_over: Callable[[], bool]) -> None:
    """Writes batches one after the other; an index that is down holds nothing else up.

    Args:
        backlog: What is to be written; grows meanwhile.
        is_over: Whether nothing more will come.
    """
    while True:
        await workflow.wait_condition(lambda: bool(backlog) or is_over())
        if not backlog:
            return
        await workflow.execute_activity_method(
            RecordActivities.record, backlog[0], **options.record_activity()
        )
        backlog.popleft()
