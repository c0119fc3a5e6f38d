"""Whom the activity that records rows tells of what came of them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from opam_ci.activities.record import RecordActivities
from opam_ci.clients.index import Index
from opam_ci.clients.index.rejudging import Effects
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine
from opam_ci.core.jobs.records import Recorded, RevisionKey, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
LINE = LogLine(offset=0, text="cp: cannot create x: Structure needs cleaning")
FAILED = Failed(
    reason=FailureReason.BUILD, evidence=Evidence(rule="build", phase=Phase.BUILD, lines=(LINE,))
)


class Temporal:
    """Hears signals and starts; `trouble` is what the next signal meets."""

    def __init__(self) -> None:
        self.signals: list[tuple[str, str, RevisionKey]] = []
        self.started: list[str] = []
        self.trouble: RPCError | None = None

    def get_workflow_handle(self, workflow_id: str) -> "Temporal":
        self._id = workflow_id
        return self

    async def signal(self, name: str, key: RevisionKey) -> None:
        if (trouble := self.trouble) is not None:
            self.trouble = None
            raise trouble
        self.signals.append((self._id, name, key))

    async def start_workflow(self, *_: Any, id: str, **__: Any) -> None:  # noqa: A002 - its name
        self.started.append(id)


@pytest.fixture
def temporal() -> Temporal:
    return Temporal()


@pytest.fixture
def environment(temporal: Temporal) -> ActivityEnvironment:
    return ActivityEnvironment(client=cast(Client, temporal))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(f"sqlite:///{tmp_path / 'index.sqlite'}")
    yield opened
    opened.close()


def failed(number: int) -> RowBatch:
    key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=NOON)
    row = JobStatus(
        job=Job(platform="p", package=f"p{number}.1", kind=JobKind.BUILD),
        state=JobState.DECIDED, attempt=1, outcome=FAILED, decided_at=NOON,
    )  # fmt: skip
    return RowBatch(key=key, rows=(row,), sequence=1, updated_at=NOON)


async def test_each_testing_whose_verdicts_changed_is_signalled_to_recount(
    index: Index, temporal: Temporal, environment: ActivityEnvironment
) -> None:
    record = RecordActivities(index).record
    for number in (1, 2):
        assert await environment.run(record, failed(number)) == Recorded()
    assert temporal.signals == []
    assert await environment.run(record, failed(3)) == Recorded(revised=(JobKind.BUILD,) * 3)
    assert temporal.signals == [
        (f"pr/o/r/{number}", "recount", failed(number).key) for number in (1, 2, 3)
    ]
    assert len(temporal.started) == 1


async def test_a_failed_signal_is_sent_by_the_next_attempt(
    index: Index, temporal: Temporal, environment: ActivityEnvironment
) -> None:
    record = RecordActivities(index).record
    for number in (1, 2):
        await environment.run(record, failed(number))
    temporal.trouble = RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
    with pytest.raises(RPCError):
        await environment.run(record, failed(3))
    environment.info = replace(environment.info, attempt=2)
    await environment.run(record, failed(3))
    assert [workflow for workflow, _, _ in temporal.signals] == [
        f"pr/o/r/{number}" for number in (1, 2, 3)
    ]


async def test_a_workflow_that_has_ended_blocks_nothing(
    index: Index, temporal: Temporal, environment: ActivityEnvironment
) -> None:
    record = RecordActivities(index).record
    for number in (1, 2):
        await environment.run(record, failed(number))
    temporal.trouble = RPCError("gone", RPCStatusCode.NOT_FOUND, b"")
    await environment.run(record, failed(3))
    assert [workflow for workflow, _, _ in temporal.signals] == ["pr/o/r/2", "pr/o/r/3"]


async def test_the_first_estimate_of_a_head_is_returned(
    index: Index, environment: ActivityEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "record", lambda *_, **__: Effects(estimated_until=NOON))
    done = await environment.run(RecordActivities(index).record, failed(1))
    assert done == Recorded(estimated_until=NOON)


def test_results_in_histories_of_older_workers_can_be_read() -> None:
    assert Recorded.model_validate_json('["build"]') == Recorded(revised=(JobKind.BUILD,))
