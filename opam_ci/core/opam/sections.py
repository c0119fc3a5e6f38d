"""Reading lists of fields, and the sections `url` and `extra-source`."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any, Final, NamedTuple

from opam_ci.core.opam.nodes import Field, Item, Section
from opam_ci.core.opam.readers import WHOLE_FILE, BadFormat, Reader, Span, of_text
from opam_ci.core.opam.url import Url
from opam_ci.core.opam.values import CHECKSUM, STRING, URL, list_of, url_by


class FormatError(NamedTuple):
    """An error for which opam drops a field.

    Attributes:
        span: Where, `WHOLE_FILE` if opam reports no place.
        message: opam's message.
    """

    span: Span
    message: str


@dataclass(slots=True)
class Record:
    """The values of a list of fields, and the errors so far, while they are read."""

    values: dict[str, Any] = attribute(default_factory=dict)
    errors: list[FormatError] = attribute(default_factory=list)


#: Stores a value that was read; may raise `BadFormat`.
Store = Callable[[Record, Any], None]


class FieldReader(NamedTuple):
    """How a field is read, and how its value is stored."""

    reader: Reader
    store: Store


def keep(name: str) -> Store:
    """Store a value under a name."""

    def store(record: Record, value: Any) -> None:
        record.values[name] = value

    return store


SectionContents = Sequence[tuple[str | None, Sequence[Item]]]


def read_fields(
    items: Sequence[Item],
    fields: Mapping[str, FieldReader],
    sections: Mapping[str, FieldReader],
) -> Record:
    """Read fields and sections, in the order of `fields`, and collect errors.

    A field or section that is wrong is dropped, as in opam, and becomes an error.
    """
    record = Record()
    found, contents = _sort_out(items, fields, sections, record.errors)
    for name, reader in fields.items():
        item = found.get(name)
        if item is not None:
            _read_into(record, reader, item.value, Span(item.start, item.end))
    for kind, reader in sections.items():
        if kind in contents:
            named = sorted(contents[kind].items(), key=lambda pair: (pair[0] is not None, pair[0]))
            _read_into(record, reader, named, WHOLE_FILE)
    return record


def _read_into(record: Record, field: FieldReader, value: Any, span: Span) -> None:
    reader, store = field
    try:
        store(record, reader.read(value, span))
    except BadFormat as first:
        error = first if span == WHOLE_FILE else _again(reader, value, span) or first
        where = span if error.span is None else error.span
        record.errors.append(FormatError(where, error.message))


def _again(reader: Reader, value: Any, span: Span) -> BadFormat | None:
    """The error of a field's value, placed at the whole field, which is where opam places it.

    The value is copied for that, which is done only for wrong ones.
    """
    value = copy(value)
    value.start, value.end = span
    try:
        reader.read(value, span)
    except BadFormat as error:
        return error
    return None


def _sort_out(
    items: Sequence[Item],
    fields: Mapping[str, FieldReader],
    sections: Mapping[str, FieldReader],
    errors: list[FormatError],
) -> tuple[dict[str, Field], dict[str, dict[str | None, Sequence[Item]]]]:
    found: dict[str, Field] = {}
    contents: dict[str, dict[str | None, Sequence[Item]]] = {}
    for item in items:
        if isinstance(item, Section):
            # opam gives these errors the position of the file.
            if item.kind not in sections:
                errors.append(FormatError(WHOLE_FILE, f"Invalid section {item.kind}"))
            elif item.name in contents.get(item.kind, {}):
                errors.append(FormatError(WHOLE_FILE, f"Duplicate section {item.kind}"))
            else:
                contents.setdefault(item.kind, {})[item.name] = item.items
        else:
            span = Span(item.start, item.end)
            if item.name not in fields:
                errors.append(FormatError(span, f"Invalid field {item.name}"))
            elif item.name in found:
                errors.append(FormatError(span, f"Duplicate field {item.name}"))
            else:
                found[item.name] = item
    return found, contents


# The url section


class UrlSection(NamedTuple):
    """The content of a `url` or `extra-source` section.

    Attributes:
        url: Where the archive is.
        checksums: Kind and digits of each checksum, in order.
        mirrors: Other places of the archive.
        subpath: The folder in the archive to build from.
        errors: What is wrong with its fields.
    """

    url: Url
    checksums: tuple[tuple[str, str], ...] = ()
    mirrors: tuple[Url, ...] = ()
    subpath: str | None = None
    errors: tuple[FormatError, ...] = ()

    @property
    def effective(self) -> object:
        """What opam compares to decide whether a package changed: first checksum, else URL."""
        return self.checksums[0] if self.checksums else self.url


def _store_url(record: Record, url: Url) -> None:
    if "url" in record.values:
        raise BadFormat(None, "Too many URLS")
    record.values["url"] = url


def _by_backend(backend: str) -> FieldReader:
    return FieldReader(STRING.then(of_text("url", url_by(backend))), _store_url)


_URL_FIELDS: Final = {
    "src": FieldReader(URL, _store_url),
    "archive": _by_backend("http"),
    "http": _by_backend("http"),
    "git": _by_backend("git"),
    "darcs": _by_backend("darcs"),
    "hg": _by_backend("hg"),
    "local": _by_backend("rsync"),
    "checksum": FieldReader(list_of(CHECKSUM, depth=1), keep("checksums")),
    "mirrors": FieldReader(list_of(URL, depth=1), keep("mirrors")),
    "subpath": FieldReader(STRING.then(of_text("subpath", str)), keep("subpath")),
}
# What opam treats as a missing URL.
_NO_URL: Final = Url("http", "https", "", None)


def url_contents(items: Sequence[Item], span: Span) -> UrlSection:
    """Read the fields of a `url` or `extra-source` section; wrong ones become its errors.

    Raises:
        BadFormat: It has no valid URL; the error is placed at `span`.
    """
    record = read_fields(items, _URL_FIELDS, {})
    if record.values.get("url", _NO_URL) == _NO_URL:
        raise BadFormat(span, "missing URL")
    return UrlSection(**record.values, errors=tuple(record.errors))


def _url_section(sections: SectionContents, span: Span) -> UrlSection:
    match sections:
        case [(None, items)]:
            return url_contents(items, span)
        case [_]:
            raise BadFormat(span, "Unexpected section title")
    raise BadFormat(span, "Duplicate section")


def _extra_sources(sections: SectionContents, span: Span) -> tuple[tuple[str, UrlSection], ...]:
    read: list[tuple[str, UrlSection]] = []
    for name, items in sections:
        source = url_contents(items, span)
        if name is None:
            raise BadFormat(span, "missing extra-source name")
        read.append((name, source))
    return tuple(read)


URL_SECTION: Final = Reader(_url_section, "url-file")
EXTRA_SOURCES: Final = Reader(_extra_sources)
