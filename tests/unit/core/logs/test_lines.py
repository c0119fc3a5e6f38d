"""Lines: the same ones however output is divided, and the same ones as the classifier's."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.classify.lines import clean
from opam_ci.core.logs.line_index import LINES_APART, START, LineCounter, LineIndex
from opam_ci.core.logs.lines import LINE_BYTES, LineCutter, RawLine
from opam_ci.core.logs.spans import shown_text

TEXT = st.lists(
    st.sampled_from([*"ab \n\n\r", "\r\n", "é", "\x1b[31m", "\x1b[0m", "x" * 30, "10%\r"]),
    max_size=40,
).map("".join)


def cut(*pieces: bytes) -> list[RawLine]:
    cutter = LineCutter()
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    return [*lines, *filter(None, [cutter.partial])]


def divided(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(each, len(data)) for each in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_a_line_keeps_its_last_writing_and_the_colours_of_the_line_before() -> None:
    data = b"plain\n\x1b[31mred\nstill\r\n10%\r50%\r\x1b[0m100%\n\nend"
    lines = cut(data)
    assert [(each.number, each.data, each.sgr) for each in lines] == [
        (1, b"plain", ()),
        (2, b"\x1b[31mred", ()),
        (3, b"still", (31,)),
        (4, b"\x1b[0m100%", (31,)),
        (5, b"", ()),
        (6, b"end", ()),
    ]
    assert [each.is_complete for each in lines] == [True] * 5 + [False]
    assert all(data[each.data_at :].startswith(each.data) for each in lines)
    assert [each.offset for each in lines[1:]] == [each.end for each in lines[:-1]]
    assert lines[-1].end == len(data)


@given(TEXT, st.lists(st.integers(0, 200), max_size=5))
def test_output_may_come_in_any_pieces(text: str, places: list[int]) -> None:
    data = text.encode()
    assert cut(*divided(data, places)) == cut(data)


@given(TEXT)
def test_the_classifier_has_the_same_lines(text: str) -> None:
    """Each of its lines has the number of the viewer's that it lies in; the last writing is shown.

    One writing of nothing but escape codes is empty in both.
    """
    lines = {each.number: each for each in cut(text.encode())}
    last = {}
    for each in clean(text):
        line = lines[each.number]
        assert line.offset <= each.offset < line.end
        last[each.number] = each
    for number, line in lines.items():
        if number in last:
            assert last[number].offset == line.data_at
            assert last[number].shown == shown_text(line).rstrip()
        else:
            assert line.data == b""


def test_a_long_line_is_cut_and_keeps_little() -> None:
    cutter = LineCutter()
    size = 5 * 1024 * 1024
    for _ in range(size // 65_536):
        assert cutter.feed(b"x" * 65_536) == []
    [line] = cutter.feed(b"\x1b[31m\n")
    assert (line.end, line.is_cut, line.data) == (size + 6, True, b"x" * LINE_BYTES)
    assert cutter.feed(b"red\n")[0].sgr == (31,)
    [line] = cutter.feed(b"x" * LINE_BYTES + b"\n")
    assert not line.is_cut


def test_bytes_that_were_cut_have_a_line_without_offsets() -> None:
    cutter = LineCutter()
    assert cutter.feed(b"begin\nhal") != []
    half, notice = cutter.gap(100, b"\n[cut]\n")
    assert (half.number, half.data, half.end, half.is_complete) == (2, b"hal", 9, True)
    assert (notice.number, notice.data, notice.offset, notice.is_notice) == (3, b"[cut]", 9, True)
    [rest] = cutter.feed(b"rest\n")
    assert (rest.number, rest.offset, rest.end) == (4, 109, 114)


@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from([b"a\n", b"\n", b"\x1b[31mb\n", b"c"])),
        max_size=8,
    ),
    st.integers(1, 900),
    st.booleans(),
)
def test_each_mark_is_where_its_line_begins(
    runs: list[tuple[int, bytes]], piece: int, has_gap: bool
) -> None:
    data = b"".join(count * text for count, text in runs)
    counter, cutter = LineCounter(), LineCutter()
    lines: dict[int, RawLine] = {}
    for start in range(0, len(data), piece):
        counter.feed(data[start : start + piece])
        lines |= {each.number: each for each in cutter.feed(data[start : start + piece])}
        if has_gap and start == 0:
            counter.gap(50)
            lines |= {each.number: each for each in cutter.gap(50, b"cut")}
    if (partial := cutter.partial) is not None:
        lines[partial.number] = partial
    index = counter.index()
    assert (index.lines, index.size) == (len(lines), cutter.position)
    for number, offset, _ in index.marks:
        mark = index.at_line(number)
        assert index.at_offset(offset) == mark
        if number in lines:
            line = lines[number]
            assert (mark.offset, mark.sgr) == (line.offset, line.sgr)
    for number in lines:
        mark = index.at_line(number)
        assert 0 <= number - mark.line < LINES_APART
    assert LineIndex.model_validate_json(index.model_dump_json()) == index


def test_long_lines_have_marks_of_their_own() -> None:
    counter = LineCounter()
    line = b"x" * 99_999 + b"\n"
    counter.feed(line * 40)
    for _ in range(10):
        counter.feed(line)
    index = counter.index()
    offsets = [START.offset, *(offset for _, offset, _ in index.marks), index.size]
    assert max(end - start for start, end in pairwise(offsets)) <= 500_000
    assert index.lines == 50
    huge = LineCounter()
    huge.feed(b"x" * 5_000_000 + b"\nend\n" + line * 3)
    assert huge.index().at_line(2)[:2] == (2, 5_000_001)
