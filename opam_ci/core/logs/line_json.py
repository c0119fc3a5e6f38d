"""A line as JSON, as the pages' log viewer and the API have it."""

from typing import NotRequired, TypedDict

from opam_ci.core.logs.lines import RawLine
from opam_ci.core.logs.spans import spans


class LineJson(TypedDict):
    """A line of a log.

    Attributes:
        number: From 1.
        offset: Byte offset at which it begins: what identifies it.
        spans: Pieces of text, each with its classes if it has any.
        cut: First and last offset (excluded) of a line that is too long to be shown whole.
        partial: The line has not ended and may be sent again.
        notice: The line is the CI's own, in place of bytes that were cut.
    """

    number: int
    offset: int
    spans: list[list[str]]
    cut: NotRequired[list[int]]
    partial: NotRequired[bool]
    notice: NotRequired[bool]


def line_json(line: RawLine) -> LineJson:
    """Returns a line as JSON."""
    shown = [list(each) if each.classes else [each.text] for each in spans(line.data, line.sgr)]
    made = LineJson(number=line.number, offset=line.offset, spans=shown)
    if line.is_cut:
        made["cut"] = [line.offset, line.end]
    if not line.is_complete:
        made["partial"] = True
    if line.is_notice:
        made["notice"] = True
    return made
