"""Signals from one workflow to another that may have ended."""

from collections.abc import Iterable, Mapping

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.messages import RestartWaiting
    from opam_ci.core.model import Frozen
    from opam_ci.core.requests import RestartAsker


async def told(workflow_id: str, signal: str, said: Frozen) -> bool:
    """Sends a signal; False where nobody is left to hear it.

    Args:
        workflow_id: To whom.
        signal: Its name.
        said: What it carries.
    """
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(signal, said)
    except FailureError:
        workflow.logger.info("%s has just ended and hears no %s", workflow_id, signal)
        return False
    return True


async def hurry(
    waiting: Iterable[str], children: Mapping[str, Iterable[str]], asker: RestartAsker
) -> None:
    """Has jobs that wait for their automatic retry start at once.

    Args:
        waiting: Their ids.
        children: The ids of the jobs of each PlatformWorkflow under way.
        asker: Who wants that.
    """
    for child, jobs in sorted(children.items()):
        if mine := tuple(job for job in waiting if job in jobs):
            await told(child, "restart_waiting", RestartWaiting(jobs=mine, asker=asker))
