"""Cleaning a log for matching, and marking the lines that only quote something."""

import html
import re
from dataclasses import dataclass, replace

from opam_ci.core.classify.excerpt import Offsets, byte_length
from opam_ci.core.classify.package_output import Frames
from opam_ci.core.jobs.outcome import LogLine

LINE_CAP = 1200
"""Characters of a line that are matched: its first 900 and last 300. Compiler command lines
may have tens of kilobytes; what shows a failure is at one of their ends."""

EVIDENCE_CHARS = 400
"""The limit of `LogLine.text` in core/jobs/outcome.py."""

_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,400}(?:\x07|\x1b\\)?|\x1b[@-_]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_PIECE = re.compile(r"[^\r\n]+")

_STAMPS = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[:.]\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?:? ?"  # ISO-like
    r"(?:\d\d[OE][+ ](?=\S| |$)|std(?:out|err) [FP] )?"  # GitLab's, Kubernetes' mark of the stream
    r"|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d "  # Go's
    r"|\[\d{4}-\d\d-\d\d[T ]\d\d:\d\d[:.]\d\d(?:[.,]\d+)?Z?\] ?"  # the same, in brackets
    r"|\[\d\d:\d\d:\d\d(?:\.\d+)?\]:? ?|\d\d:\d\d:\d\d(?:\.\d+)? "
    r"|\[ *\d+(?:\.\d{3,6}\]|s\]) "  # kernel; the Open Build Service
    r"|#\d+ (?:\d+\.\d+ )?"  # BuildKit
    r"|##\[(?:error|warning|debug|command)\](?! )"  # GitHub Actions
    r"|::(?:error|warning)(?: [^:]*)?::"
    r"|Step #\d+(?: - \"[^\"]{1,80}\")?: "
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ \S+\[\d+\]: "
    r"|[A-Za-z][\w.-]{0,80}[-_]\d+ +\| "  # docker compose
    r"|[^\t]{1,120}\t[^\t]{1,120}\t(?=\ufeff?\d{4}-\d\d-\d\dT)"  # gh run view --log
    r"|travis_(?:time|fold):[a-z0-9:_,=.]*"
)
# Marks of citation in front of a line: opam's report (`# `), its --verbose output (`- `), a
# mail or markdown citation, the frames of opam's summary, comment marks of a commit message.
_QUOTE = re.compile(r"\\?[#>|;\-] |\\?[#>|;](?=[#=\w\[>])|\+- |\\?#$|\*\*(?=[EW]: |\[E)")


_ENTITY = re.compile(r"&(?:gt|lt|amp|quot|apos|#\d{2,4}|#x[0-9a-f]{2,4});")
# GNU's tools quote with these in a UTF-8 locale; in Latin code pages they are broken bytes.
_QUOTATION_MARKS = str.maketrans("\u2018\u2019\u201c\u201d\ufffd", "''\"\"'")


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or one part of a line between carriage returns.

    Attributes:
        number: Line number in the text, from 1.
        offset: Byte offset in the log.
        text: Without escape codes, time stamps, citation marks and indentation.
        shown: As evidence shows it: without escape codes.
        lower: `text` in lower case, for cheap look-ups.
        quoted: Whether it only quotes something (see `_Quotes`).
        of_package: Whether it is the output of a package's own command (see `package_output.py`).
    """

    number: int
    offset: int
    text: str
    shown: str
    lower: str
    quoted: bool
    of_package: bool = False

    def as_evidence(self) -> LogLine:
        """Return the line as evidence."""
        return LogLine(offset=self.offset, text=self.shown[:EVIDENCE_CHARS])


def clean(text: str, *, log_start: int = 0, log_end: int | None = None) -> list[Line]:
    """Split a text into cleaned lines with their places in the log.

    Args:
        text: A log or a phase of one, as it was written.
        log_start: Byte offset of the text in the whole log.
        log_end: Byte offset of its end, if the middle of it may be missing.
    """
    offsets = Offsets(text, log_start=log_start, log_end=log_end)
    quotes, frames = _Quotes(), Frames()
    lines: list[Line] = []
    number, position, seen, inside = 1, 0, 0, False
    for match in _PIECE.finditer(text):
        start, piece = match.start(), match.group()
        number += text.count("\n", position, start)
        seen += start - position  # line ends: one byte each
        plain = piece if piece.isprintable() else _CONTROL.sub("", piece)
        capped = _cap(plain)
        if "&" in capped and _ENTITY.search(capped):
            # Capped first: Python refuses numbers of over 4,300 digits.
            capped = html.unescape(capped)
        capped = capped.rstrip()
        # A stamp or mark on an empty line is recognised only with the blank that follows it.
        body = _strip_marks(f"{capped} ").rstrip()
        if not body.isascii():
            body = body.translate(_QUOTATION_MARKS)
        quoted = quotes.next(piece, capped, body)
        # The part after a carriage return has no mark of its own: it belongs to the same line.
        if not lines or "\n" in text[position:start]:
            inside = frames.next(_strip_stamps(capped), body)
        offset = offsets.at(start, seen)
        lines.append(Line(number, offset, body, capped, body.lower(), quoted, inside))
        position = match.end()
        seen += byte_length(piece)
    return _unwrapped(lines)


_WRAPPING = re.compile(r"(?:\[(?:ERROR|WARNING)\]|- \[[^\]\s]+\]) ")
_MOST_JOINED = 4


def _unwrapped(lines: list[Line]) -> list[Line]:
    """Give the first line of each message that opam wrapped the text of the whole message.

    opam wraps its messages at the width of the terminal and indents the further lines; patterns
    match in one line. The further lines are kept unchanged.
    """
    for at, line in enumerate(lines):
        bare = _unstamped(line.shown)
        start = _WRAPPING.search(bare)
        if start is None:
            continue
        text = line.text
        for after in lines[at + 1 : at + 1 + _MOST_JOINED]:
            bare = _unstamped(after.shown)
            margin, rest = bare[: start.start()], bare[start.start() :]
            if margin.strip("#> ") or rest[:2] != "  " or rest.lstrip()[:2] in {"- ", "* "}:
                break
            text = f"{text} {rest.lstrip()}"
        if text is not line.text:
            lines[at] = replace(line, text=_cap(text), lower=_cap(text).lower())
    return lines


def _cap(text: str) -> str:
    return text if len(text) <= LINE_CAP else f"{text[:900]} … {text[-300:]}"


def _unstamped(text: str) -> str:
    """Remove time stamps, and keep indentation and citation marks."""
    while (stamp := _STAMPS.match(text)) and stamp.end():
        text = text[stamp.end() :]
    return text


def _strip_stamps(text: str) -> str:
    """Remove time stamps and indentation, and keep citation marks."""
    text = text.lstrip()
    while (rest := _unstamped(text).lstrip()) != text:
        text = rest
    return text


def _strip_marks(text: str) -> str:
    """Remove time stamps and citation marks, at most a few of them.

    GitHub's runner shows opam's `[ERROR] x` as `##[error] x` or `Error:  x`; it is restored.
    """
    for _ in range(6):
        before = text
        text = text.lstrip()
        if stamp := _STAMPS.match(text):
            text = text[stamp.end() :]
        elif not text.startswith("- -") and (mark := _QUOTE.match(text)):
            text = text[mark.end() :]
        if text == before:
            break
    for shown in ("##[error] ", "Error:  "):
        if text.startswith(shown):
            return f"[ERROR] {text.removeprefix(shown).lstrip()}"
    return text


_DIFF_START = re.compile(r"(?P<frame>[\s#>|;]*+)(?:diff --git |@@ -\d|--- \S++[^-]*+$)")
_DIFF_LINE = re.compile(r"[ +\-@\\]|index |diff |new file|deleted file|similarity|rename ")
_SCRIPT = re.compile(
    r"\\n|(?!\").*\\$|.*\\n\\|"  # continued or escaped script lines
    r"(?:if|elif|while|for|case) .*(?:; *(?:then|do)\b|\bin$)|(?:fi|done|esac|else|then)\b"
    # A shell's test. QCheck's lines begin with that word too, followed by a quoted title, and those
    # of dune before 2.0 about the alias of a test.
    r"|echo\b|printf\b|export "
    r"|test (?!alias \S|[`'\"]\S.{0,200}['`\"] (?:failed on|raised|errored)\b)"
    r"|res=|[A-Za-z_]+=\$\(|(?:\+\+* )?(?:set -|exit \d)"
    r"|\"?/usr/bin/env\"? \"?(?:bash|sh)\"? |(?:/usr)?/bin/(?:ba)?sh -\w*c\b"
    r"|\(run |\(shell |RUN |\$ |: [\"']"
)
_CITED = re.compile(r" *\d+ \| |\.{5,}|\^[\^ ]*+$")
_GITHUB_SCRIPT = "\x1b[36;1m"


class _Quotes:
    """State of the search for quoting lines while it goes through a log.

    These are: the lines of a diff (a test's expected output), lines of a script that the log
    echoes before it runs it, and source lines that a compiler shows. A marker or an error
    message in them is not an event.
    """

    def __init__(self) -> None:
        self._frame: str | None = None

    def next(self, raw: str, plain: str, body: str) -> bool:
        return self._in_diff(plain) or bool(
            raw.startswith(_GITHUB_SCRIPT) or _SCRIPT.match(body) or _CITED.match(body)
        )

    def _in_diff(self, plain: str) -> bool:
        if start := _DIFF_START.match(plain):
            self._frame = start.group("frame")
            return True
        if self._frame is None:
            return False
        rest = plain[len(self._frame) :]
        frame = self._frame.rstrip()
        if plain.rstrip() == frame or (plain.startswith(self._frame) and _DIFF_LINE.match(rest)):
            return True
        self._frame = None
        return False
