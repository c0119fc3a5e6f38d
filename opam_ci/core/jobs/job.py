"""Jobs: what to run, and the phases of a run."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Self

from pydantic import model_validator

from opam_ci.core.model import Frozen


class JobKind(StrEnum):
    """What a job does with its package."""

    ANALYSIS = "analysis"
    IMAGE = "image"
    PLATFORM = "platform"
    """Whether a worker serves the platform: planned in place of all its jobs if none does."""
    LINT = "lint"
    BUILD = "build"
    TEST = "test"
    LOWER_BOUNDS = "lower-bounds"
    LIST_REVDEPS = "list-revdeps"
    REVDEP = "revdep"
    REVDEP_TEST = "revdep-test"
    BASE_BUILD = "base-build"
    """The base without the change: a build of what failed with it. So are the next two."""
    BASE_TEST = "base-test"
    BASE_LOWER_BOUNDS = "base-lower-bounds"


REVDEP_KINDS = frozenset({JobKind.REVDEP, JobKind.REVDEP_TEST})
"""Kinds of jobs that build a reverse dependency against the job's package."""


_ON_BASE = {
    JobKind.BUILD: JobKind.BASE_BUILD,
    JobKind.TEST: JobKind.BASE_TEST,
    JobKind.LOWER_BOUNDS: JobKind.BASE_LOWER_BOUNDS,
    JobKind.REVDEP: JobKind.BASE_BUILD,
    JobKind.REVDEP_TEST: JobKind.BASE_TEST,
}
_PLAIN = {
    JobKind.BASE_BUILD: JobKind.BUILD,
    JobKind.BASE_TEST: JobKind.TEST,
    JobKind.BASE_LOWER_BOUNDS: JobKind.LOWER_BOUNDS,
}

COMPARED_KINDS = frozenset(_ON_BASE)
"""Kinds of jobs that are compared with the base if they fail."""

BASE_KINDS = frozenset(_PLAIN)
"""Kinds of jobs that build on the base, without the change."""


def plain_kind(kind: JobKind) -> JobKind:
    """Returns what runners do for a kind: for one on the base the ordinary kind."""
    return _PLAIN.get(kind, kind)


class Phase(StrEnum):
    """The phases of a job, in the order in which they run.

    `CHECKOUT` and `SETUP` run before any of the submission's own content; `SOLVE` runs the
    solver; `DEPEXTS` and `FETCH` are the only phases with network; `DEPENDENCIES`, `BUILD`
    and `TEST` run package code; `VERIFY` checks that the package is installed.
    """

    CHECKOUT = "checkout"
    SETUP = "setup"
    SOLVE = "solve"
    DEPEXTS = "depexts"
    FETCH = "fetch"
    DEPENDENCIES = "dependencies"
    BUILD = "build"
    TEST = "test"
    VERIFY = "verify"


PACKAGE_PHASES = frozenset({Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST})
"""Phases that run package code."""


def job_id(kind: JobKind, platform: str, package: str, revdep: str | None = None) -> str:
    """Returns the id of a job, without making the job: pages have thousands of them."""
    return " ".join(filter(None, (kind.value, platform, package, revdep)))


class Job(Frozen):
    """One (platform, package, kind, revdep) to run.

    Attributes:
        platform: Platform name such as `debian-13-ocaml-5.3/amd64`; empty for the
            repository jobs (analysis, lint) that belong to no platform.
        package: Full package name such as `cppo.1.8.0`; empty for analysis, platform and image.
        kind: What to do.
        revdep: The reverse dependency to build against `package`, both at exactly their
            versions; for the kinds of `REVDEP_KINDS` only.
    """

    platform: str
    package: str
    kind: JobKind
    revdep: str | None = None

    @model_validator(mode="after")
    def _revdep_only_for_revdeps(self) -> Self:
        if (self.revdep is not None) != (self.kind in REVDEP_KINDS):
            raise ValueError("a revdep job, and only such a job, has a reverse dependency")
        return self

    @property
    def id(self) -> str:
        """The job's stable name within one head, unique and safe as an activity id."""
        return job_id(self.kind, self.platform, self.package, self.revdep)

    @property
    def on_base(self) -> Self | None:
        """The same without the change: a job on the base; None for one that has none."""
        if self.kind not in _ON_BASE:
            return None
        changed = {"kind": _ON_BASE[self.kind], "package": self.revdep or self.package}
        return self.model_copy(update={**changed, "revdep": None})

    @property
    def plain(self) -> Self:
        """What runners run: for a job on the base the ordinary one."""
        return self.model_copy(update={"kind": plain_kind(self.kind)})

    @property
    def alike(self) -> tuple[Self, ...]:
        """The jobs for which runners do the same: on the base and not."""
        kinds = (kind for kind in JobKind if plain_kind(kind) is self.plain.kind)
        return tuple(self.model_copy(update={"kind": kind}) for kind in kinds)

    @property
    def title(self) -> str:
        """The title for people: the package and what the job does with it."""
        match self.kind:
            case JobKind.ANALYSIS:
                return "analysis"
            case JobKind.PLATFORM | JobKind.IMAGE:
                return self.kind.value
            case JobKind.REVDEP:
                return f"{self.revdep} with {self.package}"
            case JobKind.REVDEP_TEST:
                return f"{self.revdep} with {self.package} test"
            case JobKind.BASE_BUILD | JobKind.BASE_TEST | JobKind.BASE_LOWER_BOUNDS:
                return f"{self.plain.title} without the change"
            case _:
                return f"{self.package} {self.kind.value}".strip()


def package_name(package: str) -> str:
    """Returns the name of a package with or without its version."""
    return package.partition(".")[0]


def count_unrelated(pull_requests: Iterable[AbstractSet[str]]) -> int:
    """Counts pull requests that have no package in common with one counted before.

    Args:
        pull_requests: Names of the packages of each.
    """
    seen: set[str] = set()
    count = 0
    for names in pull_requests:
        if not names & seen:
            count += 1
            seen |= names
    return count
