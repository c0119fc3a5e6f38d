"""The fields of opam files: how each is read, in the order in which opam reads them.

The order matters for messages: of two wrong fields the first one in this list is reported
first, whatever the file's order.
"""

from typing import Any, Final

from opam_ci.core.opam.conditions import (
    COMMAND,
    FILTER,
    FILTERED_CONSTRAINTS,
    OS_CONSTRAINT,
    TAGS,
    constraints,
    formula_items,
    package_formula,
    tags_as_filter,
)
from opam_ci.core.opam.formula import (
    And,
    Atom,
    Formula,
    Or,
    alternatives,
    as_disjunction,
    atoms,
    join,
)
from opam_ci.core.opam.nodes import Ident, String, Value
from opam_ci.core.opam.readers import (
    ONLY,
    BadFormat,
    Reader,
    Span,
    Unexpected,
    either,
    of_text,
    optional,
)
from opam_ci.core.opam.sections import (
    EXTRA_SOURCES,
    URL_SECTION,
    FieldReader,
    Record,
    Store,
    UrlSection,
    keep,
)
from opam_ci.core.opam.url import Url
from opam_ci.core.opam.values import (
    CHECKSUM,
    ENV_BINDING,
    FILE_NAME,
    IDENT,
    LIST,
    PACKAGE_NAME,
    PIN,
    STRING,
    STRIPPED,
    URL,
    VERSION,
    list_depth,
    list_of,
    option_of,
    options_of,
    tuple_of,
)

#: A tag `flags:plugin` is the flag `plugin`, for compatibility with old opam.
FLAG_TAG: Final = "flags:"
#: The flags that opam knows; others are dropped when a file is read.
KNOWN_FLAGS: Final = frozenset(
    ("light-uninstall", "verbose", "plugin", "compiler", "conf", "avoid-version", "deprecated")
)


def _store_author(record: Record, authors: tuple[str, ...]) -> None:
    if record.values.get("authors"):
        raise BadFormat(None, 'multiple "authors:" fields')
    record.values["authors"] = authors


def _store_depopts(record: Record, formula: Formula) -> None:
    # opam treats optional dependencies as alternatives, whatever their operators.
    flat: list[Formula] = []
    for one in alternatives(formula):
        if isinstance(one, Atom):
            flat.append(one)
        else:
            # opam collects the atoms of such a formula from the last to the first.
            flat.extend(Atom(value) for value in reversed(list(atoms(one))))
    record.values["depopts"] = join(Or, flat)


def _store_conflicts(record: Record, formula: Formula) -> None:
    is_plain = all(isinstance(one, Atom) for one in alternatives(formula))
    record.values["conflicts"] = formula if is_plain else as_disjunction(formula)


def _store_flags(record: Record, flags: tuple[str, ...]) -> None:
    record.values["flags"] = tuple(sorted(KNOWN_FLAGS.intersection(flags)))


def _store_extra_sources_field(
    record: Record, sources: tuple[tuple[tuple[Url, str | None], tuple[str, str]], ...]
) -> None:
    record.values["extra-sources"] = tuple(
        (name or url.basename, UrlSection(url, (checksum,))) for (url, name), checksum in sources
    )


def _compiler_version(value: Value, _span: Span) -> str:
    match value:
        case Ident(name="system"):
            return "system"
        case String(value=text):
            return text
    raise Unexpected


def _ignore(_record: Record, _value: Any) -> None:
    """Drop the value: `configure-style` was a field of old opam."""


_STRINGS: Final = list_of(STRING, depth=1)
_COMMANDS: Final = list_of(COMMAND, depth=2)
_TEXTS_WITH_FILTER: Final = list_of(option_of(STRIPPED, optional(FILTER)), depth=1)
_STRINGS_WITH_FILTER: Final = list_of(option_of(STRING, optional(FILTER)), depth=1)
_ENVIRONMENT: Final = list_of(ENV_BINDING, depth=2)
_SYSTEM_PACKAGES: Final = list_of(STRING.then(of_text("sys-package", str))).then(
    Reader(lambda names, _span: frozenset(names))
)
_DEPEXTS: Final = either(
    list_of(option_of(_SYSTEM_PACKAGES, FILTER), depth=2),
    list_of(
        tuple_of(
            TAGS.then(Reader(lambda tags, _span: tags_as_filter(tags), "tag-list")),
            _SYSTEM_PACKAGES,
        ).then(Reader(lambda pair, _span: (pair[1], pair[0]))),
        depth=3,
    ),
)
#: An element of the old field `extra-sources`: `["url" {"name"} "checksum"]`.
EXTRA_SOURCE: Final = tuple_of(option_of(URL, optional(ONLY.then(FILE_NAME))), CHECKSUM)
_VARIABLE: Final = IDENT.then(of_text("variable", str))

_READERS: Final[dict[str, Reader]] = {
    "opam-version": STRING.then(of_text("opam-version", str)),
    "name": PACKAGE_NAME,
    "version": VERSION,
    "synopsis": STRIPPED,
    "description": STRIPPED,
    "maintainer": _STRINGS,
    "authors": _STRINGS,
    "author": _STRINGS,
    "license": _STRINGS,
    "tags": _STRINGS,
    "homepage": _STRINGS,
    "doc": _STRINGS,
    "bug-reports": _STRINGS,
    "depends": package_formula(And),
    "depopts": package_formula(Or),
    "conflicts": package_formula(Or),
    "conflict-class": list_of(PACKAGE_NAME, depth=1),
    "available": list_depth(1).then(LIST).then(FILTER),
    "flags": list_of(IDENT.then(of_text("package-flag", str)), depth=1),
    "setenv": _ENVIRONMENT,
    "build": _COMMANDS,
    "run-test": _COMMANDS,
    "install": _COMMANDS,
    "remove": _COMMANDS,
    "substs": list_of(FILE_NAME, depth=1),
    "patches": list_of(option_of(FILE_NAME, optional(FILTER)), depth=1),
    "build-env": _ENVIRONMENT,
    "features": list_of(
        options_of(
            _VARIABLE,
            formula_items("pkg-formula", And, PACKAGE_NAME, FILTERED_CONSTRAINTS),
            ONLY.then(STRING),
        ),
        depth=1,
    ),
    "messages": _TEXTS_WITH_FILTER,
    "post-messages": _TEXTS_WITH_FILTER,
    "depexts": _DEPEXTS,
    "libraries": _STRINGS_WITH_FILTER,
    "syntax": _STRINGS_WITH_FILTER,
    "dev-repo": STRING.then(of_text("vc-url", Url.parse)),
    "pin-depends": list_of(PIN, depth=2),
    "extra-files": list_of(tuple_of(FILE_NAME, CHECKSUM), depth=2),
    "configure-style": Reader(lambda value, _span: value, "<ignored>"),
    "ocaml-version": list_depth(1)
    .then(LIST)
    .then(constraints(Reader(_compiler_version, "compiler-version"))),
    "os": OS_CONSTRAINT,
    "descr": STRIPPED.then(of_text("descr", str)),
    "extra-sources": list_of(EXTRA_SOURCE, depth=2),
    "build-test": _COMMANDS,
    "build-doc": _COMMANDS,
}
_STORES: Final[dict[str, Store]] = {
    "author": _store_author,
    "depopts": _store_depopts,
    "conflicts": _store_conflicts,
    "flags": _store_flags,
    "extra-sources": _store_extra_sources_field,
    "configure-style": _ignore,
}
FIELDS: Final = {
    name: FieldReader(reader, _STORES.get(name) or keep(name)) for name, reader in _READERS.items()
}
SECTIONS: Final = {
    "url": FieldReader(URL_SECTION, keep("url")),
    "extra-source": FieldReader(EXTRA_SOURCES, keep("extra-sources")),
}
