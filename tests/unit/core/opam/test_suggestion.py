"""Suggestions for comments on GitHub: applied to their lines they give the new text."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.opam.bounds import Bound, bounded
from opam_ci.core.opam.package import Package
from opam_ci.core.opam.suggestion import Suggestion, suggested, suggestions

PATH = "packages/user/user.2/opam"


def applied(before: str, found: tuple[Suggestion, ...]) -> str:
    """What GitHub makes of a file when all suggestions are committed."""
    lines = before.removesuffix("\n").split("\n")
    for each in reversed(found):
        assert 1 <= each.first <= each.last <= len(lines)
        lines[each.first - 1 : each.last] = each.lines
    return "\n".join(lines)


_LINE = st.sampled_from(["", "a", "b", "```", '  "lib" {>= "1"}  # é\u2028', "x\r", "`````x"])
_TEXT = st.builds(
    lambda lines, end: "\n".join(lines) + end,
    st.lists(_LINE, max_size=8),
    st.sampled_from(["", "\n"]),
)


@given(_TEXT, _TEXT)
def test_applied_to_its_lines_it_gives_the_new_text(before: str, after: str) -> None:
    found = suggestions(before, after)
    assert applied(before, found) == after.removesuffix("\n")
    # No line is in two of them: each can be committed by itself.
    assert all(one.last < other.first for one, other in pairwise(found))


@given(_TEXT, _TEXT)
def test_markdown_has_the_same_lines(before: str, after: str) -> None:
    found = suggestions(before, after)
    text = suggested(PATH, before, after)
    read = []
    lines = iter(text.split("\n"))
    for line in lines:
        where = re.fullmatch(rf"{re.escape(PATH)}, lines? (\d+)(?:-(\d+))?:", line)
        if where is None:
            assert line == ""
            continue
        fence = next(lines).removesuffix("suggestion")
        assert set(fence) == {"`"}
        assert len(fence) >= 3
        new = []
        # A block ends with its first line of as many backticks, or more.
        while re.fullmatch(rf"`{{{len(fence)},}}", line := next(lines)) is None:
            new.append(line)
        assert line == fence
        first, last = int(where[1]), int(where[2] or where[1])
        read.append(Suggestion(first=first, last=last, lines=tuple(new)))
    assert tuple(read) == found


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("a\nb\nc\n", "a\nB\nc\n", [(2, 2, "B")]),
        ("a\nb\nc\nd", "a\nB\nC\nC\nd", [(2, 3, "B C C")]),
        # What is only added takes the line before it along; at the top that after it.
        ("a\nb\n", "a\nx\nb\n", [(1, 1, "a x")]),
        ("a\nb\n", "x\na\nb\n", [(1, 1, "x a")]),
        ("a\nb\n", "x\na\ny\nb\n", [(1, 1, "x a y")]),
        ("a\nb\nc\n", "a\nc\n", [(2, 2, "")]),
        ("a\nb\nc\nd\n", "A\nb\nc\nD\n", [(1, 1, "A"), (4, 4, "D")]),
        ("a", "a\n", []),
        ("a\n", "a\n", []),
    ],
)
def test_only_what_changes_is_replaced(
    before: str, after: str, found: list[tuple[int, int, str]]
) -> None:
    assert suggestions(before, after) == tuple(
        Suggestion(first, last, tuple(lines.split())) for first, last, lines in found
    )


def test_a_bound_is_a_suggestion() -> None:
    before = 'opam-version: "2.0"\ndepends: [\n  "lib"  # any\n]\ndepopts: "other"\n'
    user = Package("user", "2")
    after = bounded(before.encode(), user, Bound("lib", ">=", "3"))
    after = bounded(after, user, Bound("other", ">=", "4"))
    assert suggested(PATH, before, after.decode()) == (
        f"{PATH}, line 3:\n"
        '```suggestion\n  "lib" {>= "3"}  # any\n```\n'
        "\n"
        f"{PATH}, line 5:\n"
        '```suggestion\ndepopts: "other"\nconflicts: ["other" {< "4"}]\n```\n'
    )


def test_a_fence_is_longer_than_what_it_is_around() -> None:
    assert suggested("opam", "x", "````x``") == "opam, line 1:\n`````suggestion\n````x``\n`````\n"
