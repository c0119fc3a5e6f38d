"""What a lint check says about a package."""

from enum import StrEnum

from opam_ci.core.model import Frozen


class CheckKind(StrEnum):
    """Which family of checks to run; the peer's `--checks` has the same three."""

    OPAM = "opam"
    """opam's own lint, by the real `opam lint`."""
    PUBLICATION = "publication"
    """What opam-repository asks of a package that is published or changed."""
    ARCHIVE = "archive"
    """What opam-repository's archive asks of a package that is moved there."""


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
    """How the peer introduces the message. Both turn the lint red."""

    WARNING = "warning"
    ERROR = "error"


class LintFinding(Frozen):
    """One thing to change, in the peer's words and in ours.

    Attributes:
        package: Full name, such as `cppo.1.8.0`.
        check: Which check found it.
        severity: `warning` for advice on form, else `error`, as the peer says it.
        message: The peer's sentence without its `Error in PACKAGE:` head. Scripts and
            maintainers know these words, so they do not change.
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
        """The line that the peer's `--machine-readable` prints for it."""
        return f"{self.severity.value.capitalize()} in {self.package}: {self.message}"

    @property
    def location(self) -> str:
        """`file`, `file:line` or `file:line:column`, as far as it is known."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


class LintReport(Frozen):
    """What a lint of some packages found.

    Attributes:
        findings: In the order of `checked`, then in the order of the checks.
        checked: The packages that were looked at, as asked for.
        missing: The packages that were asked for and have no opam file.
    """

    findings: tuple[LintFinding, ...] = ()
    checked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every package was there and nothing was found."""
        return not self.findings and not self.missing


class LintRequest(Frozen):
    """A package to lint.

    Attributes:
        package: Full name.
        new: Whether no other version of it was published before; None to find out by
            looking for other versions in the repository, as the peer does.
    """

    package: str
    new: bool | None = None
