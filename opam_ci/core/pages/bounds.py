"""The upper bounds that reverse dependencies lack, of a change that breaks them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from opam_ci.core.jobs.outcome import Failed, OnBase, Outcome
from opam_ci.core.lint.subject import package_directory
from opam_ci.core.model import Frozen
from opam_ci.core.opam import version as versions
from opam_ci.core.opam.bounds import Bound, NoBoundError, bounded
from opam_ci.core.opam.package import Package
from opam_ci.core.opam.patch import patch
from opam_ci.core.pages.causes import is_alike
from opam_ci.core.printable import flat

MOST_FILES = 300
"""Files of one patch: a log is read for each."""

_CONFIRMED = 2
"""Attempts that failed alike: one may have failed by chance."""


class Regression(Frozen):
    """A reverse dependency that a change breaks: confirmed, and not without the change.

    Attributes:
        package: The package of the change.
        revdep: The reverse dependency.
        log: Key of the log of an attempt, with which the opam file is stored; None if there is none
            (any more).
    """

    package: str
    revdep: str
    log: str | None


class BoundedFile(Frozen):
    """The opam file of a reverse dependency, with the bounds that it lacks.

    Attributes:
        package: The reverse dependency.
        bounds: Upper bounds, such as `lib < 2`.
        patch: Adds them to the file; empty if it cannot have them.
        problem: Why it cannot; empty if it can.
    """

    package: str
    bounds: tuple[str, ...]
    patch: str = ""
    problem: str = ""


class BoundsPatch(Frozen):
    """The bounds that reverse dependencies of a head lack.

    Attributes:
        files: Their opam files, by name.
        more: How many more there are.
    """

    files: tuple[BoundedFile, ...] = ()
    more: int = 0

    @property
    def text(self) -> str:
        """The patch of all files, after remarks that `git apply` skips."""
        remarks = [f"{each.package}: {each.problem}" for each in self.files if each.problem]
        if self.more:
            remarks.append(f"not in this patch, but broken as well: {self.more}")
        if not self.files:
            remarks.append("No regression of a reverse dependency is confirmed.")
        # A file that is not valid is cited: no line of it may become one of the patch.
        notes = "".join(f"# {flat(each)}\n" for each in remarks)
        return notes + "".join(each.patch for each in self.files)


def is_confirmed(outcome: Outcome, attempts: Sequence[Outcome]) -> bool:
    """Whether a failure is due to the change, and did not happen by chance.

    Args:
        outcome: Of the job: it passes without the change.
        attempts: What attempts with the same inputs passed or failed with. A verdict that was
            taken from another job rests on two of them.
    """
    if not isinstance(outcome, Failed) or outcome.evidence.on_base is not OnBase.PASSES:
        return False
    if not all(is_alike(outcome, each) for each in attempts):
        return False
    return len(attempts) >= _CONFIRMED or outcome.evidence.reused is not None


def by_revdep(regressions: Iterable[Regression]) -> list[tuple[str, list[Regression]]]:
    """Returns the regressions of each reverse dependency, by its name."""
    ordered = sorted(regressions, key=lambda each: each.revdep)
    return [(name, list(each)) for name, each in groupby(ordered, lambda each: each.revdep)]


def bounded_file(revdep: str, regressions: Iterable[Regression], text: str) -> BoundedFile:
    """Returns the opam file of a reverse dependency with the bounds that it lacks.

    Args:
        revdep: The reverse dependency.
        regressions: Of it.
        text: Its opam file; empty if it is not stored.
    """
    first = _first_versions(regressions)
    shown = tuple(f"{name} < {version}" for name, version in first.items())
    data = text.encode()
    try:
        package = Package.find(revdep)
        if not text or package is None:
            raise NoBoundError("its opam file is not stored (any more): restart its job")  # noqa: TRY301 - the same end
        result = data
        for name, version in first.items():
            result = bounded(result, package, Bound(name, "<", version))
    except NoBoundError as error:
        return BoundedFile(package=revdep, bounds=shown, problem=str(error))
    if result == data:
        return BoundedFile(package=revdep, bounds=shown, problem="its opam file has that bound")
    change = patch(f"{package_directory(revdep)}/opam", data, result)
    return BoundedFile(package=revdep, bounds=shown, patch=change.decode())


def _first_versions(regressions: Iterable[Regression]) -> Mapping[str, str]:
    """Returns the first version that breaks it, of each package."""
    first: dict[str, str] = {}
    for each in regressions:
        name, _, version = each.package.partition(".")
        if name not in first or versions.compare(version, first[name]) < 0:
            first[name] = version
    return dict(sorted(first.items()))
