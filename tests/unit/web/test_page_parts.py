"""Addresses, the layout of the matrix, numbers and images of pages."""

from collections.abc import Sequence
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.summary import Counts, Standing, State
from opam_ci.core.pages.filter import parse_filter
from opam_ci.core.pages.model import Cell, Matrix, MatrixColumn, MatrixRow
from opam_ci.core.text.durations import seconds
from opam_ci.web import matrix
from opam_ci.web.addresses import job_id, job_name, job_path, target_path
from opam_ci.web.badge import badge
from opam_ci.web.formats import byte_count, code_spans, duration, several, thousands
from opam_ci.web.glyphs import GLYPHS, STATES
from opam_ci.web.head_pages import shares

PLATFORMS = [f"debian-{number}/amd64" for number in range(65)]
KINDS = (JobKind.BUILD, JobKind.TEST)


def test_a_jobs_address_is_readable() -> None:
    job = Job(platform="debian-13-ocaml-5.3/amd64", package="cppo.1.8.0", kind=JobKind.BUILD)
    head = target_path("ocaml/opam-repository", "pull/30203")
    assert job_path(head, job.id) == (
        "/ocaml/opam-repository/pull/30203/job/build,debian-13-ocaml-5.3@amd64,cppo.1.8.0"
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_job_has_an_address_of_its_own(job: str) -> None:
    assert job_id(job_name(job)) == job
    assert "/" not in job_name(job)


@pytest.mark.parametrize("name", ["a b", "a/b", "%", "%zz", "%41", "%ff", "%2c"])
def test_another_spelling_is_not_an_address(name: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        job_id(name)


def matrix_of(packages: Sequence[str], *, failed: tuple[str, int] | None = None) -> Matrix:
    """Returns a matrix in which all passed, but one cell: of a package, in a column."""
    columns = [MatrixColumn(platform=each, kind=kind) for each in PLATFORMS for kind in KINDS]
    passed = Cell(standing=Standing.PASSED, number=1, total=1, job="j", filter="f")
    wrong = passed.model_copy(update={"standing": Standing.FAILED})
    rows = [
        MatrixRow(
            package=package,
            worst=Standing.PASSED,
            cells=tuple(wrong if (package, at) == failed else passed for at in range(len(columns))),
            filter=f"package:{package}",
        )
        for package in packages
    ]
    return Matrix(columns=tuple(columns), rows=tuple(rows))


def test_few_packages_have_a_table_each_of_the_platforms_where_something_failed() -> None:
    first, second = matrix.tables(matrix_of(["a.1", "b.1"], failed=("a.1", 3)))
    assert (first.package, first.columns, first.green) == ("a.1", ("build", "test"), 64)
    assert [line.name for line in first.lines] == [PLATFORMS[1]]
    assert parse_filter(first.lines[0].filter).platforms == (PLATFORMS[1],)
    assert (second.lines, second.green) == ((), 65)


def test_many_packages_share_a_table_with_a_cell_for_each_platform() -> None:
    packages = [f"p{number}.1" for number in range(100)]
    (table,) = matrix.tables(matrix_of(packages, failed=("p0.1", 3)))
    assert table.package is None
    assert len(table.columns) == 65
    assert (len(table.lines), table.more) == (30, 70)
    cell = table.lines[0].cells[1]
    assert cell is not None
    assert (cell.standing, cell.number, cell.total, cell.job) == (Standing.FAILED, 1, 2, None)


def test_many_packages_in_few_columns_share_a_table_with_all_of_them() -> None:
    whole = matrix_of([f"p{number}.1" for number in range(5)])
    rows = tuple(row.model_copy(update={"cells": row.cells[:4]}) for row in whole.rows)
    (table,) = matrix.tables(Matrix(columns=whole.columns[:4], rows=rows, green=7))
    assert table.columns[:2] == (f"build {PLATFORMS[0]}", f"test {PLATFORMS[0]}")
    assert (len(table.lines), table.green, table.is_dense) == (5, 7, False)


def test_narrow_screens_get_a_list_of_what_did_not_pass() -> None:
    assert matrix.exceptions(matrix_of(["a.1"])) == ()
    (found,) = matrix.exceptions(matrix_of(["a.1"], failed=("a.1", 3)))
    assert (found.package, found.place) == ("a.1", f"test {PLATFORMS[1]}")


def test_no_two_standings_look_alike_without_colours() -> None:
    for glyphs in (GLYPHS, STATES):
        assert len({each.sign for each in glyphs.values()}) == len(glyphs)
        assert len({each.letter for each in glyphs.values()}) == len(glyphs)
    assert set(GLYPHS) == set(Standing)


def test_the_bar_is_full_and_its_parts_are_lists() -> None:
    found = shares(Counts(failed=1, passed=2, queued=3))
    assert [(each.name, each.number) for each in found] == [
        ("failed", 1),
        ("queued", 3),
        ("passed", 2),
    ]
    assert sum(each.width for each in found) == pytest.approx(100, abs=0.01)
    wanted = parse_filter(found[0].filter)
    assert wanted.standings == (Standing.FAILED,)
    assert JobKind.LINT not in wanted.kinds
    assert shares(Counts()) == ()


def test_numbers_are_written_for_people() -> None:
    assert [seconds(each) for each in (0.04, 59, 61.2, 7260)] == [
        "0.0 s", "59.0 s", "1 min 1 s", "2 h 1 min"
    ]  # fmt: skip
    assert duration(timedelta(seconds=-1)) == "0.0 s"
    assert [byte_count(each) for each in (0, 1023, 2048, 5 << 20, 3 << 30)] == [
        "0 bytes", "1023 bytes", "2.0 KiB", "5.0 MiB", "3.0 GiB"
    ]  # fmt: skip
    assert thousands(1234567) == "1\u202f234\u202f567"
    assert several(["a", "b", "c"]) == "a, b, c"
    assert code_spans("a `b<` c") == "a <code>b&lt;</code> c"
    assert several(list("abcde")) == "a, b, c and 2 more"


@pytest.mark.parametrize("state", State)
def test_a_badge_is_an_image_that_says_the_state(state: State) -> None:
    root = ET.fromstring(badge(state))  # noqa: S314 - ours
    assert root.attrib["aria-label"].startswith("opam-ci: ")
    width = int(root.attrib["width"])
    assert sum(int(each.attrib["width"]) for each in root.findall("{*}rect")) == width
