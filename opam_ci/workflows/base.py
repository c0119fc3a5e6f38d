"""What the workflows of pull requests and platforms have in common.

Tasks whose bugs fail the workflow task, records that wait for the index, questions that can be
given up, and signals to workflows that may have ended.
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
    from opam_ci.core.messages import SettleJobs
    from opam_ci.core.model import Frozen
    from opam_ci.core.recording import RowBatch
    from opam_ci.core.summary import JobStatus
    from opam_ci.workflows import options

T = TypeVar("T")


class Tasks:
    """Tasks of a workflow.

    Attributes:
        crash: A bug that ended one of them: the workflow task must fail of it, and goes on with
            mended code. It is no failure of the workflow.
    """

    def __init__(self) -> None:
        # A dict, since the order of a set of tasks differs from replay to replay.
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
        """Fails if a task crashed.

        Raises:
            RuntimeError: One did.
        """
        if self.crash is not None:
            raise RuntimeError("a task of the workflow crashed") from self.crash

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition, or fails when a task crashes meanwhile."""
        await workflow.wait_condition(lambda: self.crash is not None or condition())
        self.check()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (crash := task.exception()) is not None:
            self.crash = crash


class Records:
    """What is to be written to the index, in order; an index that is away holds nothing else up.

    Args:
        written: Called with the rows of each batch once they are in the index.
    """

    def __init__(self, written: Callable[[tuple[JobStatus, ...]], None] | None = None) -> None:
        self._backlog: deque[RowBatch | SettleJobs] = deque()
        self._written = written
        self._ended = False

    @property
    def is_empty(self) -> bool:
        """Whether everything is written."""
        return not self._backlog

    def add(self, what: RowBatch | SettleJobs) -> None:
        """Has something written after all that was added before."""
        self._backlog.append(what)

    def end(self) -> None:
        """Lets `run` end once everything is written."""
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
                    rows: tuple[JobStatus, ...] = ()
                case RowBatch() as batch:
                    await workflow.execute_activity_method(RecordActivities.record, batch, **how)
                    rows = batch.rows
            self._backlog.popleft()
            if self._written is not None:
                self._written(rows)


async def ask(
    tasks: Tasks,
    method: Callable[[JobActivities, Any], Coroutine[Any, Any, T]],
    given: Frozen,
    give_up: Callable[[], bool],
    how: options.PlainActivity | None = None,
) -> T | None:
    """Asks the index, which may be away for hours.

    Args:
        tasks: Of the workflow.
        method: Which activity.
        given: Its input.
        give_up: Whether the answer is no longer wanted.
        how: Options of the activity; None for those of a short one.

    Returns:
        The answer; None if it was given up.
    """
    how = how or options.index_activity("jobs in the index")
    handle = workflow.start_activity_method(method, given, **how)
    await tasks.until(lambda: handle.done() or give_up())
    if handle.done():
        answer: T = await handle
        return answer
    # Its result is not needed any more.
    handle.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    handle.cancel()
    if how["cancellation_type"] is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED:
        await tasks.until(handle.done)
    return None


async def told(workflow_id: str, signal: str, said: Frozen | int | None = None) -> bool:
    """Sends a signal; False where nobody is left to hear it.

    Args:
        workflow_id: To whom.
        signal: Its name.
        said: What it carries.
    """
    handle = workflow.get_external_workflow_handle(workflow_id)
    try:
        await handle.signal(signal, args=[] if said is None else [said])
    except FailureError:
        workflow.logger.info("%s has ended and hears no %s", workflow_id, signal)
        return False
    return True
