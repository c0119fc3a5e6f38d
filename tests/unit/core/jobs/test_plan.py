"""Which jobs a head has, in which order they are taken, and what follows from what."""

from collections.abc import Iterable

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
    label,
)
from opam_ci.core.jobs.plan import (
    RANKS,
    PlannedJob,
    depends_on,
    follows,
    outcome_after,
    planned_jobs,
    revdep_jobs,
)
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.submission.result import ChangedPackage, ChangeKind

EVIDENCE = Evidence(rule="r")
PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
ERRORED = Errored(cause=Cause.DNS, evidence=EVIDENCE)
SKIPPED = Skipped(reason=SkipReason.UNAVAILABLE, evidence=EVIDENCE)
BUILD = Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.BUILD)
TAGGED = EMBEDDED.model_copy(update={"image": "debian:13"})
PACKAGES = tuple(
    ChangedPackage(package=f"{kind}.1", kind=kind, has_tests=kind is ChangeKind.NEW_RELEASE)
    for kind in ChangeKind
)


def changed(kind: ChangeKind, *, has_tests: bool = False) -> ChangedPackage:
    return ChangedPackage(package="a.1", kind=kind, has_tests=has_tests)


def names(jobs: list[PlannedJob]) -> list[tuple[str, str | None]]:
    return [(each.job.id, each.needs.id if each.needs else None) for each in jobs]


def test_plan_builds_what_changed_and_tests_what_has_tests() -> None:
    jobs = [each.job for each in planned_jobs(PACKAGES, [EMBEDDED])]
    assert [(job.kind.value, job.package) for job in jobs if job.platform] == [
        ("build", "new_package.1"),
        ("build", "new_release.1"),
        ("build", "significantly_changed.1"),
        ("build", "unchanged.1"),
        ("test", "new_release.1"),
    ]
    linted = {job.package for job in jobs if job.kind is JobKind.LINT}
    assert linted == {f"{kind}.1" for kind in ChangeKind} - {"deleted.1"}


def test_plan_has_what_each_job_needs() -> None:
    one = (changed(ChangeKind.NEW_RELEASE),)
    asked = TAGGED.model_copy(update={"lower_bounds": True, "revdeps": True})
    image, build = f"image {TAGGED.name}", f"build {TAGGED.name} a.1"
    assert names([*planned_jobs(one, [asked])]) == [
        ("lint a.1", None),
        (image, None),
        (build, image),
        (f"lower-bounds {TAGGED.name} a.1", build),
        (f"list-revdeps {TAGGED.name} a.1", build),
    ]


def test_an_image_is_looked_up_only_where_something_is_built_in_one_without_a_digest() -> None:
    def kinds(packages: Iterable[ChangedPackage], image: str | None) -> set[JobKind]:
        platform = TAGGED.model_copy(update={"image": image})
        return {each.job.kind for each in planned_jobs(packages, [platform])}

    assert JobKind.IMAGE in kinds(PACKAGES, "debian:13")
    assert JobKind.IMAGE not in kinds(PACKAGES, f"debian@sha256:{'0' * 64}")
    assert JobKind.IMAGE not in kinds(PACKAGES, None)
    assert kinds([changed(ChangeKind.DELETED)], "debian:13") == set()


def test_a_reverse_dependency_with_tests_has_two_jobs() -> None:
    revdeps = [Revdep(package="b.1", has_tests=False), Revdep(package="c.2", has_tests=True)]
    assert names([*revdep_jobs("p", "a.1", revdeps)]) == [
        ("revdep p a.1 b.1", None),
        ("revdep p a.1 c.2", None),
        ("revdep-test p a.1 c.2", "revdep p a.1 c.2"),
    ]


def test_what_failed_before_comes_first_and_else_the_order_is_the_listings() -> None:
    revdeps = [Revdep(package=name, has_tests=name == "a.1") for name in ("z.1", "y.1", "a.1")]
    found = names([*revdep_jobs("p", "lib.1", revdeps, first={"a.1", "gone.1"})])
    assert [name for name, _ in found] == [
        *("revdep p lib.1 a.1", "revdep-test p lib.1 a.1"),
        *("revdep p lib.1 z.1", "revdep p lib.1 y.1"),
    ]


def test_whatever_others_wait_for_is_taken_no_later() -> None:
    assert RANKS.keys() == set(JobKind)
    packages = (changed(ChangeKind.NEW_RELEASE, has_tests=True),)
    asked = TAGGED.model_copy(update={"lower_bounds": True, "revdeps": True})
    planned = [
        *planned_jobs(packages, [asked]),
        *revdep_jobs("p", "a.1", [Revdep(package="b.1", has_tests=True)]),
    ]
    for each in planned:
        if each.needs is not None:
            # Equals are taken in the order of their ids.
            needed = (RANKS[each.needs.kind], each.needs.id)
            assert needed < (RANKS[each.job.kind], each.job.id)


def test_outcome_of_a_job_whose_build_did_not_pass() -> None:
    def after(came_to: Outcome | None) -> str | None:
        found = outcome_after(came_to, BUILD)
        assert found is None or found.kind == "cancelled" or follows(found)
        return label(found) if found is not None else None

    assert [after(each) for each in (None, PASSED, FAILED, SKIPPED, ERRORED)] == [
        None,
        None,
        "skipped(not_built)",
        "skipped(not_built)",
        # So that it comes back together with the build that the CI lost.
        "errored(dns)",
    ]
    assert after(Cancelled(by="closed")) == "cancelled(closed)"


def test_outcome_of_its_own_does_not_follow_from_another_job() -> None:
    own = (None, PASSED, FAILED, SKIPPED, ERRORED, Cancelled(by="request"))
    assert not any(follows(each) for each in own)


def test_what_repeats_a_build_waits_for_the_plain_one() -> None:
    repeats = {JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS}
    for kind in set(JobKind) - {JobKind.REVDEP, JobKind.REVDEP_TEST}:
        job = BUILD.model_copy(update={"kind": kind})
        assert depends_on(job) == (BUILD if kind in repeats else None)
