"""Checks of a package that moves to the archive.

They automate opam-repository's governance/policies/archiving.md.
"""

from collections.abc import Iterator
from typing import Final

from opam_ci.core.lint.finding import CheckId, LintFinding
from opam_ci.core.lint.subject import LintSubject
from opam_ci.core.lint.values import constraint_operators, package_atoms
from opam_ci.core.opam.nodes import Field, List, String

_REASON: Final = "x-reason-for-archiving"
_REASONS: Final = ("ocaml-version", "source-unavailable", "maintenance-intent", "uninstallable")
_COMMIT: Final = "x-opam-repository-commit-hash-at-time-of-archiving"
_UPPER_BOUNDS: Final = frozenset({"=", "<=", "<"})


def check_upper_bounds(subject: LintSubject) -> Iterator[LintFinding]:
    """Require an upper bound on every dependency but the compiler."""
    for name, conditions in package_atoms(subject.value("depends")):
        if name.value == "ocaml":
            continue
        if _UPPER_BOUNDS.isdisjoint(constraint_operators(conditions)):
            yield subject.finding(
                CheckId.UPPER_BOUND,
                f"An upper bound constraint is missing on dependency '{name.value}'",
                at=name,
            )


def check_archive_reason(subject: LintSubject) -> Iterator[LintFinding]:
    """Require the reason of the archiving, from a fixed list."""
    field = _extension(subject, _REASON)
    value = field.value if field else None
    if isinstance(value, List) and value.items:
        reasons = [item.value for item in value.items if isinstance(item, String)]
        if len(reasons) == len(value.items) and set(reasons) <= set(_REASONS):
            return
    yield subject.finding(
        CheckId.ARCHIVE_REASON,
        f"The field '{_REASON}' must be present and hold a nonempty list of one or more of the"
        f" valid reasons {', '.join(_REASONS)}",
        at=field,
    )


def check_archive_commit(subject: LintSubject) -> Iterator[LintFinding]:
    """Require the commit at which the package was archived."""
    field = _extension(subject, _COMMIT)
    if field is None or not isinstance(field.value, String):
        yield subject.finding(
            CheckId.ARCHIVE_COMMIT,
            f"The field '{_COMMIT}' must be present and hold a string recording the commit hash of"
            " the primary repo at the time the package version is archived.",
            at=field,
        )


def _extension(subject: LintSubject, name: str) -> Field | None:
    """An `x-` field; of several with one name opam keeps the last."""
    found = [item for item in subject.file.items if isinstance(item, Field) and item.name == name]
    return found[-1] if found else None
