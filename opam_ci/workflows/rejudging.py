"""Jobs of a head that are judged again on the word of other jobs."""

from collections.abc import Iterable, Mapping

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.incidents.messages import Rejudge, RejudgedJob
    from opam_ci.core.job import Job
    from opam_ci.core.job_table import JobTable
    from opam_ci.workflows.groups import Groups
    from opam_ci.workflows.signalling import told


def judge_again(
    said: Rejudge, table: JobTable, children: Mapping[str, Iterable[str]], groups: Groups
) -> tuple[int, dict[str, Rejudge]]:
    """Judges decided jobs again; those under way are left to the workflows that run them.

    Args:
        said: Which jobs, and why.
        table: The job matrix.
        children: The ids of the jobs of each PlatformWorkflow under way.
        groups: The jobs on reverse dependencies, of which the matrix has no rows.

    Returns:
        How many verdicts were taken back, and what to tell which workflow.
    """
    number = 0
    running: dict[str, list[RejudgedJob]] = {}
    for each in said.jobs:
        if table.rejudge(each, workflow.now()):
            number += 1
        elif (runs_it := _runs(each.job, table, children, groups)) is not None:
            running.setdefault(runs_it, []).append(each)
    return number, {
        runs_it: said.model_copy(update={"jobs": tuple(jobs)}) for runs_it, jobs in running.items()
    }


def _runs(
    job: Job, table: JobTable, children: Mapping[str, Iterable[str]], groups: Groups
) -> str | None:
    if job.id not in table:
        return groups.running(job)
    if table[job.id].outcome is not None:
        return None
    return next((child for child, ids in sorted(children.items()) if job.id in ids), None)


async def tell_running(messages: Mapping[str, Rejudge]) -> None:
    """Tells each workflow of its jobs; one that has ended has told their outcome, or will."""
    for workflow_id, said in messages.items():
        await told(workflow_id, "rejudge", said)
