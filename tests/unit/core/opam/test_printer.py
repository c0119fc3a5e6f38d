"""What is printed parses to the same."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.opam.file import parse
from opam_ci.core.opam.nodes import (
    Bool,
    EnvBinding,
    Field,
    Group,
    Ident,
    Int,
    Item,
    List,
    Logop,
    Option,
    Pfxop,
    PrefixRelop,
    Relop,
    Section,
    String,
    Value,
)
from tests.support.fakes.opam_text import print_file, print_value

RELOPS = st.sampled_from(["=", "!=", ">=", ">", "<=", "<"])
NAMES = st.from_regex(r"\A[a-z_][a-z0-9_-]{0,5}\Z").filter(
    lambda name: any(map(str.isalpha, name)) and name not in ("true", "false", "opam-version")
)
STRINGS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\r\t\0 \udcff'), max_size=12
)
ATOMS = (
    STRINGS.map(String)
    | st.builds(Ident, NAMES | st.builds("{}+_:{}".format, NAMES, NAMES))
    | st.booleans().map(Bool)
    | st.integers(-(2**62), 2**62 - 1).map(Int)
)


def without_false_comparisons(values: Sequence[Value]) -> tuple[Value, ...]:
    """Leave out what would join with the value before it: `a` and `= b` are one comparison."""
    kept: list[Value] = []
    for value in values:
        if not (kept and isinstance(value, PrefixRelop | Logop)):
            kept.append(value)
    return tuple(kept)


def compound(values: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    several = st.lists(values, max_size=4).map(without_false_comparisons)
    plain = (
        st.builds(List, several)
        | st.builds(Group, several)
        | st.builds(Relop, RELOPS, ATOMS, ATOMS)
        | st.builds(EnvBinding, ATOMS, st.sampled_from(["+=", "=+", "=+=", ":=", "=:"]), ATOMS)
        | ATOMS
    )
    option = st.builds(Option, plain, several)
    unit = plain | option | st.builds(Pfxop, st.sampled_from(["!", "?"]), plain | option)
    conjunction = st.builds(Logop, st.just("&"), st.lists(unit, min_size=2, max_size=3).map(tuple))
    disjunction = st.builds(
        Logop, st.just("|"), st.lists(unit | conjunction, min_size=2, max_size=3).map(tuple)
    )
    return unit | conjunction | disjunction | st.builds(PrefixRelop, RELOPS, ATOMS)


VALUES = st.recursive(ATOMS, compound, max_leaves=8)
FIELDS = st.builds(Field, NAMES, VALUES)
SECTIONS = st.builds(Section, NAMES, st.none() | STRINGS, st.lists(FIELDS, max_size=3).map(tuple))


@settings(max_examples=60)
@given(st.lists(FIELDS | SECTIONS, max_size=4))
def test_what_is_printed_parses_to_the_same(items: list[Item]) -> None:
    assert list(parse(print_file(items).encode()).items) == items


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ('"a\\"b"', '"a\\"b"'),
        ('"a\nb"', '"""\\\na\nb"""'),
        ("a&b|c", "a & b | c"),
        ("[ a   {b} (c) ]", "[a {b} (c)]"),
        ('!a {>="1"}', '!a {>= "1"}'),
    ],
)
def test_values_have_opams_spacing(text: str, printed: str) -> None:
    value = parse(f"x: {text}".encode()).value("x")
    assert value is not None
    assert print_value(value) == printed


def test_lists_of_conditions_stand_one_a_line() -> None:
    text = 'depends: [\n  "a" {>= "1"}\n  "b"\n]\nurl {\n  src: "c"\n}\n'
    assert print_file(parse(text.encode()).items) == text
