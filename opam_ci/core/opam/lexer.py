"""The tokens of the opam format.

The rules are those of opam-file-format 2.2 (`opamLexer.mll`): the longest match wins, the
first rule on a tie. One compiled expression finds a token and the blanks before it; atoms
are yielded as finished nodes, since lark only needs the `type` of a token.

The text is Latin-1 decoded, one character a byte, so that offsets are those that opam
reports; strings are decoded as UTF-8 when they are yielded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lark import Token
from lark.lexer import Lexer

from opam_ci.core.opam.nodes import Atom, Bool, Ident, Int, String

_ID: Final = r"[0-9_-]*+[A-Za-z][A-Za-z0-9_-]*+"
# Comments and strings are no repeated groups: these the Python of Debian 12 matches wrongly where
# they are possessive (cpython#106052), and others take memory for each time.
_TOKEN: Final = re.compile(
    rf"""
    [ \t\n]*+
    (?:
      "(?!"") (?P<plain> [^"\\\r]*+ ) "
    | (?P<ident> {_ID} (?: \+ (?: {_ID} | _ ) )* (?: :{_ID} )?
               | _ (?: (?: \+ (?: {_ID} | _ ) )+ (?: :{_ID} )? | :{_ID} ) )
    | (?P<comment> \(\* )
    | (?P<envop> =[+:]=? | [+:]= )
    | (?P<punctuation> [\[\](){{}}:] )
    | (?P<relop> != | [<>]=? | [=~] )
    | (?P<logop> [&|] )
    | (?P<pfxop> [!?] )
    | (?P<int> -?[0-9_]++ )
    | \"\"\" (?P<triple> )
    | "(?!"") (?P<escaped> )
    | (?P<skipped> \r\n | \#[^\n]*+ )
    | (?P<end> \Z )
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANKS: Final = re.compile(r"[ \t\n]*+")
_STRING_EDGE: Final = {
    "escaped": re.compile(r"""\\.|(?P<end>")""", re.DOTALL),
    "triple": re.compile(r"""\\.|(?P<end>\"{3})""", re.DOTALL),
}
_COMMENT_EDGE: Final = re.compile(r"\(\*|\*\)")
_ESCAPE: Final = re.compile(
    r"""\\(?: (?P<swallowed> \r?\n[ \t]*+ )
            | (?P<char> [\\"'nrtb ] )
            | (?P<decimal> [0-9]{3} )
            | x(?P<hexadecimal> [0-9a-fA-F]{2} )
            | )
      | (?P<line_end> \r\n )""",
    re.VERBOSE,
)
_SIMPLE_ESCAPES: Final = {"n": "\n", "r": "\r", "b": "\b", "t": "\t"}
_PUNCTUATION: Final = {
    "[": "LBRACKET",
    "]": "RBRACKET",
    "(": "LPAR",
    ")": "RPAR",
    "{": "LBRACE",
    "}": "RBRACE",
    ":": "COLON",
}
# OCaml's int on the 64-bit machines that opam runs on.
_MAX_INT: Final = 2**62
_MAX_BYTE: Final = 255


class LexicalError(Exception):
    """The text at `offset` is not a token; the parser adds file and line."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(slots=True)
class Mark:
    """A token that is not a value: punctuation or an operator."""

    type: str
    text: str
    start: int
    end: int


def _unescape(body: str, offset: int) -> str:
    """Resolve escapes and line ends of a string's source that begins at `offset`."""

    def replace(match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind == "swallowed":
            return ""
        if kind == "line_end":
            return "\n"
        if kind == "char":
            char = match["char"]
            return _SIMPLE_ESCAPES.get(char, char)
        if kind == "hexadecimal":
            return chr(int(match["hexadecimal"], 16))
        if kind == "decimal" and int(match["decimal"]) <= _MAX_BYTE:
            return chr(int(match["decimal"]))
        raise LexicalError("illegal escape sequence", offset + match.start() + 1)

    return _unicode(_ESCAPE.sub(replace, body))


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _end_of_comment(text: str, offset: int) -> int:
    """The offset just after the comment that opens at `offset`; comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, offset):
        depth += 1 if edge[0] == "(*" else -1
        if depth == 0:
            return edge.end()
    raise LexicalError("unterminated comment", len(text))


def _end_of_string(text: str, start: int, kind: str) -> int:
    """The offset of the quotes that end the string of a kind whose content begins at `start`."""
    for edge in _STRING_EDGE[kind].finditer(text, start):
        if edge["end"]:
            return edge.start()
    _unescape(text[start:], start)  # opam reports a wrong escape before the end of the file
    raise LexicalError("unterminated string", len(text))


def _integer(literal: str, offset: int) -> int:
    digits = literal.lstrip("-")
    if digits.startswith("_"):
        raise LexicalError("int_of_string", offset)
    digits = digits.replace("_", "")
    # Python refuses to read thousands of digits; no such number fits into OCaml's int.
    number = int(digits) if len(digits.lstrip("0")) < 20 else _MAX_INT * 2  # noqa: PLR2004 -- 2**62 has 19
    if literal.startswith("-"):
        number = -number
    if not -_MAX_INT <= number < _MAX_INT:
        raise LexicalError("int_of_string", offset)
    return number


def _invalid_token(text: str, offset: int) -> LexicalError:
    """The error for a text of which nothing matches at `offset`, which may be before blanks."""
    blanks = _BLANKS.match(text, offset)
    offset = blanks.end() if blanks else offset
    # opam names the first byte of a character alone, which no terminal can show.
    char = text[offset : offset + 4].encode("latin-1").decode("utf-8", "ignore")[:1]
    return LexicalError(f"'{char or text[offset]}' is not a valid token", offset)


def tokens(text: str) -> Iterator[Atom | Mark | Token]:  # noqa: C901, PLR0912 -- one branch a token, in one loop for speed
    """The tokens of a Latin-1 decoded opam file, with `EOF` as the last one.

    Raises:
        LexicalError: A part of the text is not a token.
    """
    match_at = _TOKEN.match
    offset = 0
    while True:
        match = match_at(text, offset)
        if match is None:
            raise _invalid_token(text, offset)
        kind = match.lastgroup
        end = match.end()
        if kind == "plain":
            yield String(_unicode(match["plain"]), start=match.start("plain") - 1, end=end)
        elif kind == "punctuation":
            char = match["punctuation"]
            yield Mark(_PUNCTUATION[char], char, end - 1, end)
        elif kind == "ident":
            name = match["ident"]
            start = end - len(name)
            if name == "true":
                yield Bool(value=True, start=start, end=end)
            elif name == "false":
                yield Bool(value=False, start=start, end=end)
            else:
                yield Ident(name, start=start, end=end)
        elif kind == "relop":
            operator = match["relop"]
            yield Mark("RELOP", ">=" if operator == "~" else operator, end - len(operator), end)
        elif kind == "logop":
            yield Mark("LOGOP", match["logop"], end - 1, end)
        elif kind in _STRING_EDGE:
            quotes = 3 if kind == "triple" else 1
            closing = _end_of_string(text, end, kind)
            value = _unescape(text[end:closing], end)
            yield String(value, start=end - quotes, end=closing + quotes)
            end = closing + quotes
        elif kind == "pfxop":
            yield Mark("PFXOP", match["pfxop"], end - 1, end)
        elif kind == "int":
            start = match.start("int")
            yield Int(_integer(match["int"], start), start=start, end=end)
        elif kind == "envop":
            operator = match["envop"]
            start = end - len(operator)
            if operator == "=:=":
                raise LexicalError('"=:=" is not a valid environment update operator', start)
            yield Mark("ENVOP", operator, start, end)
        elif kind == "comment":
            end = _end_of_comment(text, end - 2)
        elif kind != "skipped":
            yield Token("EOF", "", start_pos=end, end_pos=end, line=0, column=0)
            return
        offset = end


class OpamLexer(Lexer):
    """`tokens` behind lark's interface of a lexer."""

    def __init__(self, _configuration: object) -> None:
        """Nothing is configured: the tokens are fixed by the format."""

    def lex(self, text: str) -> Iterator[Token]:  # type: ignore[override]  # lark's interface 0 passes the text itself
        """See `tokens`; lark only uses a token's `type`."""
        return tokens(text)  # type: ignore[return-value]  # nodes replace lark's tokens
