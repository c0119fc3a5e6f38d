"""Lines as they are shown: colours as classes, nothing hidden, nothing executed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.logs.sgr import PLAIN, after
from opam_ci.core.logs.spans import HIDDEN, spans


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("plain ünïcode 漢字 🐫", [("plain ünïcode 漢字 🐫", "")]),
        ("\ttab", [("\ttab", "")]),
        ("a\x1b[1;31mb\x1b[0mc", [("a", ""), ("b", "sgr1 sgr31"), ("c", "")]),
        ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", [("a", ""), ("b", "")]),
        ("\x1bPq#0\x1b\\a\x1b[2K\x1b[1Ab\x1b(Bc\x1bMd\x1b[?25le", [*"abcde"]),
        ("a\x1bPnever ended", [("a", ""), ("␛", HIDDEN), ("Pnever ended", "")]),
        ("\x1b]0;\x1b[31mred", [("␛", HIDDEN), ("]0;", ""), ("red", "sgr31")]),
        ("x\x08\x00\x7fy", [("x", ""), ("␈␀␡", HIDDEN), ("y", "")]),
        ("a\u202eb\u200b", [("a", ""), ("<U+202E>", HIDDEN), ("b", ""), ("<U+200B>", HIDDEN)]),
        ("\u009b31m", [("<U+009B>", HIDDEN), ("31m", "")]),
        ("a\u00a0b", [("a b", "")]),
        ("<b>&amp;", [("<b>&amp;", "")]),
        ("", []),
    ],
)
def test_what_is_shown(data: str, shown: list[tuple[str, str] | str]) -> None:
    expected = [each if isinstance(each, tuple) else (each, "") for each in shown]
    assert [tuple(each) for each in spans(data.encode(), PLAIN)] == expected


def test_the_state_before_the_line_counts() -> None:
    assert spans(b"red\x1b[0m", (31,)) == (("red", "sgr31"),)


BYTES = st.lists(
    st.one_of(
        st.binary(max_size=5),
        st.sampled_from([b"\x1b", b"\x1b[", b"31m", b"\x1b[0m", b"\x1b]", b"\x1b\\", b"\x07"]),
        st.text(max_size=5).map(lambda text: text.encode("utf-8", "replace")),
    ),
    max_size=20,
).map(b"".join)


@given(BYTES)
def test_whatever_a_log_has_is_printable_and_has_known_classes(data: bytes) -> None:
    for text, classes in spans(data, PLAIN):
        assert text.replace("\t", "").isprintable()
        assert text
        assert re.fullmatch(r"(?:sgr\d{1,3}(?: sgr\d{1,3})*)?|hidden", classes)


@given(BYTES)
def test_colours_go_on_where_the_next_line_begins(data: bytes) -> None:
    """What follows has the state that the index counts."""
    state = after(PLAIN, data + b"\x00")
    *_, last = spans(data + b"\x00end", PLAIN)
    assert last == ("end", " ".join(f"sgr{code}" for code in state))
