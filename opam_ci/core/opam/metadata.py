"""The meaning of an opam file: its fields read into typed values.

    opam = read(parse(data, filename=path), package)
    opam.available, opam.depends, opam.errors, opam.has_tests

Fields are those of opam 2.0 to 2.5, old ones included, since opam accepts them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from opam_ci.core.opam import version as versions
from opam_ci.core.opam.conditions import (
    PATH_FORMAT_RULE,
    SEPARATOR_RULE,
    interpolated,
    variable,
)
from opam_ci.core.opam.definitions import FIELDS, FLAG_TAG, SECTIONS
from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import OpamFile
from opam_ci.core.opam.formula import (
    EMPTY,
    Constraint,
    FAnd,
    FBool,
    FIdent,
    Filter,
    FOp,
    FString,
    as_filter,
    chain,
    filters_of,
    leaves,
)
from opam_ci.core.opam.nodes import Field, Ident, Item, String, Value
from opam_ci.core.opam.package import Package
from opam_ci.core.opam.readers import WHOLE_FILE, BadFormat, Span, either
from opam_ci.core.opam.sections import FormatError, read_fields
from opam_ci.core.opam.syntax_rules import without_patch
from opam_ci.core.opam.url import Url
from opam_ci.core.opam.values import BOOL, IDENT, list_of, tuple_of

#: The newest opam-version that opam-repository's files may have.
FORMAT_VERSION: Final = "2.0"
_EXTENSION: Final = "x-"
_PATH_REWRITE: Final = "x-env-path-rewrite"
_WITH_TEST: Final = "with-test"


@dataclass(frozen=True)
class Opam:
    """An opam file's meaning.

    Attributes:
        file: The file that was read.
        package: The package that the file belongs to, None if its path is not that of a package.
        values: Its fields that could be read, by name; `url` and `extra-sources` too.
        extensions: Its `x-` fields.
        errors: What is wrong with the fields that could not be read.
    """

    file: OpamFile
    package: Package | None
    values: dict[str, Any]
    extensions: dict[str, Value]
    errors: tuple[FormatError, ...]
    path_rewrites: tuple[Any, ...] = ()

    @property
    def opam_version(self) -> str:
        """The version of the format."""
        version: str = self.values.get("opam-version", FORMAT_VERSION)
        return version

    @cached_property
    def available(self) -> Filter:
        """The filter for the platforms that it is available on, with the old fields for these."""
        available: Filter = self.values.get("available", FBool(value=True))
        if "ocaml-version" in self.values:
            condition = as_filter(self.values["ocaml-version"], _ocaml_version_is)
            available = _restricted(available, condition)
        if self.values.get("os", EMPTY) != EMPTY:
            available = _restricted(available, as_filter(self.values["os"], _os_is))
        return available

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Its flags, those in tags first, last tag foremost, as opam lists them."""
        in_tags = [
            tag.removeprefix(FLAG_TAG)
            for tag in self.values.get("tags", ())
            if tag.startswith(FLAG_TAG)
        ]
        return (*reversed(in_tags), *self.values.get("flags", ()))

    @property
    def sources(self) -> tuple[Url, ...]:
        """Where its archives are, mirrors included."""
        url = self.values.get("url")
        sections = [source for _, source in self.values.get("extra-sources", ())]
        return tuple(
            each
            for section in ([url, *sections] if url is not None else sections)
            for each in (section.url, *section.mirrors)
        )

    @property
    def tests(self) -> tuple[Any, ...]:
        """The commands that run its tests."""
        return (*self.values.get("build-test", ()), *self.values.get("run-test", ()))

    @property
    def has_tests(self) -> bool:
        """Whether there are test commands, or any of its filters uses `with-test`.

        Raises:
            OcamlFailure: A `%{…}%` names an impossible package.
        """
        return bool(self.tests) or any(
            ident.variable == _WITH_TEST and not ident.packages for ident in self.variables()
        )

    def variables(self) -> Iterator[FIdent]:
        """The variables in its filters, commands and formulas.

        Raises:
            OcamlFailure: A `%{…}%` names an impossible package.
        """
        for name in _WITH_FILTERS:
            for _, condition in self.values.get(name, ()):
                yield from variables_of(condition)
        yield from variables_of(self.available)
        for name in _FORMULAS:
            for condition in filters_of(self.values.get(name, EMPTY)):
                yield from variables_of(condition)
        for _, formula, _ in self.values.get("features", ()):
            for condition in filters_of(formula):
                yield from variables_of(condition)
        for name in _COMMANDS:
            for command in self.values.get(name, ()):
                yield from _command_variables(command)

    @cached_property
    def effective(self) -> tuple[object, ...]:
        """What opam compares to decide whether a package changed (`effectively_equal`)."""
        values = self.values
        url = values.get("url")
        return (
            *(_none_if_empty(values.get(name)) for name in _EFFECTIVE),
            *(_without_empty(values.get(name, ())) for name in ("build", "install", "remove")),
            _without_empty(self.tests),
            self.available,
            self.flags.count("plugin"),
            tuple((name, source.effective) for name, source in values.get("extra-sources", ())),
            url and url.effective,
            self.extensions.get(_PATH_REWRITE),
            self.path_rewrites,
        )

    @property
    def ci_extensions(self) -> dict[str, Value]:
        """The extensions that steer the CI."""
        return {name: value for name, value in self.extensions.items() if name.startswith("x-ci-")}

    @property
    def depexts(self) -> tuple[tuple[frozenset[str], Filter], ...]:
        """The system packages, each set with the filter for its platforms."""
        depexts: tuple[tuple[frozenset[str], Filter], ...] = self.values.get("depexts", ())
        return depexts

    def describe(self, error: FormatError) -> str:
        """An error with its place, in opam's format."""
        if error.span == WHOLE_FILE:
            return f"In {self.file.filename}:\n{error.message}"
        at = self.file.position_of(*error.span)
        where = f"{at.line}:{at.column}-{at.end_line}:{at.end_column}"
        return f"At {self.file.filename}:{where}::\n{error.message}"


# The fields whose elements are pairs with a filter.
_WITH_FILTERS: Final = ("patches", "messages", "post-messages", "depexts", "libraries", "syntax")
_FORMULAS: Final = ("depends", "depopts", "conflicts")
_COMMANDS: Final = ("build", "run-test", "install", "remove", "build-test", "build-doc")
# The fields that opam compares as they are.
_EFFECTIVE: Final = (
    "depends",
    "depopts",
    "conflicts",
    "conflict-class",
    "setenv",
    "substs",
    "patches",
    "build-env",
    "features",
    "extra-files",
    "build-doc",
)


def read(file: OpamFile, package: Package | None = None) -> Opam:
    """Read the fields of an opam file.

    A field that is wrong is dropped and becomes an error, as in opam.

    Args:
        file: The file.
        package: The package that the file belongs to, if any.

    Raises:
        OpamSyntaxError: The file is of another format, or wrong beyond single fields.
    """
    try:
        _check_version(file)
        plain: list[Item] = []
        extensions: dict[str, Value] = {}
        for item in file.items:
            if isinstance(item, Field) and item.name.startswith(_EXTENSION):
                extensions[item.name] = item.value
            else:
                plain.append(item)
        record = read_fields(plain, FIELDS, SECTIONS)
        url = record.values.get("url")
        opam_version = record.values.get("opam-version", FORMAT_VERSION)
        rewrites: tuple[Any, ...] = ()
        if versions.compare(opam_version, FORMAT_VERSION) <= 0:
            if url is not None and url.subpath is not None:
                raise BadFormat(WHOLE_FILE, _NO_SUBPATH)  # noqa: TRY301 -- one place adds the position
            _check_extensions(extensions)
            if _PATH_REWRITE in extensions:
                rewrites = _REWRITES.read(extensions[_PATH_REWRITE], WHOLE_FILE)
    except BadFormat as error:
        at = file.position_of(*(error.span or WHOLE_FILE))
        raise OpamSyntaxError(
            error.message, filename=file.filename, line=at.line, column=at.column
        ) from None
    errors = (*record.errors, *(url.errors if url is not None else ()))
    return Opam(file, package, record.values, extensions, errors, rewrites)


_NO_SUBPATH: Final = "The url.subpath field is not allowed in files with `opam-version` <= 2.0"
_REWRITES: Final = list_of(
    either(tuple_of(IDENT, BOOL), tuple_of(IDENT, SEPARATOR_RULE, PATH_FORMAT_RULE))
)


def _check_version(file: OpamFile) -> None:
    found = [item for item in file.items if isinstance(item, Field) and item.name == "opam-version"]
    if len(found) > 1:
        raise BadFormat(WHOLE_FILE, "Duplicate 'opam-version:' field")
    if found:
        reader = FIELDS["opam-version"].reader
        version = reader.read(found[0].value, Span(found[0].value.start, found[0].value.end))
        if versions.compare(FORMAT_VERSION, without_patch(version)) >= 0:
            return
    raise BadFormat(
        WHOLE_FILE,
        f"unsupported or missing file format version; should be {FORMAT_VERSION} or older",
    )


def _check_extensions(extensions: dict[str, Value]) -> None:
    for name in ("x-subpath", "x-locked"):
        value = extensions.get(name)
        if value is not None and not isinstance(value, String):
            raise BadFormat(Span(value.start, value.end), f"Field {name} must be a string")


def _none_if_empty(value: Any) -> Any:
    """The value, None for an empty one, which equals a missing field."""
    return None if value == EMPTY or value == () else value  # noqa: PLR1714 -- one is a formula, one a list


def _without_empty(commands: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(command for command in commands if command[0])


# Old fields that restrict availability


def _restricted(available: Filter, condition: Filter) -> Filter:
    if available == FBool(value=True):
        return condition
    return chain(FAnd, [condition, available])


def _ocaml_version_is(leaf: Constraint) -> Filter:
    return FOp(FIdent((), "ocaml-version"), leaf.op, leaf.version)


def _os_is(leaf: tuple[bool, str]) -> Filter:
    return FOp(FIdent((), "os"), "=" if leaf[0] else "!=", FString(leaf[1]))


# Variables


def variables_of(condition: Filter | None) -> Iterator[FIdent]:
    """The variables of a filter, those in its strings too.

    Raises:
        OcamlFailure: A `%{…}%` names an impossible package.
    """
    for leaf in leaves(condition) if condition is not None else ():
        match leaf:
            case FIdent():
                yield leaf
            case FString(value=text):
                yield from interpolated(text)


def _command_variables(command: tuple[Any, Filter | None]) -> Iterator[FIdent]:
    arguments, condition = command
    yield from variables_of(condition)
    for argument, argument_condition in arguments:
        yield from variables_of(argument_condition)
        if isinstance(argument, Ident):
            try:
                yield variable(argument.name)
            except OcamlFailure:
                continue
        else:
            yield from interpolated(argument.value)
