"""Times an incident's repair: from the signal until the last errored job is queued again.

Usage: python -m bench.restarts [--pull-requests 25] [--packages 20]

A real Temporal development server and a real index; the builds are scripted: each meets a
full disk until the repair. Fails when it takes 30 s or more.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.app.connection import ensure_search_attributes
from opam_ci.clients.index import CURRENT, Index, JobFilter
from opam_ci.core.incidents.messages import workflow_id
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.messages import JobReport, RunJob
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.states import PullRequestState
from tests.support.fakes.world import PASSED, Script
from tests.support.ports import free_port

LIMIT = 30.0
FULL = Errored(
    cause=Cause.DISK_FULL, evidence=Evidence(rule="bench", detail="no space left on device")
)


class Disk(Script):
    """Builds that fail until the disk is repaired; notes when each job was queued again."""

    def __init__(self, packages: int) -> None:
        super().__init__()
        self.is_full = True
        self.again: dict[tuple[str, str], datetime] = {}
        self.analysis = Analysis(
            packages=tuple(
                ChangedPackage(package=f"p{n}.1", kind=ChangeKind.NEW_RELEASE, has_tests=False)
                for n in range(packages)
            ),
            merge_tree="e" * 40,
        )

    def step(self, task: RunJob) -> None:
        job = task.spec.job.id
        if self.is_full:
            self.steps[job] = [FULL]
            return
        self.steps[job] = [PASSED]
        if task.context.round > 1:
            key = (task.context.pull_request.workflow_id, job)
            self.again.setdefault(key, activity.info().scheduled_time)


def serve(home: Path, pull_requests: int, packages: int) -> float:
    port = free_port()
    temporal = Path(sys.executable).with_name("temporal")
    quiet = ["--headless", "--log-level", "never"]
    server = subprocess.Popen([temporal, "server", "start-dev", "--port", str(port), *quiet])
    try:
        return asyncio.run(measure(f"127.0.0.1:{port}", home, pull_requests, packages))
    finally:
        server.terminate()
        server.wait()


async def connected(address: str) -> Client:
    for _ in range(100):
        try:
            client = await Client.connect(address, data_converter=pydantic_data_converter)
            await ensure_search_attributes(client)
        except Exception:  # noqa: BLE001  any error of a starting server
            await asyncio.sleep(0.3)
        else:
            return client
    raise TimeoutError("the server does not start")


async def measure(address: str, home: Path, pull_requests: int, packages: int) -> float:
    client = await connected(address)
    index = Index.open(f"sqlite:///{home}/index.sqlite")
    disk = Disk(packages)
    run_job = disk.run_job

    @activity.defn(name="run_job")
    async def scripted(task: RunJob) -> JobReport:
        disk.step(task)
        return await run_job(task)

    incidents = IncidentActivities(index)
    total = pull_requests * packages
    async with (
        Worker(
            client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[PullRequestWorkflow, PlatformWorkflow, IncidentWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[
                disk.analyse, disk.lint, RecordActivities(index).record,
                *JobActivities(index, disk.store, disk.served_pools).all,
                incidents.look_at_incident, incidents.resolve_incident,
            ],
        ),
        Worker(client, task_queue=options.build_queue("linux-amd64"), activities=[scripted]),
    ):  # fmt: skip
        checks = CheckOptions(
            retry=RetrySettings(initial_interval=timedelta(seconds=1), maximum_attempts=1)
        )
        for number in range(1, pull_requests + 1):
            ref = PullRequestRef(owner="bench", repo="r", number=number)
            revision = Revision(head="1" * 40, base="b" * 40, repository="/x", options=checks)
            await client.start_workflow(
                PullRequestWorkflow.run,
                PullRequestState(pull_request=ref),
                id=ref.workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                start_signal="head_changed",
                start_signal_args=[revision],
            )
        errored = JobFilter(of=CURRENT, kind=JobKind.BUILD, cause=Cause.DISK_FULL)
        begun = time.monotonic()
        while (found := index.counts(errored).errored) < total:  # noqa: ASYNC110  a database has no event
            await asyncio.sleep(1)
        print(f"{found} jobs errored after {time.monotonic() - begun:.0f} s")
        [incident] = index.incidents().items
        print(f"one incident: {incident.faults} faults, {incident.pull_requests} pull requests")
        disk.is_full = False
        repaired = datetime.now(UTC)
        handle = client.get_workflow_handle(workflow_id(incident.id))
        await handle.signal("repaired", "bench")
        while len(disk.again) < total:
            await asyncio.sleep(0.2)
            if (datetime.now(UTC) - repaired).total_seconds() > 10 * LIMIT:
                break
        print(f"{len(disk.again)} of {total} started again, each once")
        return (max(disk.again.values()) - repaired).total_seconds()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pull-requests", type=int, default=25)
    parser.add_argument("--packages", type=int, default=20)
    given = parser.parse_args()
    # Each fault is a warning of the library; here they are the point.
    logging.getLogger("temporalio").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as home:
        took = serve(Path(home), given.pull_requests, given.packages)
    print(f"from the repair to the last restarted job queued: {took:.1f} s (limit {LIMIT:g} s)")
    return 0 if took < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
