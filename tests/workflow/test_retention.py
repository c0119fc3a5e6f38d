"""RetentionWorkflow deletes what is old, and outlives an index that is away."""

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities.retention import RetentionActivities
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.retention import RetentionWorkflow
from tests.support.fakes.written import write


async def test_what_is_old_is_deleted(environment: WorkflowEnvironment, tmp_path: Path) -> None:
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    now = datetime.now(UTC)
    for number, days in ((1, 31), (2, 29)):
        at = now - timedelta(days=days)
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=at)
        write(index, RevisionRecord(key=key, base="b", is_open=False, updated_at=at, sequence=1))
    async with Worker(
        environment.client,
        task_queue=options.ORCHESTRATION_QUEUE,
        workflows=[RetentionWorkflow],
        workflow_runner=WORKFLOW_RUNNER,
        activities=[RetentionActivities(index, store).prune],
    ):
        done = await environment.client.execute_workflow(
            RetentionWorkflow.run,
            30,
            id=f"retention-{uuid.uuid4().hex[:8]}",
            task_queue=options.ORCHESTRATION_QUEUE,
        )
    assert (done.revisions, done.pull_requests) == (1, 1)
    assert [each.key.number for each in index.revisions().items] == [2]
    index.close()
