"""What opam refuses in the text of a file besides violations of its grammar."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from opam_ci.core.opam.lexer import LexicalError, Mark, tokens
from opam_ci.core.opam.nodes import (
    Field,
    Group,
    Ident,
    Item,
    List,
    Logop,
    Node,
    Option,
    Pfxop,
    Section,
    String,
)

#: Bytes; the limit of opam-repo-ci, `get_opam ~max_len` in its analyse.ml.
MAX_SIZE: Final = 102_400
#: Levels of values and sections within each other. The deepest of the 18.8k real files has
#: 12. Code that walks the tree recurses, up to four calls a level, and Python's stack has room
#: for 1,000 of which a worker or a test already has some hundred.
MAX_DEPTH: Final = 100
_MAJOR_MINOR: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?")


def check_text(data: bytes, max_size: int = MAX_SIZE) -> None:
    """Check the size and the encoding of a file's text.

    Raises:
        LexicalError: The text is too big, not UTF-8, or contains a NUL.
    """
    if len(data) > max_size:
        raise LexicalError(f"File too big ({len(data)} bytes, at most {max_size} are read)", 0)
    if (nul := data.find(b"\0")) >= 0:
        raise LexicalError("NUL byte: an opam file is plain text", nul)
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as invalid:
            at = invalid.start
            raise LexicalError(f"byte 0x{data[at]:02x} is not UTF-8 text", at) from None


def without_patch(version: str) -> str:
    """The first two numbers of a version as text, as opam cuts them off."""
    pieces = version.split(".", 2)
    if len(pieces) > 2:  # noqa: PLR2004 -- two dots make three pieces
        return ".".join(pieces[:2])
    return version[: len(version) - len(version.lstrip("0123456789."))]


def major_minor(version: str) -> tuple[int, int]:
    """The first two numbers of an opam-version, (0, 0) where there are none."""
    match = _MAJOR_MINOR.fullmatch(without_patch(version))
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


def header(text: str) -> String | None:
    """The version in an `opam-version: "…"` at the start of a file, None if there is none."""
    try:
        first = list(islice(tokens(text), 3))
    except LexicalError as error:
        # opam looks ahead over three tokens and discards the error when that fails.
        raise LexicalError("Parse error", error.offset) from None
    match first:
        case [Ident(name="opam-version"), Mark(type="COLON"), String() as version]:
            return version
    return None


def check_versions(items: Sequence[Item], header: String | None) -> None:
    """Refuse an `opam-version` after the first item where opam-file-format does."""
    is_new_format = header is not None and major_minor(header.value) >= (2, 1)
    for item in items[1:]:
        match item:
            case Field(name="opam-version", value=String(value=version)):
                if is_new_format:
                    raise LexicalError("opam-version cannot be repeated", item.start)
                if major_minor(version) > (2, 0):
                    raise LexicalError(
                        "opam-version must be the first non-comment line", item.start
                    )


def may_be_deep(text: str) -> bool:
    """Whether the text has enough brackets and prefixes to nest too deep: a cheap test."""
    brackets = text.count("[") + text.count("(") + text.count("{")
    # Within one bracket there is at most a level each for `|`, for `&` and for the bracket.
    return 3 * (brackets + 1) + text.count("!") + text.count("?") > MAX_DEPTH


def check_depth(items: Sequence[Item]) -> None:
    """Refuse a tree deeper than `MAX_DEPTH`; it goes level by level, without recursion."""
    level: list[Node] = list(items)
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise LexicalError(f"values nest deeper than {MAX_DEPTH} levels", level[0].start)


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case Field(value=value) | Pfxop(value=value):
            return (value,)
        case List(items=items) | Group(items=items):
            return items
        case Section(items=items):
            return items
        case Option(value=value, options=options):
            return (value, *options)
        case Logop(operands=operands):
            return operands
    return ()
