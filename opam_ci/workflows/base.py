"""Shared code of the workflows.

Tasks whose bugs fail the workflow task, a backlog of writes to the index, activities on the index
that can be abandoned, and signals to workflows that may have ended.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.jobs import JobActivities
    from opam_ci.activities.record import RecordActivities
    from opam_ci.core.jobs.messages import SettleJobs
    from opam_ci.core.jobs.records import Recorded, RowBatch
    from opam_ci.core.model import Frozen
    from opam_ci.workflows import options

T = TypeVar("T")


class Tasks:
    """Tasks of a workflow.

    Attributes:
        crash: Exception of a bug that ended one of them: the workflow task must fail with it, and
            continues with fixed code. The workflow itself does not fail.
    """

    def __init__(self) -> None:
        # A dict, since the order of a set differs from replay to replay.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.crash: BaseException | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task."""
        task = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def check(self) -> None:
        """Raises if a task crashed.

        Raises:
            RuntimeError: A task crashed.
        """
        if self.crash is not None:
            raise RuntimeError("a task of the workflow crashed") from self.crash

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition; raises if a task crashes meanwhile."""
        await workflow.wait_condition(lambda: self.crash is not None or condition())
        self.check()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (crash := task.exception()) is not None:
            self.crash = crash


class Records:
    """Backlog of writes to the index, in order, so that an index outage blocks nothing else.

    Args:
        written: Called with each batch once it is in the index, and with what followed.
    """

    def __init__(self, written: Callable[[RowBatch, Recorded], None]) -> None:
        self._backlog: deque[RowBatch | SettleJobs] = deque()
        self._written = written
        self._ended = False

    @property
    def is_empty(self) -> bool:
        """Whether everything is written."""
        return not self._backlog

    def add(self, write: RowBatch | SettleJobs) -> None:
        """Adds a write after all that were added before."""
        self._backlog.append(write)

    def end(self) -> None:
        """Makes `run` end once everything is written."""
        self._ended = True

    async def run(self) -> None:
        """Writes until `end`."""
        while True:
            await workflow.wait_condition(lambda: bool(self._backlog) or self._ended)
            if not self._backlog:
                return
            how = options.index_activity("write to the index")
            match self._backlog[0]:
                case SettleJobs() as settle:
                    await workflow.execute_activity_method(JobActivities.settle_jobs, settle, **how)
                    self._backlog.popleft()
                case RowBatch() as batch:
                    done = await workflow.execute_activity_method(
                        RecordActivities.record, batch, **how
                    )
                    self._backlog.popleft()
                    self._written(batch, done)


async def run_unless(
    is_abandoned: Callable[[], bool],
    tasks: Tasks,
    method: Callable[[Any, Any], Coroutine[Any, Any, T]],
    message: Frozen,
    how: options.PlainActivity | None = None,
) -> T | None:
    """Runs an activity whose service may be unavailable for hours, unless it is abandoned.

    Args:
        is_abandoned: Whether the result is no longer wanted.
        tasks: Of the workflow.
        method: The activity.
        message: Its input.
        how: Options of the activity; None for those of a short one on the index.

    Returns:
        The result; None if it was abandoned.
    """
    how = how or options.index_activity("jobs in the index")
    handle = workflow.start_activity_method(method, message, **how)
    try:
        await tasks.until(lambda: handle.done() or is_abandoned())
        if handle.done():
            result: T = await handle
            return result
        return None
    finally:
        # Abandoned, or the caller is cancelled: nothing may be written later.
        if not handle.done():
            handle.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            handle.cancel()
            if how["cancellation_type"] is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED:
                await tasks.until(handle.done)


async def signal_if_running(
    workflow_id: str, signal: str, message: Frozen | int | None = None
) -> bool:
    """Sends a signal; returns False if the workflow has ended."""
    handle = workflow.get_external_workflow_handle(workflow_id)
    try:
        await handle.signal(signal, args=[] if message is None else [message])
    except FailureError:
        workflow.logger.info("%s has ended; signal %s not sent", workflow_id, signal)
        return False
    return True
