"""Check runs: verdicts, pages, annotations and buttons."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.core.github.check_page import check_run, page
from opam_ci.core.github.checks import BUTTON_ERRORS, BUTTON_FAILED, Annotation, CheckRun
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
)
from opam_ci.core.jobs.plan import ANALYSIS
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import JobState, JobStatus, Summary
from opam_ci.core.jobs.tally import counts_of_rows
from opam_ci.core.lint.finding import CheckId, LintFinding, Severity
from opam_ci.core.submission.effect import Effect, LostPackage
from tests.support.fakes.summaries import summary_of

HEAD = "1" * 40
REF = PullRequestRef(owner="ocaml", repo="opam-repository", number=7)
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OVERALL, LINTER, _ = DEFAULT_CONTEXTS
PASSED = Passed(evidence=Evidence(rule="test"))
FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="test", detail="0 bytes free"))
FINDING = LintFinding(
    package="a.1",
    check=CheckId.WEAK_CHECKSUM,
    severity=Severity.ERROR,
    message="Weak checksum",
    explanation="Use sha256.",
    file="packages/a/a.1/opam",
    line=12,
)


def failed(line: str) -> Failed:
    lines = (LogLine(offset=0, text=line),)
    return Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="test", lines=lines))


def build(name: str, outcome: Outcome | None, platform: str = "debian-13/amd64") -> JobStatus:
    job = Job(platform=platform, package=name, kind=JobKind.BUILD)
    state = JobState.QUEUED if outcome is None else JobState.DECIDED
    at = None if outcome is None else NOW
    return JobStatus(job=job, state=state, outcome=outcome, started_at=at, decided_at=at)


def revdep(number: int, outcome: Outcome) -> JobStatus:
    row = build("a.1", outcome)
    changes = {"kind": JobKind.REVDEP, "revdep": f"r{number}.1"}
    return row.model_copy(update={"job": row.job.model_copy(update=changes)})


def summary(*jobs: JobStatus) -> Summary:
    analysis = JobStatus(job=ANALYSIS, state=JobState.DECIDED, outcome=PASSED)
    return summary_of([analysis, *jobs], pull_request=REF.title, head=HEAD)


def run(*jobs: JobStatus) -> CheckRun:
    return check_run(
        summary(*jobs), OVERALL, DEFAULT_CONTEXTS, pull_request=REF, maximum_attempts=5
    )


@pytest.mark.parametrize(
    ("outcome", "conclusion", "buttons"),
    [
        (PASSED, "success", ()),
        (failed("Error"), "failure", (BUTTON_FAILED,)),
        (FULL, "action_required", (BUTTON_ERRORS,)),
        (Cancelled(by="request"), None, (BUTTON_ERRORS,)),
        (None, None, ()),
    ],
)
def test_verdict_and_buttons(
    outcome: Outcome | None, conclusion: str | None, buttons: tuple[object, ...]
) -> None:
    made = run(build("a.1", outcome))
    assert (made.conclusion, made.actions) == (conclusion, buttons)
    assert made.external_id == "pr/ocaml/opam-repository/7"
    assert made.completed_at == (NOW if conclusion else None)


def test_page_lists_failures_by_cause_and_reason() -> None:
    shown = page(
        summary(
            build("a.1", failed("Error: Unbound module `Str`")),
            build("b.1", failed("Error: no")),
            build("c.1", FULL, "alpine/arm64"),
            build("d.1", None, "alpine/arm64"),
        )
    )
    assert "| debian-13/amd64 |  | 2 ❌ |" in shown
    assert "| alpine/arm64 |  | 1 · 1 🔧 |" in shown
    assert "### failed(build) (2)\n- `a.1 build` on debian-13/amd64: `Error: Unbound" in shown
    assert "### CI error, not the package's fault: disk full (1)" in shown
    assert "`0 bytes free`" in shown
    assert "d.1" not in shown


def test_what_happens_to_other_packages_is_on_the_page_of_all_jobs_alone() -> None:
    hostile = LostPackage(package="b`@all.1", ocaml=("5.4", "4.14"), last_on=("5.4",))
    effect = Effect(ocaml=("5.4", "4.14"), lost=(hostile,), more=9)
    of_head = summary(build("a.1", PASSED)).model_copy(update={"effect": effect})

    def made(context: Context) -> CheckRun:
        return check_run(of_head, context, DEFAULT_CONTEXTS, pull_request=REF, maximum_attempts=5)

    overall, lint = made(OVERALL), made(LINTER)
    assert overall.output is not None
    assert lint.output is not None
    assert overall.conclusion == "success"
    assert overall.output.title == (
        "1 passed; makes 10 packages uninstallable on OCaml 5.4 and 4.14; analysis passed"
    )
    assert overall.output.summary.startswith(
        """### Other packages (advisory)
- makes 10 packages uninstallable on OCaml 5.4 and 4.14: b`@all.1 and 9 more

- `b'@all.1`: OCaml 5.4, 4.14; no other version can be installed with 5.4
- … and 9 more

|"""
    )
    assert "Other packages" not in lint.output.summary
    assert page(summary(build("a.1", PASSED))) == page(
        summary(build("a.1", PASSED)).model_copy(update={"effect": Effect(ocaml=("5.4",))})
    )


def test_page_shows_the_numbers_of_the_status() -> None:
    broken, lost = failed("Error: no"), revdep(9000, FULL)
    others = [revdep(n, broken if n < 120 else PASSED) for n in range(5000)]
    of = summary(build("a.1", PASSED), *others[:2])
    of = of.model_copy(update={"tallies": counts_of_rows([*of.jobs, *others[2:], lost])})
    made = check_run(of, OVERALL, DEFAULT_CONTEXTS, pull_request=REF, maximum_attempts=5)
    assert made.output is not None
    assert made.output.title == "120 failed, 1 errored, 4881 passed; analysis passed"
    table, some, none = made.output.summary.split("\n\n")
    assert "| debian-13/amd64 |  | 1 ✅ | 4880 ✅ 120 ❌ 1 🔧 |" in table
    assert some.startswith("### failed(build) (120, 2 shown)\n- `r0.1 with a.1` on debian-13")
    assert some.endswith("/amd64 and 1 more: `Error: no`")
    assert none == "### CI error, not the package's fault: disk full (1, 0 shown)"


@given(st.text(max_size=300))
def test_no_log_line_formats_the_page_or_calls_people(line: str) -> None:
    shown = page(summary(build("a.1", failed(f"@team `x` <b> {line}"))))
    last = shown.split("\n")[-1]
    assert last.startswith("- `a.1 build` on debian-13/amd64: `")
    assert last.endswith("`")
    assert last.count("`") == 4


def test_page_of_thousands_fits() -> None:
    # Numbers alone would look the same.
    words = ["".join(chr(ord("a") + int(digit)) for digit in str(n)) for n in range(3000)]
    jobs = [build(f"{word}.1", failed(f"{word} " + "x" * 390)) for word in words]
    jobs += [build("p.1", PASSED, f"distribution-{n}-ocaml-5.3/amd64") for n in range(999)]
    jobs += [
        build(f"{word}.2", Errored(cause=cause, evidence=Evidence(rule="r", detail=word * 200)))
        for cause in Cause
        for word in words[:300]
    ]
    made = run(*jobs)
    assert made.output is not None
    assert len(made.output.summary) <= 65_535
    assert "… and 901 more platforms" in made.output.summary
    assert "### failed(build) (3000, 40 shown)" in made.output.summary
    assert "more kinds of problems" in made.output.summary


def test_findings_are_annotations_of_the_linter_alone() -> None:
    def annotations(context: object) -> tuple[Annotation, ...]:
        made = check_run(
            summary(),
            LINTER if context is LINTER else OVERALL,
            DEFAULT_CONTEXTS,
            pull_request=REF,
            maximum_attempts=5,
            findings=[FINDING, FINDING.model_copy(update={"line": None})],
        )
        assert made.output is not None
        return made.output.annotations

    assert annotations(OVERALL) == ()
    first, second = annotations(LINTER)
    assert (first.path, first.start_line, first.annotation_level) == (
        "packages/a/a.1/opam",
        12,
        "failure",
    )
    assert first.message == "Weak checksum\n\nUse sha256."
    assert second.start_line == 1


def test_a_check_run_is_either_under_way_or_concluded() -> None:
    with pytest.raises(ValidationError, match="either a status or a conclusion"):
        CheckRun(name="n", head_sha=HEAD, external_id="x")
    with pytest.raises(ValidationError, match="either a status or a conclusion"):
        CheckRun(name="n", head_sha=HEAD, external_id="x", status="queued", conclusion="success")
