"""The sources of a package, as opam reads the sections and fields that name them."""

from collections.abc import Iterator
from dataclasses import dataclass

from opam_ci.core.lint.values import rows
from opam_ci.core.opam.definitions import EXTRA_SOURCE
from opam_ci.core.opam.errors import OcamlFailure
from opam_ci.core.opam.nodes import Node, Section, Value
from opam_ci.core.opam.readers import WHOLE_FILE, BadFormat
from opam_ci.core.opam.sections import url_contents
from opam_ci.core.opam.url import Url
from opam_ci.core.opam.values import checksum


@dataclass(frozen=True, slots=True)
class Source:
    """Where something is downloaded from.

    Attributes:
        filename: The last part of the URL, its name in messages.
        checksums: The kinds of the checksums that opam accepted.
        node: The node that findings point at.
    """

    filename: str
    checksums: tuple[str, ...]
    node: Node


def checksum_kind(text: str) -> str | None:
    """`md5`, `sha256` or `sha512` of a well-formed checksum, None if opam refuses it."""
    try:
        return checksum(text)[0]
    except OcamlFailure:
        return None


def url_filename(url: Url) -> str:
    """The last component of a URL with its `#fragment`."""
    named = f"{url.path}#{url.fragment}" if url.fragment else url.path
    return named.rstrip("/").rpartition("/")[2]


def section_source(section: Section) -> Source | None:
    """The source of a `url` or `extra-source` section, None if it has no URL that opam accepts."""
    try:
        source = url_contents(section.items, WHOLE_FILE)
    except BadFormat:
        return None
    kinds = tuple(kind for kind, _ in source.checksums)
    return Source(url_filename(source.url), kinds, section.field("checksum") or section)


def deprecated_extra_sources(value: Value | None) -> Iterator[Source]:
    """The sources of the old field `extra-sources: [["url" {"name"} "md5"]]`."""
    for row in rows(value):
        try:
            (url, _), (kind, _) = EXTRA_SOURCE.read(row, WHOLE_FILE)
        except BadFormat:
            continue
        yield Source(url_filename(url), (kind,), row)
