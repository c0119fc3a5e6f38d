"""What a terminal, a pipe and a program are shown of a head."""

import io
import json
from datetime import UTC, datetime

from rich.console import Console

from opam_ci.cli.output.render import JsonView, LineView, elapsed, print_summary, whole_state
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine, Outcome, Passed
from opam_ci.core.jobs.plan import ANALYSIS
from opam_ci.core.jobs.summary import JobState, JobStatus, Summary
from opam_ci.core.jobs.tally import counts_of_rows
from tests.support.fakes.summaries import summary_of

EVIDENCE = Evidence(rule="r", lines=(LogLine(offset=0, text="Error: \x1b[2J [bold]x"),))
PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.TEST, evidence=EVIDENCE)


def row(number: int, outcome: Outcome | None = None, platform: str = "p") -> JobStatus:
    job = Job(platform=platform, package=f"a.{number}", kind=JobKind.BUILD)
    state = JobState.DECIDED if outcome else JobState.QUEUED
    return JobStatus(job=job, outcome=outcome, state=state)


def printed(summary: Summary) -> list[str]:
    out = io.StringIO()
    print_summary(Console(file=out, width=160), summary)
    return out.getvalue().splitlines()


def lines(*summaries: Summary) -> list[str]:
    """The lines in a pipe, without the times and the table at the end."""
    out = io.StringIO()
    view = LineView(Console(file=out, width=160, no_color=True))
    for summary in summaries:
        view.show(summary)
    shown = out.getvalue()
    view.close(summaries[-1])
    last = out.getvalue()[len(shown) :].partition("\n\n")[0] if shown else ""
    return [line[9:] for line in [*shown.splitlines(), *last.splitlines()] if line[2:3] == ":"]


def test_a_table_has_all_rows_of_a_usual_head_and_the_reasons() -> None:
    text = printed(summary_of([row(1, PASSED), row(2, FAILED), row(3)]))
    assert [line.split()[0] for line in text[1:4]] == ["a.1", "a.2", "a.3"]
    assert not any("shown" in line for line in text)
    # No code of a log's reaches the terminal.
    assert "a.2 build: Error:  [2J [bold]x" in text
    assert text[-1] == f"o/r#1 at {'a' * 12}: 2/3 done, 1 failed"


def test_a_table_of_a_large_head_is_limited_and_counts_what_is_missing() -> None:
    rows = [row(n, PASSED, f"p{n % 9}") for n in range(990)] + [
        row(n, FAILED) for n in range(1000, 1010)
    ]
    text = printed(
        summary_of(rows, tallies=counts_of_rows([*rows, *(row(n) for n in range(2000, 4000))]))
    )
    assert len(text) < 350
    assert text[1].startswith("a.1000 build")
    assert "990 passed, 290 shown; all: opam-ci jobs o/r/1 --standing passed" in text
    assert "2000 to go, 0 shown" in text
    assert not any("10 failed, " in line and "shown" in line for line in text)
    assert text[-1].endswith("1000/3000 done, 10 failed")


def test_each_row_is_printed_once_until_it_changes() -> None:
    before, after = summary_of([row(1), row(2)]), summary_of([row(1, PASSED), row(2)])
    assert lines(before, before, after, after) == [
        "build p a.1: queued",
        "build p a.2: queued",
        "build p a.1: passed",
    ]


def test_what_is_made_for_a_job_is_shown_in_place_of_its_phase() -> None:
    running = row(1).model_copy(update={"state": JobState.RUNNING, "phase": Phase.CHECKOUT})
    making = running.model_copy(update={"note": "root file system"})
    solving = running.model_copy(update={"phase": Phase.SOLVE})
    shown = lines(summary_of([making]), summary_of([solving]), summary_of([row(1, PASSED)]))
    assert shown[0].endswith("running (root file system)")
    assert shown[1].endswith("running (solve)")
    assert printed(summary_of([making]))[1].split()[2:5] == ["root", "file", "system"]


def test_jobs_without_a_row_are_summed_up() -> None:
    # a.2 was printed before it was decided; a.1 was printed and has no row any more.
    others = [row(n, PASSED if n % 3 else FAILED) for n in range(10, 40)]
    first = summary_of([row(1, PASSED), row(2)])
    second = summary_of([], tallies=counts_of_rows([row(1, PASSED), row(2, PASSED), *others]))
    assert lines(first, second) == [
        "build p a.1: passed",
        "build p a.2: queued",
        "other jobs: 21 passed, 10 failed",
    ]


def test_in_a_pipe_jobs_without_a_row_are_counted_at_intervals_and_at_the_end() -> None:
    states = [
        summary_of([], tallies=counts_of_rows([row(n, PASSED) for n in range(many)]))
        for many in (10, 20, 30)
    ]
    assert lines(*states) == ["other jobs: 10 passed", "other jobs: 30 passed"]


def test_json_has_rows_numbers_and_the_whole_state() -> None:
    out = io.StringIO()
    view = JsonView(out)
    view.show(summary_of([row(1)]))
    many = [row(1, PASSED), *(row(n, FAILED) for n in range(2, 9))]
    view.close(summary_of(many, jobs=many[:2]))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(each["event"], each.get("id")) for each in events] == [
        ("job", "build p a.1"),
        ("job", "build p a.1"),
        ("job", "build p a.2"),
        ("unlisted", None),
        ("summary", None),
    ]
    assert events[3]["counts"] == {"failed": 6}
    assert events[4]["state"] == "failure"


def test_whole_state_counts_builds_and_lists_the_rest_apart() -> None:
    analysis = JobStatus(job=ANALYSIS, outcome=PASSED, state=JobState.DECIDED)
    lint = Job(platform="", package="a.1", kind=JobKind.LINT)
    rows = [analysis, JobStatus(job=lint, outcome=FAILED, state=JobState.DECIDED), row(1, PASSED)]
    many = [*rows, *(row(n) for n in range(1000))]
    state = whole_state(summary_of(many, jobs=rows))
    assert state["apart"] == {"analysis": {"passed": 1}, "lint": {"failed": 1}}
    assert (state["counts"]["passed"], state["counts"]["queued"]) == (1, 1000)
    assert (state["total"], len(state["jobs"])) == (1003, 3)
    assert sum(each["number"] for each in state["tallies"]) == 1003


def test_time_runs_from_the_start_to_the_verdict() -> None:
    at = datetime(2026, 1, 2, 3, tzinfo=UTC)
    running = JobStatus(job=row(1).job, state=JobState.RUNNING, started_at=at)
    assert elapsed(row(1), at) == ""
    assert elapsed(running, at.replace(minute=1, second=5)) == "1:05"
    done = running.model_copy(
        update={"state": JobState.DECIDED, "decided_at": at.replace(second=9)}
    )
    assert elapsed(done, at.replace(hour=9)) == "0:09"
