"""The findings of lint checks."""

from enum import StrEnum

from opam_ci.core.model import Frozen


class CheckKind(StrEnum):
    """A family of checks; opam-repo-ci's `--checks` has the same three."""

    OPAM = "opam"
    """opam's own lint, by the real `opam lint`."""
    PUBLICATION = "publication"
    """opam-repository's requirements on a package that is published or changed."""
    ARCHIVE = "archive"
    """The requirements of opam-repository's archive on a package that is moved there."""


class CheckId(StrEnum):
    """The stable name of a check, for filters, annotations and documentation."""

    PARSE = "parse"
    OPAM_LINT = "opam-lint"
    NAME_FIELD = "name-field"
    VERSION_FIELD = "version-field"
    DUNE_SUBST = "dune-subst"
    DUNE_BUILD = "dune-build"
    WEAK_CHECKSUM = "weak-checksum"
    PERMISSIONS = "permissions"
    UNEXPECTED_FILE = "unexpected-file"
    SOURCES = "sources"
    MAINTAINER_CONTACT = "maintainer-contact"
    DEFAULT_TAGS = "default-tags"
    PIN_DEPENDS = "pin-depends"
    EXTRA_FILES = "extra-files"
    CONF = "conf"
    CONFLICT_CLASS = "conflict-class"
    NAME_COLLISION = "name-collision"
    RESTRICTED_PREFIX = "restricted-prefix"
    UPPER_BOUND = "upper-bound"
    ARCHIVE_REASON = "archive-reason"
    ARCHIVE_COMMIT = "archive-commit"


class Severity(StrEnum):
    """The first word of the message in opam-repo-ci. Both fail the lint."""

    WARNING = "warning"
    ERROR = "error"


class LintFinding(Frozen):
    """One finding, with opam-repo-ci's message and our explanation.

    Attributes:
        package: Full name, such as `cppo.1.8.0`.
        check: Which check found it.
        severity: `warning` for advice on form, else `error`, as in opam-repo-ci.
        message: opam-repo-ci's message without its `Error in PACKAGE:` head, unchanged, since
            scripts and maintainers rely on it.
        explanation: Why it matters and what to do about it.
        file: Path in the repository, such as `packages/cppo/cppo.1.8.0/opam`.
        line: 1-based line in `file`, None where no one line is at fault.
        column: 1-based column in `line`, as editors and GitHub's annotations count.
        code: opam's own number of the message, for opam's lint only.
    """

    package: str
    check: CheckId
    severity: Severity
    message: str
    explanation: str
    file: str
    line: int | None = None
    column: int | None = None
    code: int | None = None

    @property
    def machine_message(self) -> str:
        """The line that opam-repo-ci's `--machine-readable` prints for it."""
        return f"{self.severity.value.capitalize()} in {self.package}: {self.message}"

    @property
    def location(self) -> str:
        """`file`, `file:line` or `file:line:column`, as far as it is known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


class LintReport(Frozen):
    """The result of linting some packages.

    Attributes:
        findings: In the order of `checked`, then in the order of the checks.
        checked: The packages that were linted, in the order of the request.
        missing: The requested packages that have no opam file.
    """

    findings: tuple[LintFinding, ...] = ()
    checked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether no package is missing and nothing was found."""
        return not self.findings and not self.missing


class LintRequest(Frozen):
    """A package to lint.

    Attributes:
        package: Full name.
        new: Whether no other version of it was published before; None to find out by
            looking for other versions in the repository, as opam-repo-ci does.
    """

    package: str
    new: bool | None = None
