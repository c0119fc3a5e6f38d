"""The operators' commands over an index: what they print, and how they refuse."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.cli.main import run
from opam_ci.cli.selection.operate import ago, moment
from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Passed,
)
from tests.support.fakes.command_line import DEBIAN, FEDORA, NOW, job, key, output_of, write
from tests.support.fakes.terminal import in_terminal

FULL = Errored(
    cause=Cause.DISK_FULL,
    evidence=Evidence(
        rule="enospc", worker="w1", lines=(LogLine(offset=0, text="No space left on device"),)
    ),
)
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31", worker="w1"))
FINE = Passed(evidence=Evidence(rule="installed", worker="w1"))


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Two pull requests with a full disk each, one with a failure; a closed one, twice tested."""
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    write(index, key(1), (job("a.1"), FULL), (job("b.1", FEDORA), FULL), (job("c.1"), BROKEN))
    write(index, key(2), (job("a.1"), FULL), (job("d.1"), FINE))
    earlier = NOW - timedelta(days=1)
    write(index, key(3, "abcdef" + "0" * 34, earlier), (job("e.1"), BROKEN))
    write(index, key(3, "abcdef" + "1" * 34), (job("e.2"), FINE), open_=False)
    yield index
    index.close()


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """The rows of a list, and what is printed besides."""
    assert run(list(arguments)) == 0
    output = capsys.readouterr()
    return output.out, output.err


@pytest.mark.usefixtures("filled")
def test_errors_name_the_cause_and_the_pull_requests_it_hits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output_of(capsys, "errors")
    assert "disk_full: disk full" in text
    assert "o/r/1 (2), o/r/2 (1)" in text
    [group] = [json.loads(line) for line in output_of(capsys, "errors", "--json").splitlines()]
    assert (group["cause"], group["errored"]) == ("disk_full", 3)


def test_errors_name_the_first_pull_requests_at_a_terminal_and_all_in_a_pipe(
    filled: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(11, 16):
        write(filled, key(number), (job("a.1"), FULL))
    names = ["o/r/1 (2)", *(f"o/r/{number} (1)" for number in (11, 12, 13, 14, 15, 2))]
    hits = output_of(capsys, "errors").rstrip("\n").split("\t")[-1]
    assert sorted(hits.split(", ")) == names
    shown = in_terminal(200, lambda: run(["errors"]))
    assert " and 2 more" in shown
    assert sum(name in shown for name in names) == 5


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        (["--is", "errored"], {"a.1", "b.1"}),
        (["--cause", "disk_full", "--platform", FEDORA], {"b.1"}),
        (["--reason", "build"], {"c.1"}),
        (["o/r/2"], {"a.1", "d.1"}),
        (["--package", "d", "--since", "1h", "--all-heads"], {"d.1"}),
        (["--worker", "nobody"], set()),
        (["--until", "1h"], set()),
        (["--job", f"build {DEBIAN} c.1"], {"c.1"}),
        (["--job", f"build {DEBIAN} %"], set()),
        (["--standing", "passed"], {"d.1"}),
        (["o/r/3"], {"e.2"}),
        (["o/r/3", "--head", "ABCDEF0"], {"e.1"}),
        (["o/r/3", "--all-heads"], {"e.1", "e.2"}),
    ],
)
def test_jobs_are_listed_and_counted(
    capsys: pytest.CaptureFixture[str], arguments: list[str], packages: set[str]
) -> None:
    lines = output_of(capsys, "jobs", *arguments, "--json").splitlines()
    assert {json.loads(line)["status"]["job"]["package"] for line in lines} == packages
    counts = json.loads(output_of(capsys, "jobs", *arguments, "--count", "--json"))
    assert sum(counts.values()) == len(lines)


@pytest.mark.usefixtures("filled")
def test_a_listing_has_the_cursor_of_the_next_page(capsys: pytest.CaptureFixture[str]) -> None:
    first, besides = listed(capsys, "jobs", "--limit", "3")
    after = besides.splitlines()[-1].removeprefix("more: --after ")
    rest, besides = listed(capsys, "jobs", "--limit", "3", "--after", after)
    assert "more:" not in besides
    assert (len(first.splitlines()), len(rest.splitlines())) == (3, 2)


@pytest.mark.usefixtures("filled")
def test_a_listing_begins_with_true_totals_and_a_pipe_cuts_nothing(
    filled: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    long = job("p" * 150 + ".1", "q" * 90)
    write(filled, key(9), (long, FULL), *((job(f"x.{n}"), FINE) for n in range(1100)))
    _, besides = listed(capsys, "jobs", "o/r/9", "--limit", "2")
    assert besides.splitlines()[0] == "1 errored, 1,100 passed; 2 shown"
    [found] = [
        line
        for line in output_of(capsys, "jobs", "--package", "p" * 150).splitlines()
        if "ppp" in line
    ]
    assert long.id in found
    assert output_of(capsys, "jobs", "o/r/9", "--count") == "1 errored, 1,100 passed\n"
    none = listed(capsys, "jobs", "o/r/9", "--standing", "failed")
    assert none == ("", "no jobs match; there are: 1 errored, 1,100 passed\n")


def test_incidents_are_listed_shown_and_named(
    filled: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    [incident] = filled.incidents().items
    assert "disk_full\tw1" in output_of(capsys, "incidents")
    shown = output_of(capsys, "incidents", "show", str(incident.id))
    assert "disk full (disk_full) on worker w1: 3 jobs of 2 pull requests" in shown
    assert "No space left on device" in shown
    assert "3 jobs are errored by it" in shown
    dry = output_of(capsys, "incidents", "resolve", str(incident.id), "--dry-run", "--json")
    assert json.loads(dry) == {"incident": incident.id, "jobs": 3, "spent": 0, "sent": False}
    assert "no incident 999" in output_of(capsys, "incidents", "show", "999", code=2)
    assert filled.resolve(incident.id, at=NOW + timedelta(seconds=1), by="ann")
    assert "resolved at" in output_of(capsys, "incidents", "resolve", str(incident.id), code=2)
    assert listed(capsys, "incidents") == ("", "no open incidents; --all lists the others\n")
    assert "by ann" in output_of(capsys, "incidents", "--all")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs", "--is", "broken"], "'broken' is not one of 'queued',"),
        (["jobs", "--kind", "sing"], "'--kind': 'sing' is not one of 'analysis',"),
        (["jobs", "--reason", "sloth"], "'--reason': 'sloth' is not one of"),
        (["jobs", "--cause", "sloth"], "'--cause': 'sloth' is not one of"),
        (["jobs", "nonsense"], "not a pull request: 'nonsense'"),
        (["jobs", "o/r/8"], "no test of o/r/8 in the index"),
        (["jobs", "o/r/1", "--head", "fffffff"], "no tested heads of o/r/1 begin with fffffff"),
        (["jobs", "o/r/3", "--head", "abcdef"], "2 tested heads of o/r/3 begin with abcdef;"),
        (["jobs", "o/r/3", "--head", "HEAD"], "not a commit: 'HEAD'"),
        (["jobs", "--head", "abcdef0"], "--head needs one pull request"),
        (["jobs", "--since", "yesterday"], "invalid time 'yesterday'"),
        (["incidents", "--cause", "gremlins"], "'--cause': 'gremlins' is not one of"),
    ],
)
def test_invalid_input_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    text = output_of(capsys, *arguments, code=2)
    assert words in text
    assert len(text.splitlines()) == 1


def test_a_missing_index_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPAM_CI_HOME", str(tmp_path))
    assert "no index at" in output_of(capsys, "errors", code=2)
    assert not (tmp_path / "index.sqlite").exists()


def test_times_are_parsed_and_printed() -> None:
    assert moment("90m", NOW) == NOW - timedelta(minutes=90)
    assert moment("2026-05-04", NOW) == datetime(2026, 5, 4, tzinfo=UTC)
    assert ago(NOW - timedelta(hours=30), NOW) == "1d"
    assert ago(NOW + timedelta(seconds=5), NOW) == "0s"
    # No calendar goes back, or ahead, by more.
    assert moment("99999d", NOW).year < NOW.year
    assert moment("99999d", NOW, ahead=True).year > NOW.year
    for text in ("7 days", "999999d"):
        with pytest.raises(UsageError):
            moment(text, NOW)
