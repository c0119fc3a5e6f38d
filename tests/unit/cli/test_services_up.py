"""`up`, with the real server and example, and stand-ins for what builds."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from opam_ci.app.settings import Settings
from opam_ci.cli.local import services, session, system
from opam_ci.cli.local.services import Embedded
from opam_ci.cli.operator import example, up
from opam_ci.cli.output.render import View
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, Summary
from tests.support.ports import free_port

EVIDENCE = Evidence(rule="test")
START_PAGES = session.start_pages


class Recorder:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Summary] = []
        self.closed: list[Summary] = []

    def show(self, summary: Summary) -> None:
        self.shown.append(summary)

    def stop(self) -> None:
        return

    def close(self, summary: Summary) -> None:
        self.closed.append(summary)


def summary_of(outcomes: dict[str, Outcome | None], faults: tuple[Fault, ...]) -> Summary:
    rows = tuple(
        JobStatus(
            job=Job(platform="p", package=package, kind=JobKind.BUILD),
            state=JobState.DECIDED if outcome else JobState.RETRYING,
            outcome=outcome,
            faults=faults if package == example.RECOVERS else (),
        )
        for package, outcome in outcomes.items()
    )
    return Summary(pull_request="example", head="h", base="b", planned=True, jobs=rows)


async def check_like_a_worker(
    _: Settings, made: example.Example, source_url: str, view: View
) -> Summary:
    """Goes through the example as a worker would: asks, notes a fault, asks again."""
    opam = opam_file(made, example.RECOVERS)
    url = next(line.split('"')[1] for line in opam.splitlines() if "src:" in line)
    assert url.startswith(f"{source_url}/")
    assert await status_of(url) == 503
    at = datetime(2024, 1, 1, tzinfo=UTC)
    fault = Fault(attempt=1, cause=Cause.SOURCE_HOST, evidence=EVIDENCE, worker=None, at=at)
    outcomes: dict[str, Outcome | None] = {
        example.PASSES: Passed(evidence=EVIDENCE),
        example.FAILS: Failed(reason=FailureReason.BUILD, evidence=EVIDENCE),
        example.SKIPPED: Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE),
        example.RECOVERS: None,
    }
    view.show(summary_of(outcomes, (fault,)))
    assert await status_of(url) == 200
    last = summary_of(outcomes | {example.RECOVERS: Passed(evidence=EVIDENCE)}, (fault,))
    view.close(last)
    return last


async def status_of(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(url)).status_code


def opam_file(made: example.Example, package: str) -> str:
    path = f"packages/{package.partition('.')[0]}/{package}/opam"
    return subprocess.run(
        ["git", f"--git-dir={made.repo}", "show", f"{made.branch}:{path}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path / "home", cache=tmp_path / "cache")
    services.stop(tmp_path / "home")


@pytest.fixture
def done() -> list[str]:
    """The steps in the order in which they were done."""
    return []


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, done: list[str]) -> None:
    """What builds is replaced."""

    async def make_root(*_: object) -> None:
        done.append("root")

    def start_worker(settings: Settings) -> Embedded:
        done.append("worker")
        found = services.status(settings.home)
        assert found is not None
        assert found.address == settings.temporal
        return found

    monkeypatch.setattr(system, "install", lambda _: done.append("packages"))
    monkeypatch.setattr(up, "_make_root", make_root)
    monkeypatch.setattr(session, "start_worker", start_worker)
    monkeypatch.setattr(session, "start_pages", lambda *_: "http://127.0.0.1:1")


def bring_up(settings: Settings, view: View | None) -> tuple[Embedded, Summary | None]:
    return up.bring_up(settings, port=free_port(), ui_port=free_port(), view=view)


@pytest.mark.usefixtures("steps")
def test_it_starts_everything_and_the_example_recovers(
    settings: Settings,
    done: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(up, "_check", check_like_a_worker)
    monkeypatch.setattr(session, "start_pages", START_PAGES)
    view = Recorder()
    embedded, summary = bring_up(settings, view)
    assert [summary] == view.closed
    assert done == ["packages", "root", "worker"]
    assert len(view.shown) == len(view.closed) == 1
    assert services.status(settings.home) == embedded
    progress = capsys.readouterr().err
    assert "[2/6] Temporal server: done in " in progress
    assert "[6/6] example pull request with real builds: done in " in progress
    text = up._next_steps(embedded, with_example=True)
    assert embedded.ui_url in text
    assert "./opam-ci down" in text
    assert f"{embedded.pages_url}/local/example/heads/example" in text
    assert httpx.get(f"{embedded.pages_url}/", trust_env=False, timeout=60).status_code == 200
    # It is the same server that another `up` finds, and `down` ends it.
    assert START_PAGES(session.at_embedded(settings, embedded), embedded) == embedded.pages_url
    assert services.stop(settings.home)[0] == "pages"
    assert services.status(settings.home) is None
    assert summary is not None
    up._keep(settings, summary)
    assert up._last_shown(settings) == summary
    (settings.home / "example.json").write_text("{")
    assert up._last_shown(settings) is None


@pytest.mark.usefixtures("steps")
def test_unexpected_outcomes_of_the_example_are_an_internal_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(*_: object) -> Summary:
        return summary_of({example.PASSES: Passed(evidence=EVIDENCE)}, ())

    monkeypatch.setattr(up, "_check", check)
    with pytest.raises(InfrastructureError, match=r"example-type-error.*no build job"):
        bring_up(settings, Recorder())


@pytest.mark.usefixtures("steps")
def test_missing_packages_are_reported_before_anything_starts(
    settings: Settings, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: up.Report) -> None:
        raise UsageError("install opam first")

    monkeypatch.setattr(system, "install", refuse)
    with pytest.raises(UsageError, match="install opam first"):
        bring_up(settings, None)
    assert done == []
    assert not settings.home.exists()


@pytest.mark.usefixtures("steps")
def test_without_the_example_nothing_is_checked(
    settings: Settings, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(*_: object) -> Summary:
        raise AssertionError

    monkeypatch.setattr(up, "_check", check)
    bring_up(settings, None)
    assert done[-1] == "worker"
    assert not (settings.home / "example").exists()
