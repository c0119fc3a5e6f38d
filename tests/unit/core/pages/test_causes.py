"""Groups of causes: what looks the same, and what is only the cascade of something else."""

import pytest

from opam_ci.core.classify.positive_proofs import PROOFS
from opam_ci.core.classify.rulebook import RULES
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
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.plan import outcome_after
from opam_ci.core.jobs.summary import JobState, JobStatus, Standing
from opam_ci.core.pages.causes import cause_group, group_rows, is_alike, is_shown_by, rationale

BUILD = Job(platform="p", package="a.1", kind=JobKind.BUILD)
TEST = BUILD.model_copy(update={"kind": JobKind.TEST})


def failed(line: str, reason: FailureReason = FailureReason.BUILD, **more: object) -> Failed:
    evidence = Evidence(rule="r", lines=(LogLine(offset=0, text=line),))
    return Failed.model_validate({"reason": reason, "evidence": evidence, **more})


def row(job: Job, outcome: Outcome | None) -> JobStatus:
    state = JobState.QUEUED if outcome is None else JobState.DECIDED
    return JobStatus(job=job, state=state, outcome=outcome)


def revdep(name: str, platform: str = "p") -> Job:
    return Job(platform=platform, package="a.1", kind=JobKind.REVDEP, revdep=name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('File "/home/opam/a.1/x.ml", line 3', 'File "/home/opam/b.22/y.ml", line 44'),
        ("Error: md5 0123456789abcdef is wrong", "error: md5 fedcba9876543210  is wrong"),
    ],
)
def test_numbers_paths_and_hashes_make_no_difference(one: str, other: str) -> None:
    assert cause_group(failed(one)) == cause_group(failed(other)) is not None


@pytest.mark.parametrize(
    "other",
    [
        failed("Error: other"),
        failed("Error: one", FailureReason.TEST),
        Errored(cause=Cause.DNS, evidence=failed("Error: one").evidence),
        Skipped(reason=SkipReason.ACCEPTED_FAILURE, evidence=failed("Error: one").evidence),
        failed("Error: one", blame="dune.3"),
    ],
)
def test_standing_reason_and_line_do(other: Outcome) -> None:
    assert cause_group(failed("Error: one")) != cause_group(other) is not None


def test_an_outcome_is_shown_by_an_output_that_has_all_its_lines() -> None:
    verdict = failed("# Error at line 3 of /home/opam/a.1/x.ml")
    assert is_shown_by(verdict, "- make\n# Error at line 4 of /build/other/y.ml\n")
    assert not is_shown_by(verdict, "# Error\n")
    nothing = verdict.evidence.model_copy(update={"lines": ()})
    assert not is_shown_by(verdict.model_copy(update={"evidence": nothing}), "# Error\n")


@pytest.mark.parametrize(
    "outcome",
    [
        None,
        Passed(evidence=Evidence(rule="r")),
        Cancelled(by="request"),
        outcome_after(failed("x"), BUILD),
        outcome_after(Errored(cause=Cause.DNS, evidence=Evidence(rule="r")), BUILD),
    ],
)
def test_what_has_no_cause_of_its_own_has_no_group(outcome: Outcome | None) -> None:
    assert cause_group(outcome) is None


def test_what_needs_a_failed_package_is_its_cascade_on_that_platform_alone() -> None:
    root, needs = failed("Error: one"), failed("Error: one", blame="a.1")
    rows = [
        row(BUILD, root),
        row(TEST, outcome_after(root, BUILD)),
        *(row(revdep(f"r{number}.1"), needs) for number in range(3)),
        row(revdep("r9.1", "q"), needs),
    ]
    one, other = group_rows(rows)
    assert [each.job for each in one.members] == [BUILD]
    assert len(one.cascade) == 4
    assert one.others == "; 4 jobs need it"
    assert [each.job.platform for each in other.members] == ["q"]


def test_the_test_of_a_build_in_a_cascade_is_in_that_cascade() -> None:
    needs = failed("Error: one", blame="a.1")
    build = revdep("r.1")
    after = build.model_copy(update={"kind": JobKind.REVDEP_TEST})
    rows = [row(BUILD, failed("x y z")), row(build, needs), row(after, outcome_after(needs, build))]
    [only] = group_rows(rows)
    assert [each.job.kind for each in only.cascade] == [JobKind.REVDEP, JobKind.REVDEP_TEST]


def test_errors_come_first_then_failures_then_skips_each_with_the_most_jobs_first() -> None:
    def many(outcome: Outcome, number: int) -> list[JobStatus]:
        return [
            row(BUILD.model_copy(update={"package": f"{outcome.kind}{number}-{n}.1"}), outcome)
            for n in range(number)
        ]

    skip = Skipped(reason=SkipReason.UNAVAILABLE, evidence=Evidence(rule="r", detail="os"))
    error = Errored(cause=Cause.DNS, evidence=Evidence(rule="r", detail="no DNS"))
    rows = [
        *many(skip, 9), *many(failed("few"), 2), *many(failed("lots"), 5), *many(error, 1),
        *many(Passed(evidence=Evidence(rule="r")), 3),
    ]  # fmt: skip
    assert [(each.group.standing, len(each.members)) for each in group_rows(rows)] == [
        (Standing.ERRORED, 1), (Standing.FAILED, 5), (Standing.FAILED, 2), (Standing.SKIPPED, 9),
    ]  # fmt: skip


def test_a_rule_has_its_reason_whichever_table_has_it() -> None:
    rule = next(iter(RULES))
    assert rationale(rule.id) == rule.why
    proof, name = next(
        (proof, name) for proof in PROOFS for name in proof.rules if name not in RULES.by_id
    )
    assert rationale(name) == proof.why
    assert rationale("no-such-rule") == ""


def test_two_failures_of_a_package_are_alike_if_all_their_lines_are() -> None:
    def broke(*texts: str) -> Failed:
        lines = tuple(LogLine(offset=place, text=text) for place, text in enumerate(texts))
        return Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="r", lines=lines))

    one = broke("Error: line 17 of /tmp/x1", "# it is not one")
    assert is_alike(one, broke("Error: line 18 of /tmp/x2", "# it is not one"))
    assert not is_alike(one, broke("Error: line 17 of /tmp/x1", "# it never worked"))
    assert not is_alike(one, one.model_copy(update={"reason": FailureReason.TEST}))
    assert is_alike(Cancelled(by="request"), Cancelled(by="closed"))
