"""Which packages most others depend on, and which version of each is built to see how it does."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from opam_ci.core.opam import version as versions
from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.formula import FBool
from opam_ci.core.opam.metadata import Opam, read
from opam_ci.core.opam.package import Package
from opam_ci.core.reuse.reach import References
from opam_ci.core.submission.result import ChangedPackage, ChangeKind

_LEFT_OUT: Final = frozenset({"compiler", "avoid-version", "deprecated"})
"""Flags of versions that nobody installs unasked; the platform has its compiler."""


def most_needed(named: Mapping[str, References]) -> list[str]:
    """Returns the names on which a package depends, those on which most depend first.

    Args:
        named: What the versions of each package name.
    """
    dependents: Counter[str] = Counter()
    for name, references in named.items():
        dependents.update((references.always | references.tested) - {name})
    known = [(-number, name) for name, number in dependents.items() if name in named]
    return [name for _, name in sorted(known)]


def newest_first(packages: list[str]) -> list[Package]:
    """Returns the versions of a package, newest first, without those that opam does not accept.

    Args:
        packages: Their full names.
    """
    found = [package for each in packages if (package := Package.find(each)) is not None]
    return sorted(found, key=lambda package: versions.key(package.version), reverse=True)


def unchanged(package: Package, opam: bytes) -> ChangedPackage | None:
    """Returns a package as one to be built, None for a version that nobody installs unasked.

    Args:
        package: Which.
        opam: Its opam file.
    """
    try:
        metadata = read(parse(opam), package)
        if not _is_offered(metadata):
            return None
        has_tests = metadata.has_tests
    except (OpamSyntaxError, OcamlFailure):
        return None
    return ChangedPackage(package=str(package), kind=ChangeKind.UNCHANGED, has_tests=has_tests)


def _is_offered(opam: Opam) -> bool:
    return (
        not opam.errors
        and opam.available != FBool(value=False)
        and _LEFT_OUT.isdisjoint(opam.flags)
    )
