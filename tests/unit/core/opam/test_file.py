"""Reading the syntax of opam files."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.file import MAX_DEPTH, MAX_SIZE, UNREADABLE, parse
from opam_ci.core.opam.nodes import (
    Bool,
    EnvBinding,
    Field,
    Group,
    Ident,
    Int,
    List,
    Logop,
    Option,
    Pfxop,
    Position,
    PrefixRelop,
    Relop,
    Section,
    String,
    Value,
)

A, B, C = Ident("a"), Ident("b"), Ident("c")


def value(text: str) -> Value:
    """The value of a field with this text."""
    found = parse(f"x: {text}".encode()).value("x")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', String("a")),
        (r'"\"\\\n\t\065\x41\ "', String('"\\\n\tAA ')),
        ('"a\\\n    b"', String("ab")),
        ('"a\r\nb"', String("a\nb")),
        (r'"\\n"', String("\\n")),
        ('"""a "quoted" b"""', String('a "quoted" b')),
        ('"""a\\""""', String('a"')),
        ('""', String("")),
        ('"é"', String("é")),
        (r'"\195\169"', String("é")),
        (r'"\255"', String("\udcff")),
        ("true", Bool(value=True)),
        ("-1_000", Int(-1000)),
        ("1a", Ident("1a")),
        ("true-ish", Ident("true-ish")),
        ("a+b:c", Ident("a+b:c")),
        ("_:c", Ident("_:c")),
        ("[]", List(())),
        ("[a b]", List((A, B))),
        ("[a = b]", List((Relop("=", A, B),))),
        ("[(a) = b]", List((Group((A,)), PrefixRelop("=", B)))),
        ("[a {= b}]", List((Option(A, (PrefixRelop("=", B),)),))),
        ("!a {b}", Pfxop("!", Option(A, (B,)))),
        ("(!a) {b}", Option(Group((Pfxop("!", A),)), (B,))),
        ("a {b} {c}", Option(Option(A, (B,)), (C,))),
        ("a & b & c", Logop("&", (A, B, C))),
        ("a | b & c | a", Logop("|", (A, Logop("&", (B, C)), A))),
        ("a & !b | ?c", Logop("|", (Logop("&", (A, Pfxop("!", B))), Pfxop("?", C)))),
        ("a & (b & c)", Logop("&", (A, Group((Logop("&", (B, C)),))))),
        ("a ~ b", Relop(">=", A, B)),
        ("[a += b]", List((EnvBinding(A, "+=", B),))),
        ("[a =+= b]", List((EnvBinding(A, "=+=", B),))),
        ("[a := b]", List((EnvBinding(A, ":=", B),))),
        ("(* a (* nested *) *) a # and so on", A),
    ],
)
def test_values(text: str, expected: Value) -> None:
    assert value(text) == expected


def test_fields_and_sections_stand_in_order_with_their_positions() -> None:
    file = parse(
        b'opam-version: "2.0"\nurl {\n  src: "a"\n}\nextra-source "p" { }\nx: [\n "\xc3\xa9" 1]'
    )
    assert [type(item) for item in file.items] == [Field, Section, Section, Field]
    url = file.section("url")
    assert url is not None
    assert url.field("src") == Field("src", String("a"))
    assert file.position(url) == Position(2, 0, 4, 1)
    assert file.line(url) == 2
    assert [section.name for section in file.sections("extra-source")] == ["p"]
    last = file.value("x")
    assert isinstance(last, List)
    assert file.position(last.items[1]) == Position(7, 6, 7, 7)  # columns are bytes
    assert file.field("absent") is None
    assert file.section("absent") is None


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("x: [", "Parse error", 1, 4),
        ("x: ]", "Parse error", 1, 3),
        ("x: a\ny: b c", "Parse error", 2, 6),
        ('x: "a', "Parse error", 1, 5),  # within the first three tokens opam knows no better
        ('\n\nx: a\ny: "a', "unterminated string", 4, 5),
        ('x: a\ny: """a"', "unterminated string", 2, 8),
        ('x: a\ny: "\\q', "illegal escape sequence", 2, 5),
        ('x: a\ny: "\\256"', "illegal escape sequence", 2, 5),
        ("x: a\n y: ;", "';' is not a valid token", 2, 4),
        ("x: a\ny: a\r", "'\r' is not a valid token", 2, 4),
        ("x: a\ny: “a”", "'“' is not a valid token", 2, 3),
        ("x: a\n(* (* *)", "unterminated comment", 2, 8),
        ("x: a\ny: a =:= b", '"=:=" is not a valid environment update operator', 2, 5),
        ("x: a\ny: 9223372036854775808", "int_of_string", 2, 3),
        ('opam-version: "2.1"\nopam-version: "2.1"', "opam-version cannot be repeated", 2, 0),
        (
            'x: a\nopam-version: "2.1"',
            "opam-version must be the first non-comment line",
            2,
            0,
        ),
    ],
)
def test_errors_are_those_of_opam_and_have_a_place(
    text: str, message: str, line: int, column: int
) -> None:
    with pytest.raises(OpamSyntaxError) as caught:
        parse(text.encode(), filename="p/opam")
    error = caught.value
    assert (error.message, error.line, error.column) == (message, line, column)
    assert str(error) == f"p/opam:{line}:{column}: {message}"


def test_a_newer_format_is_not_a_syntax_error() -> None:
    items = parse(b'opam-version: "2.6"\nx: <new syntax>').items
    assert items[0] == Field("opam-version", String("2.6"))
    assert isinstance(items[1], Section)
    assert items[1].kind == UNREADABLE
    with pytest.raises(OpamSyntaxError):
        parse(b'opam-version: "2.5"\nx: <new syntax>')


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"x: a\ny: \xff", "opam:2:3: byte 0xff is not UTF-8"),
        (b'x: a\ny: "\0"', "opam:2:4: NUL byte"),
        (b"#" * (MAX_SIZE + 1), "opam:1:0: File too big (102401 bytes"),
    ],
)
def test_bytes_that_are_not_text_are_refused_with_their_place(data: bytes, part: str) -> None:
    with pytest.raises(OpamSyntaxError) as caught:
        parse(data)
    assert part in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 300 + "]" * 300, "!" * 300 + "a", "a" + "{b}" * 300])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(OpamSyntaxError, match=f"deeper than {MAX_DEPTH} levels"):
        value(text)


def test_long_chains_are_not_deep() -> None:
    found = value(" | ".join(["a & b"] * 5_000))
    assert isinstance(found, Logop)
    assert len(found.operands) == 5_000


@pytest.mark.parametrize(
    "text",
    [
        "x: a " * 25_000,
        "x: [" + "a " * 60_000 + "]",
        "x: " + " | ".join(["a"] * 30_000),
        "x: " + "[" * 60_000,
        'x: "' + "\\" * 500_000,
        "x: " + "(*" * 500_000,
        "x: " + "_" * 1_000_000,
        "x: " + "a+" * 500_000,
        '"' * 1_000_000,
        "#\n" * 500_000,
    ],
)
def test_big_texts_take_linear_time(text: str) -> None:
    # Quadratic work on so many tokens or characters takes minutes; bench/analysis.py
    # measures a megabyte of each.
    begin = time.process_time()
    with suppress(OpamSyntaxError):
        parse(text.encode(), max_size=2_000_000)
    assert time.process_time() - begin < 10


WORDS = st.sampled_from(
    (
        *(
            '"',
            '"""',
            "\\",
            "#",
            "(*",
            "*)",
            "[",
            "]",
            "{",
            "}",
            "(",
            ")",
            ":",
            "!",
            "?",
            "=",
            "+=",
        ),
        *(">=", "&", "|", "a", "x-b", "1", "true", '"s"', "url", "x: ", "é", "\\065", "\\x4", "-"),
        *("_", "~", ";", "\n", "\r\n", " ", "\0", 'opam-version: "2.0"\n', 'opam-version: "3"\n'),
    )
)
TEXTS = st.lists(WORDS, max_size=40).map("".join)


@given(st.binary(max_size=200) | TEXTS.map(str.encode))
def test_any_bytes_are_a_file_or_a_syntax_error(data: bytes) -> None:
    try:
        place = (1, 0)
        assert parse(data).data == data
    except OpamSyntaxError as error:
        place = (error.line, error.column)
    assert 1 <= place[0] <= data.count(b"\n") + 1
    assert 0 <= place[1] <= len(data)
