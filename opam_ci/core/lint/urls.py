"""URLs, checksums and the sections that hold them, as opam reads them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from opam_ci.core.lint.values import option, rows, strings
from opam_ci.core.opam.nodes import List, Node, Section, String, Value

ChecksumKind = Literal["md5", "sha256", "sha512"]

_HEX_DIGITS: Final[dict[str, int]] = {"md5": 32, "sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_VERSION_CONTROL: Final = frozenset({"git", "hg", "darcs"})
# The schemes that opam knows (opamUrl.ml, `backend_of_string`).
_SCHEMES: Final = _VERSION_CONTROL | {
    *("http", "https", "ftp", "wget", "curl"),
    *("file", "path", "local", "rsync", "ssh", "scp", "sftp"),
}
# In the order in which opam looks for the one URL of a section (opamFile.ml, URLSyntax).
_URL_FIELDS: Final = ("src", "archive", "http", "git", "darcs", "hg", "local")


@dataclass(frozen=True, slots=True)
class Source:
    """Where something is downloaded from.

    Attributes:
        filename: The last part of the URL, by which messages call it.
        checksums: The kinds of the checksums that opam accepted.
        node: What to point at.
    """

    filename: str
    checksums: tuple[ChecksumKind, ...]
    node: Node


def checksum_kind(text: str) -> ChecksumKind | None:
    """The kind of a well-formed checksum, None for what opam refuses.

    Without `kind=` it is MD5, a rule as old as opam.
    """
    head, found, digest = text.partition("=")
    kind = head.lower() if found else "md5"
    if not found:
        digest = text
    if len(digest) != _HEX_DIGITS.get(kind) or not _HEX.fullmatch(digest):
        return None
    return "sha512" if kind == "sha512" else "sha256" if kind == "sha256" else "md5"


def url_filename(url: str) -> str | None:
    """The last component of a URL with its `#fragment`; None where opam refuses the URL."""
    scheme, found, rest = url.partition("://")
    if found:
        vcs, plus, _ = scheme.partition("+")
        if (plus and vcs not in _VERSION_CONTROL) or (not plus and scheme not in _SCHEMES):
            return None
    else:
        rest = url
        head, colon, tail = url.partition(":")
        # `host:path` is ssh to opam; one letter before the colon is a Windows drive.
        if colon and "/" not in head and len(head) > 1 and not tail.isdigit():
            rest = f"{head}/{tail.removeprefix('/')}"
    path, _, fragment = rest.partition("#")
    named = f"{path}#{fragment}" if fragment else path
    return named.rstrip("/").rpartition("/")[2]


def section_source(section: Section) -> Source | None:
    """The source of a `url` or `extra-source` section, None where it names no URL."""
    for name in _URL_FIELDS:
        field = section.field(name)
        if field is None or not isinstance(field.value, String):
            continue
        filename = url_filename(field.value.value)
        if filename is not None:
            return Source(filename, _checksums(section), section.field("checksum") or section)
    return None


def _checksums(section: Section) -> tuple[ChecksumKind, ...]:
    field = section.field("checksum")
    if field is None:
        return ()
    kinds = [checksum_kind(text) for text in strings(field.value) or ()]
    # One bad checksum makes opam drop the whole field.
    known = tuple(kind for kind in kinds if kind is not None)
    return known if len(known) == len(kinds) else ()


def deprecated_extra_sources(value: Value) -> Iterator[Source]:
    """The sources of the old field `extra-sources: [["url" {"name"} "md5"]]`."""
    for row in rows(value):
        if not isinstance(row, List) or len(row.items) != 2:  # noqa: PLR2004  a URL and its checksum
            continue
        url, _ = option(row.items[0])
        digest = row.items[1]
        if isinstance(url, String) and isinstance(digest, String):
            filename = url_filename(url.value)
            kind = checksum_kind(digest.value)
            if filename is not None and kind is not None:
                yield Source(filename, (kind,), row)
