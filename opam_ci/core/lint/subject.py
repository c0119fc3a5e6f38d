"""The input of the checks: one package with all that is known of it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from opam_ci.core.lint.finding import CheckId, LintFinding, Severity
from opam_ci.core.lint.guidance import EXPLANATIONS
from opam_ci.core.lint.values import strings
from opam_ci.core.model import Frozen
from opam_ci.core.opam.file import OpamFile
from opam_ci.core.opam.nodes import Node, Value

_SEPARATORS: Final = str.maketrans("", "", "-_")


class DirectoryEntry(Frozen):
    """An entry of a package directory.

    Attributes:
        name: File name, without the directory.
        permissions: Permission bits such as 0o644; None for anything but a regular file.
    """

    name: str
    permissions: int | None


class OpamMessage(Frozen):
    """One message of `opam lint`.

    Attributes:
        code: opam's number of it.
        level: Its severity.
        text: Its text.
    """

    code: int
    level: Literal["warning", "error"]
    text: str


class PackageNames:
    """An index of the names of all packages in a repository, to find similar ones."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_likeness: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(set(names)):
            self._by_likeness[likeness(name)].append(name)

    def like(self, name: str) -> list[str]:
        """The other names that differ from `name` by case, `-` and `_` alone, sorted."""
        return [other for other in self._by_likeness.get(likeness(name), ()) if other != name]


def likeness(name: str) -> str:
    """A key that is equal for names that can be mistaken for each other."""
    return name.lower().translate(_SEPARATORS)


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """What is known of a package beside the content of its opam file.

    Attributes:
        package: Full name.
        new: Whether no version of it was published before.
        entries: The content of its directory; None if that is not known.
        names: The names in the repository that it could be mistaken for.
        with_upstream: Whether opam's lint also downloads sources.
    """

    package: str
    new: bool
    entries: Sequence[DirectoryEntry] | None = None
    names: PackageNames | None = None
    with_upstream: bool = False


@dataclass(frozen=True, slots=True)
class LintSubject:
    """One package to check.

    Attributes:
        facts: What is known of it beside the content of its opam file.
        file: Its opam file.
        dropped: The fields of it that opam refuses and therefore ignores; section fields as
            `url.checksum`.
        opam_messages: The messages of `opam lint` about the file.
        sources: False if its source could not be fetched; None if that is not known.
    """

    facts: PackageFacts
    file: OpamFile
    dropped: frozenset[str] = frozenset()
    opam_messages: Sequence[OpamMessage] = ()
    sources: bool | None = None

    @property
    def package(self) -> str:
        """The package's full name, `name.version`."""
        return self.facts.package

    @property
    def name(self) -> str:
        """The package's name: all before the first dot."""
        return package_name(self.package)

    @property
    def version(self) -> str:
        """The package's version: all after the first dot."""
        return self.package.partition(".")[2]

    @property
    def directory(self) -> str:
        """Its directory in the repository."""
        return package_directory(self.package)

    def value(self, field: str) -> Value | None:
        """The value of a field as opam reads it: None if absent or refused."""
        return None if field in self.dropped else self.file.value(field)

    def strings(self, field: str) -> list[str]:
        """The strings of a field, none if opam does not read it as such."""
        value = self.value(field)
        return (strings(value) or []) if value is not None else []

    def finding(  # noqa: PLR0913  every argument after `message` has one plain default
        self,
        check: CheckId,
        message: str,
        *,
        at: Node | tuple[int, int] | None = None,
        severity: Severity = Severity.ERROR,
        explanation: str | None = None,
        file: str | None = None,
        code: int | None = None,
    ) -> LintFinding:
        """Make a finding about this package.

        Args:
            check: The check that found it.
            message: Its message.
            at: What is at fault: a node of the opam file, or a line and a 0-based column in it.
            severity: Its severity.
            explanation: How to fix it, if not as for all findings of the check.
            file: The file at fault, if not the opam file.
            code: opam's number of the message.
        """
        line, column = None, 0
        if at is not None:
            line, column = at if isinstance(at, tuple) else self.file.position(at)[:2]
        return LintFinding(
            package=self.package,
            check=check,
            severity=severity,
            message=message,
            explanation=explanation or EXPLANATIONS[check],
            file=file or f"{self.directory}/opam",
            line=line,
            column=None if line is None else column + 1,
            code=code,
        )


def package_name(package: str) -> str:
    """The name in a full name: `cppo` of `cppo.1.8.0`."""
    return package.partition(".")[0]


def package_directory(package: str) -> str:
    """The directory of a package in a repository: `packages/cppo/cppo.1.8.0`."""
    return f"packages/{package_name(package)}/{package}"
