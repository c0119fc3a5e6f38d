"""From the messages of `opam lint` to findings with a place and advice."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from opam_ci.core.lint.finding import CheckId, LintFinding
from opam_ci.core.lint.opam_codes import ADVICE, FIELDS
from opam_ci.core.lint.subject import LintSubject, OpamMessage
from opam_ci.core.opam.nodes import Node, String

# opam's codes for "does not parse" and "not an opam file of this format".
_UNREADABLE: Final = frozenset({1, 2})
_FILE_FORMAT: Final = re.compile(r"File format error(?P<place>[^:]*): (?P<reason>.*)", re.DOTALL)
_FORMAT_ERROR: Final = 3
_IN_FIELD: Final = re.compile(r"File format error in '(?P<field>[^']*)'(?P<rest>.*)", re.DOTALL)
_PLACE: Final = re.compile(r" at line (?P<line>\d+), column (?P<column>\d+)")
# In these cases opam keeps the first of two, or does not know the field; no field is dropped.
_KEPT: Final = re.compile(r": (?:Duplicate|Invalid) (?:field|section) ")
_FURTHER_LINE: Final = re.compile(r"\n(?=[^\n])")
_INDENT: Final = 14
_DETAIL: Final = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why an opam file cannot be read at all.

    Attributes:
        reason: What is wrong; opam's own message where it has one.
        line: 1-based, None if the file as a whole is refused.
        column: 0-based, as opam counts.
    """

    reason: str
    line: int | None = None
    column: int | None = None


def unreadable_by_opam(messages: Iterable[OpamMessage]) -> Unreadable | None:
    """The error of opam about a file that it cannot read; None for one that it can."""
    for message in messages:
        if message.code in _UNREADABLE:
            match = _FILE_FORMAT.match(message.text)
            if match is None:
                return Unreadable(message.text)
            place = _PLACE.match(match["place"])
            if place is None:
                return Unreadable(match["reason"])
            return Unreadable(match["reason"], int(place["line"]), int(place["column"]))
    return None


def dropped_fields(messages: Iterable[OpamMessage]) -> frozenset[str]:
    """The fields that opam reports as refused; it reads the file without them."""
    dropped = set()
    for message in messages:
        match = _IN_FIELD.match(message.text) if message.code == _FORMAT_ERROR else None
        if match is not None and not _KEPT.search(match["rest"]):
            dropped.add(match["field"])
    return frozenset(dropped)


def opam_findings(subject: LintSubject) -> Iterator[LintFinding]:
    """Report the messages of opam's lint, in the format of opam-repo-ci."""
    for message in subject.opam_messages:
        # opam pads its codes to two places and indents further lines; opam-repo-ci keeps both.
        sentence = _FURTHER_LINE.sub(f"\n{' ' * _INDENT}", message.text)
        text = f"Opam lint {message.level} {message.code:2d}: {sentence}".rstrip()
        place = _PLACE.search(message.text) if message.code == _FORMAT_ERROR else None
        yield subject.finding(
            CheckId.OPAM_LINT,
            text,
            at=(int(place["line"]), int(place["column"])) if place else _culprit(subject, message),
            explanation=ADVICE.get(message.code),
            code=message.code,
        )


def _culprit(subject: LintSubject, message: OpamMessage) -> Node | None:
    """Find the text that a message quotes, in the fields that its code is about; else the field."""
    file = subject.file
    found = (file.field(name) or file.section(name) for name in FIELDS.get(message.code, ()))
    nodes = [node for node in found if node is not None]
    for detail in _DETAIL.findall(message.text):
        needle = detail.encode("utf-8", "surrogateescape")
        for node in nodes:
            at = file.data.find(needle, node.start, node.end)
            if at >= 0:
                return String(detail, start=at, end=at + len(needle))
    return nodes[0] if nodes else None
