"""Which regressions are confirmed, and the patch with the bounds that are missing."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opam_ci.core.jobs.outcome import (
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    OnBase,
    Outcome,
    Passed,
    Reused,
)
from opam_ci.core.pages.bounds import (
    BoundsPatch,
    Regression,
    bounded_file,
    by_revdep,
    is_confirmed,
)

PASSED = Passed(evidence=Evidence(rule="r"))
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def failed(line: str = "Error: no Lib.f", on_base: OnBase | None = None) -> Failed:
    lines = (LogLine(offset=0, text=line),)
    evidence = Evidence(rule="r", lines=lines, on_base=on_base)
    return Failed(reason=FailureReason.BUILD, evidence=evidence)


BROKEN = failed(on_base=OnBase.PASSES)


@pytest.mark.parametrize(
    ("outcome", "attempts", "expected"),
    [
        (BROKEN, [failed(), failed()], True),
        (BROKEN, [failed()], False),
        (BROKEN, [], False),
        # A flaky one, or two failures.
        (BROKEN, [failed(), PASSED, failed()], False),
        (BROKEN, [failed(), failed("Error: no space left")], False),
        # Without the change it fails as well, or what it comes to is not known (yet).
        (failed(on_base=OnBase.FAILS), [failed(), failed()], False),
        (failed(on_base=OnBase.UNKNOWN), [failed(), failed()], False),
        (failed(on_base=OnBase.NOT_BUILT), [failed(), failed()], False),
        (failed(), [failed(), failed()], False),
        (PASSED, [PASSED, PASSED], False),
    ],
)
def test_what_is_confirmed(outcome: Outcome, attempts: list[Outcome], expected: bool) -> None:
    assert is_confirmed(outcome, attempts) == expected


def test_a_verdict_that_holds_for_others_is_confirmed() -> None:
    reused = Reused(
        repository="o/r", number=1, branch=None, head="a", opened_at=NOON, round=1, attempt=1,
        ended_at=NOON,
    )  # fmt: skip
    evidence = BROKEN.evidence.model_copy(update={"reused": reused})
    taken = BROKEN.model_copy(update={"evidence": evidence})
    # Those on which it rests may be deleted by now.
    assert is_confirmed(taken, [])
    assert is_confirmed(taken, [failed()])
    assert not is_confirmed(taken, [PASSED])


def regression(package: str, revdep: str = "user.2", log: str = "l") -> Regression:
    return Regression(package=package, revdep=revdep, log=log)


TEXT = 'opam-version: "2.0"\ndepends: [\n  "lib"\n  "ppx" {>= "1"}\n]\n'


def test_one_file_has_all_bounds() -> None:
    found = [regression(each) for each in ("lib.10", "ppx.3", "lib.9", "lib.9.1")]
    file = bounded_file("user.2", found, TEXT)
    assert (file.bounds, file.problem) == (("lib < 9", "ppx < 3"), "")
    assert '+  "lib" {< "9"}\n+  "ppx" {>= "1" & < "3"}\n' in file.patch
    assert file.patch.startswith(
        "--- a/packages/user/user.2/opam\n+++ b/packages/user/user.2/opam\n"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "its opam file is not stored (any more): restart its job"),
        ('depends: "other"', "user.2 does not depend on lib itself"),
        ('depends: "lib" {< "1"}', "its opam file has that bound"),
        ('depends: "lib" {= "9"}', "user.2 allows no version of lib < 9 even now"),
        ("depends: ]", "the opam file of user.2 cannot be read: Parse error"),
    ],
)
def test_why_there_is_no_patch(text: str, problem: str) -> None:
    file = bounded_file("user.2", [regression("lib.9")], text)
    assert (file.patch, file.bounds) == ("", ("lib < 9",))
    assert file.problem.startswith(problem)


def test_regressions_are_collected_by_reverse_dependency() -> None:
    one, two, three = regression("a.1", "x.1"), regression("a.1", "w.1"), regression("b.1", "x.1")
    assert by_revdep([one, two, three]) == [("w.1", [two]), ("x.1", [one, three])]


def test_git_applies_the_patch_of_a_head(tmp_path: Path) -> None:
    names = ("user.2", "wrong.1", "other.1")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in names:
        path = tmp_path / f"packages/{name.partition('.')[0]}/{name}/opam"
        path.parent.mkdir(parents=True)
        path.write_text(TEXT)
    # A hostile file, whose error would be cited as a line of the patch.
    hostile = "depends: \x0b\n--- a/packages/user/user.2/opam"
    texts = {"user.2": TEXT, "wrong.1": hostile, "other.1": TEXT}
    files = [bounded_file(name, [regression("lib.9", name)], texts[name]) for name in names]
    patch = BoundsPatch(files=tuple(files), more=2)
    remarks = patch.text.partition("---")[0].splitlines()
    assert [line[0] for line in remarks] == ["#", "#"]
    assert remarks[1] == "# not in this patch, but broken as well: 2"
    command = ["git", "-C", str(tmp_path), "apply", "-"]
    subprocess.run(command, input=patch.text.encode(), check=True)
    for name in ("user", "other"):
        (path,) = (tmp_path / f"packages/{name}").glob("*/opam")
        assert path.read_text() == TEXT.replace('"lib"', '"lib" {< "9"}')


def test_a_remark_is_one_line() -> None:
    file = bounded_file("user.2", [regression("lib.9")], "").model_copy(
        update={"problem": "cited: \n--- a/x\r+++ b/x"}
    )
    assert len(BoundsPatch(files=(file,)).text.splitlines()) == 1


def test_a_patch_without_regressions_says_so() -> None:
    assert BoundsPatch().text == "# No regression of a reverse dependency is confirmed.\n"
