"""Three pull requests fail alike on a broken machine, and a fourth one by itself, on GitHub."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from opam_ci.activities.build import BuildActivities
from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.app.connection import ensure_search_attributes
from opam_ci.app.github_service import github_worker
from opam_ci.cli.local import services
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.incidents.messages import IncidentIntervals
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.job import Phase
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.worker import WORKFLOW_RUNNER, WORKFLOWS
from opam_ci.workflows import options
from tests.support.fakes.github_stage import Stage, policy_for
from tests.support.fakes.queue import all_served
from tests.support.fakes.runners import FakeRunner, facts
from tests.support.fakes.world import Script
from tests.support.ports import free_port
from tests.support.worlds.github import LiveGitHub

pytestmark = pytest.mark.e2e

HEADS = [f"{number}" * 40 for number in range(5)]
HIT = ("p1.1", "p2.1", "p3.1")
BAD = "p4.1"

MACHINE_WORDS = """gcc -o main.exe main.o -lm
/usr/bin/ld: cannot find -lm: No such file or directory
collect2: error: ld returned 1 exit status
[ERROR] The compilation of {package} failed at "dune build -p {package}".
"""
OWN_WORDS = """File "src/id.ml", line 18, characters 14-32:
18 | let compare = Pervasives.compare
                   ^^^^^^^^^^^^^^^^^^
Error: Unbound module Pervasives
"""


class LosesALibrary(FakeRunner):
    """A machine without a library that every program needs, until three builds have failed.

    Attributes:
        said: Set once GitHub knows of the first two failures; the third waits for that.
        seen: Set once it was seen that the first one is tried again; until then that takes.
    """

    def __init__(self) -> None:
        super().__init__(duration=0)
        self.said = asyncio.Event()
        self.seen = asyncio.Event()
        self.hit: list[str] = []

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        package = spec.job.package
        if package == BAD:
            self.ran.append(spec.job.id)
            return BuildReport(facts=facts(spec, fails=True), logs={Phase.BUILD: OWN_WORDS})
        if package == HIT[2]:
            await self.said.wait()
        if len(self.hit) < len(HIT):
            self.hit.append(package)
            words = MACHINE_WORDS.format(package=package)
            return BuildReport(facts=facts(spec, fails=True), logs={Phase.BUILD: words})
        await self.seen.wait()
        return await super().run(spec, log, progress)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(f"sqlite:///{tmp_path}/index.db")
    yield opened
    opened.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    server = await asyncio.to_thread(
        services.start_temporal, tmp_path, port=free_port(), ui_port=free_port()
    )
    try:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        await ensure_search_attributes(client)
        script = Script()
        for number, package in enumerate((*HIT, BAD), 1):
            changed = ChangedPackage(package=package, kind=ChangeKind.NEW_RELEASE, has_tests=False)
            script.analyses[HEADS[number]] = Analysis(packages=(changed,), merge_tree="e" * 40)
        made = Stage(
            client, LiveGitHub(), script, policy=policy_for(), clones=tmp_path,
            sleep=asyncio.sleep,
        )  # fmt: skip
        yield made
        await made.github.close()
    finally:
        await asyncio.to_thread(services.stop, tmp_path)


def states(stage: Stage, number: int) -> list[str]:
    """What GitHub was told of a head, without repetitions."""
    words = [each.partition(":")[0] for each in stage.words(HEADS[number])]
    return [now for now, before in zip(words, [None, *words], strict=False) if now != before]


async def said(stage: Stage, number: int, words: str) -> None:
    """Waits until GitHub says these words of a head: seconds, where nothing else runs."""
    await stage.until_said(HEADS[number], words)


@pytest.mark.timeout(300)  # a quarter of a minute where nothing else runs
async def test_failures_that_a_machine_causes_are_repaired_on_github(
    stage: Stage, index: Index
) -> None:
    runner, incidents = LosesALibrary(), IncidentActivities(index)
    orchestration = Worker(
        stage.client,
        task_queue=options.ORCHESTRATION_QUEUE,
        workflows=WORKFLOWS,
        workflow_runner=WORKFLOW_RUNNER,
        activities=[
            stage.script.analyse,
            stage.script.lint,
            stage.script.find_effect,
            RecordActivities(index, IncidentIntervals(probe_first=timedelta(seconds=2))).record,
            *JobActivities(index, stage.store, all_served).all,
            incidents.look_at_incident,
            incidents.resolve_incident,
        ],
    )
    builds = Worker(
        stage.client,
        task_queue=options.build_queue("linux-amd64"),
        activities=[BuildActivities(runner, ArtifactStore.open("memory:")).run_job],
    )
    with contextlib.closing(stage.script.index):
        async with orchestration, builds, github_worker(stage.client, stage.activities):
            for number in range(1, 5):
                await stage.fake.open(number, HEADS[number])
            for number in (1, 2, 4):
                await said(stage, number, "failure: 1 failed")
            runner.said.set()
            # The first one is the trial of the three; the others wait for what comes of it.
            await said(stage, 1, "pending: 0/1 done")
            await said(stage, 2, "error: Internal CI error, not your package")
            runner.seen.set()
            for number in (1, 2, 3):
                await said(stage, number, "success: 1 passed; analysis and lint passed")
            await stage.until(lambda: not index.incidents().items[0].is_open)
        # What GitHub had been told is repaired, and nothing of it comes back.
        for number in (1, 2):
            found = states(stage, number)
            assert found.count("failure") == 1
            assert found.index("failure") < found.index("success") == len(found) - 1
        assert states(stage, 1)[-2:] == ["pending", "success"]
        assert "error" in states(stage, 2)
        [incident] = index.incidents().items
        assert (incident.jobs, incident.pull_requests) == (3, 3)
        assert incident.evidence.rule == SAME_FAILURE
        assert sorted(runner.hit) == list(HIT)
        # The package that is broken is untouched: it failed, once, and never was an error.
        assert set(states(stage, 4)) <= {"pending", "failure"}
        assert states(stage, 4)[-1] == "failure"
        assert len([ran for ran in runner.ran if BAD in ran]) == 1
