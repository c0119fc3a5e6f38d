"""Lists at terminals of any width and in pipes: nothing is cut, names stay whole."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.text import Text

from opam_ci.cli.author import status
from opam_ci.cli.main import run
from opam_ci.cli.operator import overview, restart
from opam_ci.cli.output.render import make_view
from opam_ci.cli.output.tables import Column, Listing, print_listing
from opam_ci.clients.index import Index
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, LogLine, Passed
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import Taken
from opam_ci.core.jobs.summary import JobState, JobStatus, Summary
from opam_ci.workflows import options
from tests.support.fakes.clone import Clone, at, opam
from tests.support.fakes.summaries import summary_of
from tests.support.fakes.terminal import HEIGHT, in_terminal, plain

NOW = datetime.now(UTC)
PACKAGE = "a-package-whose-name-is-as-long-as-anybody-will-name-one.1.0"
PLATFORM = "debian-testing-ocaml-5.4-flambda/ppc64le"
WORKER = "builder-with-a-long-name-3.example.org/ppc64le-1"
TARGET = "an-owner-with-a-long-name/a-repository-of-packages/30203"
JOB = Job(platform=PLATFORM, package=PACKAGE, kind=JobKind.BUILD)
WORDS = "the disk of the machine is full, and has been full for quite some time by now"
FULL = Errored(
    cause=Cause.DISK_FULL,
    evidence=Evidence(rule="enospc", worker=WORKER, lines=(LogLine(offset=0, text=WORDS),)),
)
FINE = Passed(evidence=Evidence(rule="installed", worker=WORKER))
ROWS = (
    JobStatus(
        job=JOB, state=JobState.DECIDED, attempt=1, outcome=FULL, worker=WORKER, decided_at=NOW
    ),
    JobStatus(
        job=JOB.model_copy(update={"platform": "debian-13-ocaml-5.3/amd64", "package": "a.1"}),
        state=JobState.DECIDED, attempt=1, outcome=FINE, worker=WORKER, decided_at=NOW,
    ),
)  # fmt: skip
SUMMARY = summary_of(ROWS, pull_request="#".join(TARGET.rsplit("/", 1)))
LONG_PLATFORM = f"""
[pools.linux-ppc64le]
arch = "ppc64le"
runner = "container"
[[platforms]]
distribution = "debian-testing"
ocaml = "5.4"
variant = "flambda"
arch = "ppc64le"
runner = "container"
image = "localhost/{"i" * 60}:1"
lower_bounds = true
revdeps = true
"""

COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "jobs": (["jobs"], [TARGET, JOB.id, "errored(disk_full)"]),
    "errors": (["errors"], [TARGET]),
    "workers": (["workers"], [WORKER, "build-linux-ppc64le"]),
    "incidents": (["incidents", "--all"], [WORKER, "disk_full"]),
    "platforms": (["platforms", "--platforms", "long.toml"], [PLATFORM, "linux-ppc64le"]),
    "status": (["status"], [TARGET]),
    "status-of-one": (["status", TARGET], [f"{PACKAGE} build", PLATFORM]),
    "analyse": (["analyse", "--repo", "clone.git", "--branch", "topic"], [PACKAGE]),
    "restart": (["restart", TARGET, "--dry-run"], [JOB.id, TARGET]),
    "restart-all": (["restart", "--cause", "disk_full", "--dry-run"], [JOB.id, TARGET]),
    "lint": (["lint", "--checks", "publication", "--repo", "tree", PACKAGE], [PACKAGE]),
}
"""By name: what is typed, and the names that are to be whole in what is printed."""


class FakePullRequests:
    """Takes one job."""

    def __init__(self, _: object) -> None:
        pass

    async def restart_jobs(self, *_: object) -> Taken:
        return Taken(jobs=1, by_platform={PLATFORM: 1}, first=(JOB.id,))


class FakeClient:
    """Temporal, with one workflow and one worker."""

    service_client = SimpleNamespace(config=SimpleNamespace(target_host="127.0.0.1:7233"))

    def list_workflows(self, *_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        async def found() -> AsyncIterator[SimpleNamespace]:
            yield SimpleNamespace(
                id=f"pr/{TARGET}",
                typed_search_attributes={
                    options.CI_STATE: "error",
                    options.CI_CAUSES: [cause.value for cause in Cause],
                    options.CI_HEAD: "a" * 40,
                },
                status=SimpleNamespace(name="RUNNING"),
                start_time=NOW,
            )

        return found()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index, a clone and files with long names in them."""
    home = tmp_path_factory.mktemp("names")
    (home / "long.toml").write_text(LONG_PLATFORM)
    file = home / "tree" / at(PACKAGE)
    file.parent.mkdir(parents=True)
    file.write_bytes(opam())
    clone = Clone(home / "clone.git")
    start = clone.commit("master", {at("a.1"): opam()})
    clone.commit("topic", {at(PACKAGE): opam("run-test: [make]")}, parents=(start,))
    repository, _, number = TARGET.rpartition("/")
    key = RevisionKey(repository=repository, number=int(number), head="a" * 40, opened_at=NOW)
    index = Index.open(f"sqlite:///{home}/index.sqlite")
    index.record(
        RowBatch(
            key=key,
            revision=RevisionRecord(key=key, base="b", updated_at=NOW, sequence=1, is_open=True),
            rows=ROWS,
            sequence=1,
            updated_at=NOW,
            pools={PLATFORM: "linux-ppc64le", ROWS[1].job.platform: "linux-amd64"},
        )
    )
    index.close()
    return home


@pytest.fixture(autouse=True)
def _world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the commands read, and no environment that influences the output."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "OPAM_CI_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("OPAM_CI_HOME", str(folder))
    monkeypatch.chdir(folder)

    async def connected(*_: object, **__: object) -> FakeClient:
        return FakeClient()

    async def pollers(_: object, queue: str) -> dict[str, datetime]:
        return {WORKER: NOW} if queue != options.ORCHESTRATION_QUEUE else {}

    async def summary(*_: object) -> Summary:
        return SUMMARY

    for module in (overview, status, restart):
        monkeypatch.setattr(module, "connected", connected)
    monkeypatch.setattr(overview, "pollers", pollers)
    monkeypatch.setattr(status, "summary_of", summary)
    monkeypatch.setattr(restart, "PullRequests", FakePullRequests)


def command(name: str) -> Callable[[], object]:
    return lambda: run(COMMANDS[name][0])


LISTS = ["jobs", "errors", "workers", "incidents", "platforms", "status", "analyse"]
"""Those that print rows and nothing else to standard output."""


def test_names_are_as_long_as_these_tests_need_them() -> None:
    assert (len(PACKAGE), len(PLATFORM)) == (60, 40)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_names_whole_and_no_colour(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    command(name)()
    text = capsys.readouterr().out
    for whole in COMMANDS[name][1]:
        assert whole in text
    assert "\x1b" not in text
    assert "…" not in text


@pytest.mark.parametrize("name", LISTS)
def test_a_pipe_gets_a_row_a_line_with_all_cells_between_tabs(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bold = in_terminal(400, command(name)).splitlines()[0].split("\x1b[1m")[1:]
    headings = [plain(each).strip() for each in bold]
    capsys.readouterr()
    command(name)()
    lines = capsys.readouterr().out.splitlines()
    rows = 2 if name == "jobs" else 1
    assert [len(line.split("\t")) for line in lines] == [len(headings)] * rows
    # There are no headings in a pipe, so --help names the columns.
    run([COMMANDS[name][0][0], "--help"])
    explained = " ".join(capsys.readouterr().out.split())
    assert f"n a pipe, tabs separate: {', '.join(headings)}." in explained


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_names_are_whole_at_a_terminal(name: str, columns: int) -> None:
    text = plain(in_terminal(columns, command(name)))
    for whole in COMMANDS[name][1]:
        assert whole in text
    assert "…" not in text
    if name in LISTS:
        # What does not fit is a name, alone in its line.
        names = {PACKAGE, PLATFORM, TARGET, WORKER, JOB.id}
        wide = [line.strip() for line in text.splitlines() if len(line) > columns]
        assert set(wide) <= names


MANY = summary_of(
    [
        *ROWS,
        *(
            JobStatus(job=JOB.model_copy(update={"package": f"{PACKAGE}{number}"}))
            for number in range(100)
        ),
    ]
)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_running_check_stays_on_its_screen(columns: int) -> None:
    def show() -> None:
        view = make_view(as_json=False)
        view.show(MANY)
        view.stop()

    text = plain(in_terminal(columns, show))
    assert 40 < len(text.splitlines()) <= HEIGHT
    assert "2/102 done" in text
    # A name may be longer than the screen is wide: then it goes on in the next line.
    assert PACKAGE in text.replace("\n", "")
    assert "…" not in text


def test_a_running_check_in_a_pipe_has_a_line_for_each_change_and_a_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = make_view(as_json=False)
    view.show(MANY)
    view.close(MANY)
    changes, _, report = capsys.readouterr().out.partition("\n\n")
    assert len(changes.splitlines()) == 102
    heading, first, *_ = report.splitlines()
    assert heading.split() == ["job", "phase", "outcome", "try", "time", "platform"]
    assert re.fullmatch(rf"{PACKAGE} build +errored\(disk_full\) +1 +{PLATFORM}", first)
    assert first.index(PLATFORM) == heading.index("platform")


def test_colours_and_width_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    assert coloured.search(in_terminal(120, command("status-of-one")))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured.search(in_terminal(120, command("status-of-one")))
    wide = plain(in_terminal(400, command("errors"))).splitlines()
    monkeypatch.setenv("COLUMNS", "70")
    narrow = plain(in_terminal(400, command("errors"))).splitlines()
    assert len(narrow) > len(wide)
    assert max(map(len, narrow)) <= 70


LISTING_COLUMNS = (
    Column("name", is_key=True),
    Column("n", is_number=True),
    Column("since", drop=2),
    Column("last", drop=1),
    Column("why", wraps=12),
)


def laid_out(columns: int, *rows: tuple[str | Text, ...]) -> list[str]:
    listing = Listing(*LISTING_COLUMNS)
    for row in rows:
        listing.add(*row)
    return plain(in_terminal(columns, lambda: print_listing(listing))).splitlines()


ROW = ("a-name", "7", "yesterday", "today", "because of this and that")


def test_columns_are_dropped_least_important_first_then_rows_become_blocks() -> None:
    assert laid_out(60, ROW) == [
        "name    n  since      last   why",
        "a-name  7  yesterday  today  because of this and that",
    ]
    assert laid_out(48, ROW)[:2] == [
        "name    n  since      last   why",
        "a-name  7  yesterday  today  because of this and",
    ]
    assert laid_out(40, ROW) == [
        "name    n  since      why",
        "a-name  7  yesterday  because of this",
        "                      and that",
    ]
    assert laid_out(24, ROW) == [
        "name    n  why",
        "a-name  7  because of",
        "           this and that",
    ]
    assert laid_out(20, ROW) == [
        "a-name",
        "  n: 7; since:",
        "  yesterday; last:",
        "  today; why:",
        "  because of this",
        "  and that",
    ]


def test_numbers_are_on_the_right_and_empty_cells_are_omitted() -> None:
    assert laid_out(60, ROW, ("b", "10", "", "", ""))[1:] == [
        "a-name   7  yesterday  today  because of this and that",
        "b       10",
    ]
    assert laid_out(20, ("b", "10", "", "", "")) == ["name   n  since  why", "b     10"]
    long = ("b" * 30, "10", "", "", "")
    assert laid_out(20, long) == ["b" * 30, "  n: 10"]


def test_no_width_is_too_small() -> None:
    assert laid_out(1, ROW)[0] == "a-name"


def test_control_characters_neither_reach_a_terminal_nor_break_a_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listing = Listing(Column("a"), Column("b"))
    listing.add("one\ttwo\nthree", Text("\x1b[2J [bold]x[/]", "red"))
    print_listing(listing)
    assert capsys.readouterr().out == "one two three\t [2J [bold]x[/]\n"
