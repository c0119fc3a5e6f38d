"""Search: the same hits as of a search line by line, however output is divided."""

import re

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.logs.line_index import START, LineMark
from opam_ci.core.logs.search import Hit, Searcher

ESCAPE = re.compile(rb"\x1b\[[0-9;]*m")


def found(wanted: str, *pieces: bytes) -> list[Hit]:
    searcher = Searcher(wanted, START)
    return [hit for piece in pieces for hit in searcher.feed(piece)] + searcher.finish()


@given(
    st.lists(
        st.sampled_from([b"a", b"B", b"ab", b"\n", b"\n\n", b"\x1b[31m", b"\x1b[0m", b"x" * 9]),
        max_size=60,
    ),
    st.sampled_from(["ab", "A", "bx", "aBa"]),
    st.integers(1, 40),
)
def test_hits_are_the_lines_that_have_the_text(parts: list[bytes], wanted: str, size: int) -> None:
    data = b"".join(parts)
    expected, offset = [], 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if wanted.lower().encode() in ESCAPE.sub(b"", line).lower():
            expected.append((number, offset))
        offset += len(line) + 1
    hits = found(wanted, data)
    assert [(hit.number, hit.offset) for hit in hits] == expected
    assert all(wanted.lower() in hit.text.lower() for hit in hits)
    assert found(wanted, *(data[at : at + size] for at in range(0, len(data), size))) == hits


def test_a_long_line_is_searched_as_it_comes() -> None:
    piece = b"x" * 300_000
    searcher = Searcher("needle", START)
    hits = [searcher.feed(each) for each in (piece, piece, piece, piece + b"nee", b"dle", b"\nend")]
    hits.append(searcher.feed(b"needle\n"))
    assert [(hit.number, hit.offset) for some in hits for hit in some] == [(1, 0), (2, 1_200_007)]
    assert len(searcher._carried) < 1_000_000


def test_text_around_the_first_place_is_shown() -> None:
    [hit] = found("error", b"a" * 1000 + b"\x1b[1mError\x1b[0m: \x07<b>" + b"z" * 1000)
    assert hit.text == "a" * 80 + "Error: ␇<b>" + "z" * 309


def test_a_search_may_begin_in_the_middle_and_has_gaps() -> None:
    searcher = Searcher("a", LineMark(10, 500, ()), 12)
    hits = searcher.feed(b"a\na\na\nhalf a")
    hits += searcher.gap(100) + searcher.feed(b"a\n")
    assert [(hit.number, hit.offset) for hit in hits] == [(12, 504), (13, 506), (15, 612)]
