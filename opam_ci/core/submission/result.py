"""The result of the analysis of a pull request."""

from enum import StrEnum
from typing import Annotated

from opam_ci.core.model import Frozen
from opam_ci.core.packed import Packed


class ChangeKind(StrEnum):
    """How a package differs between base and merge, in the terms of opam-repo-ci."""

    NEW_PACKAGE = "new_package"
    NEW_RELEASE = "new_release"
    DELETED = "deleted"
    UNAVAILABLE = "unavailable"
    SIGNIFICANTLY_CHANGED = "significantly_changed"
    INSIGNIFICANTLY_CHANGED = "insignificantly_changed"
    UNCHANGED = "unchanged"
    """It does not: it is built to see how the base itself does."""


BUILT_KINDS = frozenset(
    {
        ChangeKind.NEW_PACKAGE,
        ChangeKind.NEW_RELEASE,
        ChangeKind.SIGNIFICANTLY_CHANGED,
        ChangeKind.UNCHANGED,
    }
)
"""Kinds of change whose packages are built: the others do not affect builds (source:
`lib/build.ml` of opam-repo-ci)."""


class ChangedPackage(Frozen):
    """One package that a pull request touches.

    Attributes:
        package: Full name, such as `cppo.1.8.0`.
        kind: How it changed.
        has_tests: Whether its opam file declares tests.
    """

    package: str
    kind: ChangeKind
    has_tests: bool


Packages = Annotated[tuple[ChangedPackage, ...], Packed(above=300)]
"""Packages as they are passed between workflows and activities: with `MAX_PACKAGES` of
`core/submission/admission.py` they take a quarter of a payload."""


class Analysis(Frozen):
    """The outcome of analysing the merge of a head into its base.

    Attributes:
        packages: Changed packages, sorted by name in opam's order.
        failure: Why the change is refused as a whole, in opam-repo-ci's wording, else None.
        merge_tree: Object id of the merged tree, None if there is no merge.
    """

    packages: Packages = ()
    failure: str | None = None
    merge_tree: str | None = None
