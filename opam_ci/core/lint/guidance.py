"""Why each check exists, and how to fix its findings."""

from collections.abc import Mapping
from typing import Final

from opam_ci.core.lint.finding import CheckId

EXPLANATIONS: Final[Mapping[CheckId, str]] = {
    CheckId.PARSE: (
        "opam cannot read this file, so the package cannot be installed. Correct the place that"
        " the message names; `opam lint` on the file shows the same."
    ),
    CheckId.OPAM_LINT: "Run `opam lint` on the file; `man opam-lint` explains every number.",
    CheckId.NAME_FIELD: (
        "The directory already has the name. Remove the field `name:`, so that the two"
        " cannot differ."
    ),
    CheckId.VERSION_FIELD: (
        "The directory already has the version. Remove the field `version:`, so that the"
        " two cannot differ."
    ),
    CheckId.DUNE_SUBST: (
        "`dune subst` rewrites the sources with data from git, and a release archive has no git"
        ' repository. Write ["dune" "subst"] {dev}; a dune-project of (lang dune 2.7) or later'
        " generates that."
    ),
    CheckId.DUNE_BUILD: (
        "dune records its own version in what it installs, so packages must be rebuilt"
        " when dune changes. Remove {build} from the dependency on dune."
    ),
    CheckId.WEAK_CHECKSUM: (
        "Without a strong checksum a replaced archive is not detected. Add"
        ' checksum: "sha256=…" with the output of `sha256sum ARCHIVE`.'
    ),
    CheckId.PERMISSIONS: "Run `chmod 644` on the file and commit the change of mode.",
    CheckId.UNEXPECTED_FILE: (
        "A package directory contains one file, `opam`. Remove this one; name a file that the"
        " build needs in an `extra-source` section with a URL and a checksum."
    ),
    CheckId.SOURCES: (
        "The source could not be fetched, so the package cannot be built. Check that the"
        " URL in the `url` section can be downloaded and that its checksum is right."
    ),
    CheckId.MAINTAINER_CONTACT: (
        "Users must be able to report a bug. Add `bug-reports:` with a URL, or an email address"
        " to `maintainer:`."
    ),
    CheckId.DEFAULT_TAGS: (
        "These tags are the example text of `dune init`. Replace them in `tags:` (or in"
        " dune-project) by tags that describe the package, or remove them."
    ),
    CheckId.PIN_DEPENDS: (
        "A published package may depend on published packages only. Remove `pin-depends:`"
        " and publish what it pins first."
    ),
    CheckId.EXTRA_FILES: (
        "The repository no longer keeps patches and scripts beside opam files. Remove"
        " `extra-files:` and name each file in an `extra-source` section."
    ),
    CheckId.CONF: (
        "opam treats a package as a placeholder for a system package if three things agree: the"
        " name begins with `conf-`, the flags contain `conf`, and `depexts:` names the system"
        " packages. Add the missing ones; a package that builds something should depend on a"
        " conf- package instead."
    ),
    CheckId.CONFLICT_CLASS: (
        "Packages with such a name exclude each other, which opam learns from the conflict"
        " class. Change the name or the field `conflict-class:` so that both match."
    ),
    CheckId.NAME_COLLISION: (
        "The names differ only by case, `-` or `_`, so people will install the wrong one."
        " Choose a name that cannot be confused; if the similarity is intended, explain it in"
        " the pull request."
    ),
    CheckId.RESTRICTED_PREFIX: (
        "This prefix is reserved for packages that describe the compiler's environment. If the"
        " package is not one of them, choose another name."
    ),
    CheckId.UPPER_BOUND: (
        "An archived package is not tested any more, so it must not be installed with later"
        " versions of its dependencies. Add an upper bound (`<`, `<=` or `=`) to this one."
    ),
    CheckId.ARCHIVE_REASON: (
        "The archive records why a package was moved there. Add, for example,"
        ' x-reason-for-archiving: ["uninstallable"].'
    ),
    CheckId.ARCHIVE_COMMIT: (
        "The archive records when a package was moved there. Add the hash of the primary"
        " repository's commit as a string."
    ),
}
