"""Verdict keys: equal exactly if the solution is, and all that it is built from and in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.facts import BuildEnvironment
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.core.reuse.verdict_key import verdict_key

BUILT_WITH = BuildEnvironment(
    image="e" * 64,
    opam="2.3.0",
    compiler=("ocaml.5.3.0",),
    solution=("dep.1", "a.1"),
    is_fixed=True,
)
FILES = [f"{'0' * 64}  ./dep/dep.1/opam", f"{'1' * 64}  ./a/a.1/opam"]


def job(kind: JobKind = JobKind.BUILD, package: str = "a.1", revdep: str | None = None) -> Job:
    return Job(platform=EMBEDDED.name, package=package, kind=kind, revdep=revdep)


def key(
    what: Job | None = None,
    platform: Platform = EMBEDDED,
    surroundings: Surroundings | None = None,
    files: list[str] = FILES,
    **built_with: Any,
) -> str | None:
    environment = BUILT_WITH.model_copy(update=built_with)
    return verdict_key(what or job(), platform, surroundings or Surroundings(), environment, files)


def test_each_part_decides() -> None:
    keys = [
        key(),
        *(key(job(kind)) for kind in (JobKind.TEST, JobKind.LOWER_BOUNDS)),
        key(job(package="a.2")),
        *(key(job(JobKind.REVDEP, revdep=each)) for each in ("r.1", "r.2")),
        key(job(JobKind.REVDEP_TEST, revdep="r.1")),
        key(platform=EMBEDDED.model_copy(update={"ocaml": "5.4"})),
        key(surroundings=Surroundings(only_mirrored=True)),
        key(surroundings=Surroundings(archive_mirrors=("https://x.org",))),
        key(image="f" * 64),
        key(opam="2.4.0"),
        key(compiler=("ocaml.5.3.1",)),
        key(solution=("dep.1",)),
        key(files=FILES[:1]),
        key(files=[FILES[0], FILES[1].replace("1", "2", 1)]),
        # An executable file is listed twice.
        key(files=[*FILES, FILES[0]]),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)


@given(st.permutations(FILES), st.permutations(BUILT_WITH.solution))
def test_order_does_not(files: list[str], solution: list[str]) -> None:
    assert key(files=files, solution=tuple(solution)) == key()


@given(st.lists(st.text(), unique=True, max_size=4), st.lists(st.text(), unique=True, max_size=4))
def test_other_files_have_another_key(some: list[str], others: list[str]) -> None:
    assert (key(files=some) == key(files=others)) == (sorted(some) == sorted(others))


def test_nor_does_what_is_shown_alone_or_how_long_it_takes() -> None:
    platform = EMBEDDED.model_copy(update={"pool": "other", "timeouts": PhaseLimits()})
    assert key(platform=platform, changed=("a.1",), opam_file="x") == key()


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (JobKind.BASE_BUILD, JobKind.BUILD),
        (JobKind.BASE_TEST, JobKind.TEST),
        (JobKind.BASE_LOWER_BOUNDS, JobKind.LOWER_BOUNDS),
    ],
)
def test_a_job_on_the_base_has_the_key_of_the_ordinary_one(kind: JobKind, plain: JobKind) -> None:
    assert key(job(kind)) == key(job(plain))
    assert {each.kind for each in job(kind).alike} == {kind, plain}


def test_a_reverse_dependency_is_alike_to_none() -> None:
    revdep = job(JobKind.REVDEP, revdep="r.1")
    assert revdep.alike == (revdep,)


@pytest.mark.parametrize("changed", [{"is_fixed": False}, {"image": "debian:13"}, {"image": ""}])
def test_where_inputs_are_not_known_there_is_none(changed: dict[str, Any]) -> None:
    assert key(**changed) is None
