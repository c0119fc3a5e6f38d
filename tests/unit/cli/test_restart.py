"""`restart` and `cancel`: the updates that they send, and what they print of the results."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from opam_ci.cli.operator.restart import _IDS_AT_ONCE, selectors_for
from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Passed,
)
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from tests.support.fakes.command_line import DEBIAN, FEDORA, job, key, output_of, write

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))
FINE = Passed(evidence=Evidence(rule="installed"))
STOPPED = Cancelled(by="request")
THREE = Taken(jobs=3, by_platform={DEBIAN: 2, FEDORA: 1}, first=("build a", "build b", "build c"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Four pull requests: a full disk in two, a failure in one, and one that was cancelled."""
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    write(index, key(1), (job("a.1"), FULL), (job("b.1", FEDORA), FULL), (job("c.1"), BROKEN))
    write(index, key(2), (job("a.1"), FULL), (job("d.1"), FINE), (job("a.1", revdep="e.2"), FULL))
    write(index, key(3), (job("d.1"), FINE))
    write(index, key(4), (job("a.1"), STOPPED))
    yield index
    index.close()


Answer = Taken | None | UsageError | InfrastructureError


@dataclass
class Workflows:
    """Stands in for the workflows of pull requests."""

    answer: Callable[[str], Answer] = lambda _: THREE
    updates: list[tuple[str, RestartUpdate | CancelUpdate]] = field(default_factory=list)

    def __call__(self, _: object) -> "Workflows":
        return self

    async def restart_jobs(
        self, workflow_id: str, update: RestartUpdate | CancelUpdate
    ) -> Taken | None:
        self.updates.append((workflow_id, update))
        answer = self.answer(workflow_id)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cancel_jobs = restart_jobs


@pytest.fixture
def workflows(monkeypatch: pytest.MonkeyPatch) -> Workflows:
    async def connected(*_: object, **__: object) -> None: ...

    made = Workflows()
    monkeypatch.setattr("opam_ci.cli.operator.restart.connected", connected)
    monkeypatch.setattr("opam_ci.cli.operator.restart.PullRequests", made)
    return made


@pytest.mark.parametrize(
    ("arguments", "selector"),
    [
        ([], {}),
        (["--failed"], {"which": "failed"}),
        (["--all", "--package", "a"], {"which": "all", "package": "a"}),
        (["--cause", "dns", "--platform", DEBIAN], {"cause": "dns", "platform": DEBIAN}),
        (["--kind", "revdep", "--revdep", "e.2"], {"kind": "revdep", "revdep": "e.2"}),
        (["--job", "build p a.1", "--head", "ABCDEF0"], {"job": "build p a.1", "head": "abcdef0"}),
    ],
)
def test_the_options_become_the_selector_of_the_update(
    workflows: Workflows,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    selector: dict[str, Any],
) -> None:
    output_of(capsys, "restart", "o/r#7", *arguments)
    wanted = RestartSelector.model_validate(selector)
    assert workflows.updates == [("pr/o/r/7", RestartUpdate(selector=wanted))]


def test_a_cancellation_is_narrowed_like_a_restart(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "cancel", "o/r/7", "--kind", "test", "--platform", DEBIAN, "--dry-run")
    selector = JobSelector(kind=JobKind.TEST, platform=DEBIAN)
    assert workflows.updates == [("pr/o/r/7", CancelUpdate(selector=selector, preview=True))]
    assert text.startswith("3 jobs of o/r/7 would be cancelled\n")


def test_the_result_shows_numbers_and_the_first_jobs(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    workflows.answer = lambda _: THREE.model_copy(update={"jobs": 12_345})
    assert output_of(capsys, "restart", "o/r/7").splitlines() == [
        "12,345 jobs of o/r/7 are restarted",
        f"  2 on {DEBIAN}",
        f"  1 on {FEDORA}",
        "  build a",
        "  build b",
        "  build c",
        "  and 12,342 more; `opam-ci jobs o/r/7` lists jobs",
    ]
    assert json.loads(output_of(capsys, "restart", "o/r/7", "--json", "--dry-run")) == {
        "workflow": "pr/o/r/7", "jobs": 12_345, "by_platform": {DEBIAN: 2, FEDORA: 1},
        "first": ["build a", "build b", "build c"], "preview": True, "pending": False,
        "error": None,
    }  # fmt: skip


def test_a_refusal_is_a_usage_error_with_the_workflows_text(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    workflows.answer = lambda _: Taken(refusal="build p a.1 is decided already: passed")
    text = output_of(capsys, "cancel", "o/r/7", "--job", "build p a.1", code=2)
    assert text == "opam-ci: build p a.1 is decided already: passed\n"


def test_an_accepted_update_is_not_to_be_repeated(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    workflows.answer = lambda _: None
    assert "do not repeat it" in output_of(capsys, "restart", "o/r/7")
    assert json.loads(output_of(capsys, "restart", "o/r/7", "--json"))["pending"]
    assert "nothing was changed" in output_of(capsys, "restart", "o/r/7", "--dry-run", code=3)


@pytest.mark.usefixtures("index")
def test_without_a_pull_request_all_with_matching_jobs_get_an_update(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "restart", "--cause", "disk_full", "--platform", DEBIAN)
    selector = RestartSelector(cause=Cause.DISK_FULL, platform=DEBIAN)
    assert workflows.updates == [
        ("pr/o/r/2", RestartUpdate(selector=selector)),
        ("pr/o/r/1", RestartUpdate(selector=selector)),
    ]
    assert text.splitlines() == [
        "o/r/2: build a, build b, build c",
        "o/r/1: build a, build b, build c",
        "6 jobs of 2 pull requests are restarted",
    ]


@pytest.mark.parametrize(
    ("selector", "numbers"),
    [
        (RestartSelector(package="a"), {1, 2}),  # not 4, which somebody stopped
        (RestartSelector(which=RestartWhich.FAILED, platform=DEBIAN), {1}),
        (RestartSelector(which=RestartWhich.ALL, package="a.1"), {1, 2, 4}),
        (RestartSelector(revdep="e"), {2}),
        (RestartSelector(kind=JobKind.REVDEP), {2}),
        (RestartSelector(job=job("b.1", FEDORA).id), {1}),
        (RestartSelector(platform="%"), set()),
        (RestartSelector(package="_"), set()),
    ],
)
def test_the_index_lists_the_workflows_to_update(
    index: Index, selector: RestartSelector, numbers: set[int]
) -> None:
    found = selectors_for(index, selector, None)
    assert found == {f"pr/o/r/{number}": (selector,) for number in numbers}


def test_an_incident_selects_the_jobs_that_it_hit(index: Index) -> None:
    [incident] = index.incidents().items
    found = selectors_for(index, RestartSelector(platform=DEBIAN), incident.id)
    assert found == {
        "pr/o/r/1": (RestartSelector(platform=DEBIAN, jobs=(job("a.1").id,), head=key(1).head),),
        "pr/o/r/2": (
            RestartSelector(
                platform=DEBIAN,
                jobs=(job("a.1").id, job("a.1", revdep="e.2").id),
                head=key(2).head,
            ),
        ),
    }


def test_an_incident_that_hit_thousands_is_restarted_in_portions(
    index: Index, workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    write(index, key(5), *((job(f"x.{n}"), FULL) for n in range(2 * _IDS_AT_ONCE + 1)))
    [incident] = index.incidents().items
    text = output_of(capsys, "restart", "--incident", str(incident.id), "--package", "x")
    found = [update.selector.jobs for _, update in workflows.updates]
    assert [len(ids) for ids in found] == [_IDS_AT_ONCE, _IDS_AT_ONCE, 1]
    assert len({job for ids in found for job in ids}) == 2 * _IDS_AT_ONCE + 1
    assert text.splitlines()[-1] == "9 jobs of 1 pull request are restarted"


@pytest.mark.usefixtures("index")
def test_a_failed_update_does_not_stop_the_others(
    workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = UsageError("pr/o/r/1 has ended; nothing was changed")
    workflows.answer = lambda name: ended if name.endswith("1") else THREE
    lines = output_of(capsys, "restart", "--cause", "disk_full").splitlines()
    assert "o/r/1: not restarted: pr/o/r/1 has ended; nothing was changed" in lines
    assert lines[-1] == "3 jobs of 1 pull request are restarted"
    silent = InfrastructureError("no worker", cause=Cause.UNKNOWN)
    workflows.answer = lambda name: silent if name.endswith("1") else THREE
    text = output_of(capsys, "restart", "--cause", "disk_full", code=3)
    assert "1 of 2 pull requests did not answer; repeat the command" in text
    workflows.answer = lambda _: ended
    assert "nothing was restarted" in output_of(capsys, "restart", "--cause", "disk_full", code=2)


@pytest.mark.usefixtures("index", "workflows")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restart", "--cause", "gremlins"], "'--cause': 'gremlins' is not one of 'network',"),
        (
            ["restart", "o/r/1", "--kind", "sing"],
            "'--kind': 'sing' is not one of 'analysis', 'image',",
        ),
        (["restart", "o/r/1", "--platform", ""], "--platform is empty"),
        (["restart", "o/r/1", "--package", "x" * 301], "package: "),
        (["restart", "o/r/1", "--package", "\udcff"], "package: "),
        (["restart", "o/r/1", "--head", "master"], "not a commit: 'master'"),
        (["restart", "--head", "abcdef0"], "--head needs a pull request"),
        (["restart", "seven"], "not a pull request: 'seven'"),
        (["restart", "o/r/0"], "not a pull request: 'o/r/0'"),
        (["restart", "o/r/7/8"], "not a pull request: 'o/r/7/8'"),
        (["cancel", "o r/x/7"], "not a pull request: 'o r/x/7'"),
        (["restart"], "give what to restart"),
        (["restart", "o/r/1", "--pr", "o/r/2"], "two pull requests, 'o/r/1' and 'o/r/2': give one"),
        (["restart", "--failed", "--all", "o/r/1"], "exclude each other"),
        (["restart", "--failed", "--cause", "dns"], "--cause selects errored jobs"),
        (["restart", "--all"], "--all needs"),
        (["restart", "--cause", "dns", "--dry-run"], "nothing matches"),
        (["restart", "--platform", "no-such", "--dry-run"], "nothing matches"),
        (["restart", "--incident", "999", "--dry-run"], "no incident 999"),
        (["restart", "--incident", "1", "--failed"], "--incident selects errored jobs"),
        (["restart", "o/r/1", "--incident", "1"], "give either a pull request or --incident"),
    ],
)
def test_invalid_input_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    text = output_of(capsys, *arguments, code=2)
    assert words in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "workflow_id"),
    [
        ("o/r/7", "pr/o/r/7"),
        ("pr/o/r/7", "pr/o/r/7"),
        ("local/r/heads/topic", "pr/local/r/branch-topic"),
        ("local/r:topic", "pr/local/r/branch-topic"),
        ("local/r/branch-topic", "pr/local/r/branch-topic"),
        ("local/r/branch-a-b-0123abcd", "pr/local/r/branch-a-b-0123abcd"),
        ("local/r:42", "pr/local/r/branch-42"),
    ],
)
def test_pull_requests_and_branches_are_named_in_several_ways(
    workflows: Workflows, capsys: pytest.CaptureFixture[str], words: str, workflow_id: str
) -> None:
    output_of(capsys, "restart", words)
    assert [name for name, _ in workflows.updates] == [workflow_id]
