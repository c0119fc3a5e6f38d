"""Checks of a package's name against those of other packages and against reserved ones."""

from collections.abc import Iterator, Mapping
from typing import Final

from opam_ci.core.lint.finding import CheckId, LintFinding, Severity
from opam_ci.core.lint.subject import LintSubject

# Each reserved prefix and the conflict class of the packages that have it, as in opam-repo-ci
# (which has `mysys2-`, as have its results that ours are compared with).
CONFLICT_CLASSES: Final[Mapping[str, str]] = {
    "mysys2-": "msys2-env",
    "arch-": "ocaml-arch",
    "ocaml-env-mingw": "ocaml-env-mingw",
    "ocaml-env-msvc": "ocaml-env-msvc",
    "host-arch-": "ocaml-host-arch",
    "host-system-": "ocaml-host-system",
    "system-": "ocaml-system",
}
_PREFIXES: Final[Mapping[str, str]] = {
    conflict_class: prefix for prefix, conflict_class in CONFLICT_CLASSES.items()
}


def check_conflict_class(subject: LintSubject) -> Iterator[LintFinding]:
    """Require a reserved prefix and its conflict class together."""
    classes = subject.strings("conflict-class")
    field = subject.file.field("conflict-class")
    for prefix, conflict_class in CONFLICT_CLASSES.items():
        if subject.name.startswith(prefix):
            if conflict_class not in classes:
                yield subject.finding(
                    CheckId.CONFLICT_CLASS,
                    f"package with prefix '{prefix}' requires conflict class '{conflict_class}'",
                    at=field,
                )
            break
    for conflict_class in classes:
        required = _PREFIXES.get(conflict_class)
        if required is not None and not subject.name.startswith(required):
            yield subject.finding(
                CheckId.CONFLICT_CLASS,
                f"package with conflict class '{conflict_class}' requires name prefix '{required}'",
                at=field,
            )


def check_name_collision(subject: LintSubject) -> Iterator[LintFinding]:
    """Report a new package with a name that can be mistaken for that of another."""
    for other in subject.facts.names.like(subject.name) if subject.facts.names else ():
        yield subject.finding(
            CheckId.NAME_COLLISION,
            f"Possible name collision with package '{other}'",
            severity=Severity.WARNING,
        )


def check_restricted_prefix(subject: LintSubject) -> Iterator[LintFinding]:
    """Report a new package with a prefix that is reserved for the compiler's environment."""
    for prefix in CONFLICT_CLASSES:
        if subject.name.startswith(prefix):
            yield subject.finding(
                CheckId.RESTRICTED_PREFIX,
                f"package name has restricted prefix '{prefix}'",
                severity=Severity.WARNING,
            )
