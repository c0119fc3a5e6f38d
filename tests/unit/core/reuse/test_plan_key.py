"""Plan keys: equal exactly if all that a verdict depends on is."""

import pytest

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.requests import CheckOptions, Surroundings
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.core.reuse.plan_key import Keys
from opam_ci.core.reuse.reach import Reachable

REACHABLE = Reachable(
    plain={"a": "1", "r": "2", "ocaml": "3"},
    tested={"a": "4"},
    dependents={"a": "5"},
    changing=frozenset({"a.dev", "r.dev"}),
)
SURROUNDINGS = Surroundings()
KINDS = (JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS)


def job(kind: JobKind = JobKind.BUILD, package: str = "a.1", revdep: str | None = None) -> Job:
    return Job(platform=EMBEDDED.name, package=package, kind=kind, revdep=revdep)


def key(
    what: Job,
    reachable: Reachable = REACHABLE,
    platform: Platform = EMBEDDED,
    surroundings: Surroundings = SURROUNDINGS,
    submitted: tuple[str, ...] = ("a.1",),
) -> str | None:
    return Keys(reachable, platform, surroundings, submitted).of(what)


def keys(**words: object) -> dict[JobKind, str | None]:
    found = {kind: key(job(kind), **words) for kind in KINDS}  # type: ignore[arg-type]
    revdep = job(JobKind.REVDEP, revdep="r.1")
    return {**found, JobKind.REVDEP: key(revdep, **words)}  # type: ignore[arg-type]


def differ(**words: object) -> set[JobKind]:
    before, now = keys(), keys(**words)
    assert None not in before.values()
    return {kind for kind in before if before[kind] != now[kind]}


ALL = {*KINDS, JobKind.REVDEP}


def test_each_job_has_a_key_of_its_own() -> None:
    jobs = [
        *map(job, KINDS),
        job(package="a.2"),
        *(job(JobKind.REVDEP, revdep=each) for each in ("r.1", "r.2")),
        job(JobKind.REVDEP_TEST, revdep="r.1"),
    ]
    assert len({key(each) for each in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"plain": {"a": "x", "r": "2", "ocaml": "3"}}, ALL - {JobKind.TEST, JobKind.LIST_REVDEPS}),
        ({"plain": {"a": "1", "r": "x", "ocaml": "3"}}, {JobKind.REVDEP}),
        # The compiler is of every solution.
        ({"plain": {"a": "1", "r": "2", "ocaml": "x"}}, ALL),
        ({"tested": {"a": "x"}}, {JobKind.TEST, JobKind.LIST_REVDEPS}),
        ({"dependents": {"a": "x"}}, {JobKind.LIST_REVDEPS}),
    ],
)
def test_what_is_within_reach_decides(changed: dict[str, object], kinds: set[JobKind]) -> None:
    assert differ(reachable=REACHABLE.model_copy(update=changed)) == kinds


@pytest.mark.parametrize(
    "changed",
    [
        {"ocaml": "5.4"},
        {"opam": "2.4"},
        {"arch": "i386", "personality": "linux32"},
        {"compiler": "ocaml-base-compiler.5.3.0"},
    ],
)
def test_the_platform_decides(changed: dict[str, object]) -> None:
    assert differ(platform=EMBEDDED.model_copy(update=changed)) == ALL


def test_what_of_a_platform_only_says_where_and_how_long_does_not_decide() -> None:
    changed = {"pool": "other", "timeouts": PhaseLimits(), "lower_bounds": True, "revdeps": True}
    assert differ(platform=EMBEDDED.model_copy(update=changed)) == set()


@pytest.mark.parametrize("changed", [{"only_direct_revdeps": True}, {"revdep_tests": False}])
def test_a_listing_depends_on_what_is_to_be_built(changed: dict[str, object]) -> None:
    platform = EMBEDDED.model_copy(update=changed)
    assert differ(platform=platform) == {JobKind.LIST_REVDEPS}
    assert differ(submitted=("a.1", "b.1")) == {JobKind.LIST_REVDEPS}


def test_options_decide_that_change_solutions() -> None:
    assert differ(surroundings=Surroundings(only_mirrored=True)) == ALL
    assert differ(surroundings=Surroundings(archive_mirrors=("https://x.org",))) == ALL
    assert differ(surroundings=Surroundings(mirrored="what it has")) == ALL
    assert differ(surroundings=Surroundings(audited_percent=100)) == set()
    seen = CheckOptions(only_mirrored=True, mirrored="what it has", audited_percent=9).reuse
    assert seen == Surroundings(only_mirrored=True, mirrored="what it has", audited_percent=9)
    # It is not known which packages such jobs see.
    assert CheckOptions(only_mirrored=True).reuse is None
    assert CheckOptions(reuse_verdicts=False).reuse is None


@pytest.mark.parametrize(
    "what",
    [
        job(JobKind.LINT),
        job(JobKind.ANALYSIS, package=""),
        job(JobKind.IMAGE, package=""),
        # No checksum fixes their sources.
        job(package="a.dev"),
        job(JobKind.REVDEP, revdep="r.dev"),
        # The merged repository does not have it.
        job(package="unknown.1"),
        # Nobody asked what depends on it.
        job(JobKind.LIST_REVDEPS, package="r.1"),
    ],
)
def test_a_job_whose_inputs_are_not_known_has_no_key(what: Job) -> None:
    assert key(what) is None
