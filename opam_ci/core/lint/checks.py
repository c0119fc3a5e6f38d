"""The checks of each family, and how to run them on a package."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from opam_ci.core.lint.archive import (
    check_archive_commit,
    check_archive_reason,
    check_upper_bounds,
)
from opam_ci.core.lint.directory import check_directory
from opam_ci.core.lint.downloads import check_checksums, check_extra_files
from opam_ci.core.lint.finding import CheckId, CheckKind, LintFinding
from opam_ci.core.lint.metadata import (
    check_conf,
    check_default_tags,
    check_dune_build,
    check_dune_subst,
    check_maintainer_contact,
    check_name_field,
    check_pin_depends,
    check_sources,
    check_version_field,
)
from opam_ci.core.lint.naming import (
    check_conflict_class,
    check_name_collision,
    check_restricted_prefix,
)
from opam_ci.core.lint.opam_messages import Unreadable, opam_findings
from opam_ci.core.lint.subject import LintSubject

Check = Callable[[LintSubject], Iterable[LintFinding]]

#: The families that the CI checks on a pull request; the archive's are for the archive alone.
DEFAULT_KINDS: Final = (CheckKind.OPAM, CheckKind.PUBLICATION)

CHECKS: Final[Mapping[CheckKind, Sequence[Check]]] = {
    CheckKind.OPAM: (opam_findings,),
    CheckKind.PUBLICATION: (
        check_dune_subst,
        check_name_field,
        check_version_field,
        check_checksums,
        check_directory,
        check_sources,
        check_maintainer_contact,
        check_default_tags,
        check_pin_depends,
        check_extra_files,
        check_conf,
        check_conflict_class,
        check_dune_build,
    ),
    CheckKind.ARCHIVE: (check_upper_bounds, check_archive_reason, check_archive_commit),
}
#: Further publication checks for the first version of a package.
NEW_PACKAGE_CHECKS: Final[Sequence[Check]] = (check_name_collision, check_restricted_prefix)
#: The checks that apply to a package whose opam file cannot be read.
_WITHOUT_CONTENT: Final[Sequence[Check]] = (check_directory,)


def run_checks(
    subject: LintSubject, kinds: Collection[CheckKind] = DEFAULT_KINDS
) -> tuple[LintFinding, ...]:
    """Check one package whose opam file can be read."""
    checks: list[Check] = []
    for kind in CheckKind:
        if kind in kinds:
            checks += CHECKS[kind]
    if subject.facts.new and CheckKind.PUBLICATION in kinds:
        checks += NEW_PACKAGE_CHECKS
    return tuple(finding for check in checks for finding in check(subject))


def unreadable(subject: LintSubject, fault: Unreadable) -> tuple[LintFinding, ...]:
    """Report an opam file that cannot be read, and run the checks that need no content.

    Args:
        subject: The package, with an `OpamFile` without items.
        fault: Why the file cannot be read.
    """
    place = "" if fault.line is None else f" at line {fault.line}, column {fault.column or 0}"
    finding = subject.finding(
        CheckId.PARSE,
        f"failed to parse opam file: {fault.reason.rstrip('.')}{place}",
        at=None if fault.line is None else (fault.line, fault.column or 0),
    )
    checks = (*_WITHOUT_CONTENT, *(NEW_PACKAGE_CHECKS if subject.facts.new else ()))
    return (finding, *(finding for check in checks for finding in check(subject)))
