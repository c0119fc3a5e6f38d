"""Histories of yesterday must replay on today's workflows: open pull requests live for weeks."""

import json
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from opam_ci.worker import WORKFLOW_RUNNER, WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replayer() -> Replayer:
    return Replayer(
        workflows=WORKFLOWS,
        workflow_runner=WORKFLOW_RUNNER,
        data_converter=pydantic_data_converter,
        # Without a limit of two seconds a task, which a busy machine may not keep.
        debug_mode=True,
    )


def read(path: Path) -> WorkflowHistory:
    recorded = json.loads(path.read_text())
    # A workflow that names its children after itself replays under its own id alone.
    return WorkflowHistory.from_json(recorded.pop("workflowId", "replayed"), recorded)


def test_every_workflow_has_histories() -> None:
    assert {path.name.split(".")[1].split("-")[0] for path in HISTORIES} == {
        "pull",
        "platform",
        "canary",
        "incident",
    }


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_history_replays(path: Path) -> None:
    await replayer().replay_workflow(read(path))


async def test_a_history_of_other_decisions_is_noticed(tmp_path: Path) -> None:
    """Shows that the test above can fail."""
    broken = tmp_path / "broken.json"
    text = next(path for path in HISTORIES if path.name.startswith("passes.pull")).read_text()
    broken.write_text(text.replace('"name": "plan_jobs"', '"name": "other"'))
    assert broken.read_text() != text
    with pytest.raises(NondeterminismError):
        await replayer().replay_workflow(read(broken))
