"""Why a package cannot be installed, in one line.

The causes are what opam 2.3.0 with its builtin solver wrote for packages made for the purpose; a
chain without the package itself is of opam 2.1.2.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.opam.explanation import (
    LIMIT,
    explain,
    explain_refusal,
    lacks_system_package,
    rests_on_hidden,
)

_NO_DEPEXT = (
    "depends on the unavailable system packages 'no-x' and 'no-y'. Use `--no-depexts' to "
    "attempt installation anyway, or it is possible that a depext package name in the opam "
    "file is incorrect."
)
_RELAX = "You can temporarily relax the switch invariant with `--update-invariant'"


@pytest.mark.parametrize(
    ("own", "cause", "line"),
    [
        (
            "zzz.1",
            "Missing dependency:\n- zzz → this-package-does-not-exist\nunknown package",
            "zzz.1 needs this-package-does-not-exist: no such package",
        ),
        (
            "zzz.1",
            "Missing dependency:\n- this-package-does-not-exist\nunknown package",
            "zzz.1 needs this-package-does-not-exist: no such package",
        ),
        (
            "zzz.1",
            "Missing dependency:\n- zzz >= 1 -> foo >= 9\nno matching version",
            "zzz.1 needs foo >= 9: no such version",
        ),
        (
            "zzz.1",
            "Missing dependency:\n- zzz → winonly\nunmet availability conditions: 'os = \"win32\"'",
            'zzz.1 needs winonly: not available here (available: os = "win32")',
        ),
        (
            "zzz.1",
            (
                f"Incompatible packages:\n- (invariant) → ocaml-system\n"
                f"- zzz → ocaml < 5.0 → ocaml-base-compiler\n{_RELAX}"
            ),
            "zzz.1 needs ocaml < 5.0, and the compiler here is ocaml-system",
        ),
        (
            "zzz.1",
            "No agreement on the version of foo:\n- zzz → bar → foo >= 6\n- zzz → baz → foo < 6",
            "zzz.1 needs bar → foo >= 6 and baz → foo < 6",
        ),
        (
            "zzz.1",
            "Incompatible packages:\n- zzz → clash\n- zzz → foo",
            "zzz.1 needs clash and foo, which exclude each other",
        ),
        (
            "zzz.1",
            "Incompatible packages:\n- zzz → foo\n- zzz",
            "zzz.1 needs foo, and zzz.1 conflicts with it",
        ),
        (
            "zzz.1",
            f"Missing dependency:\n- zzz → dx\n{_NO_DEPEXT}",
            "zzz.1 needs dx: it needs the system packages no-x and no-y, which do not exist here",
        ),
        (
            "zzz.1",
            "Missing dependency:\n- zzz → foo >= 9 | nope1\nno matching version\nunknown package",
            "zzz.1 needs foo >= 9 (no such version) or nope1 (no such package)",
        ),
        (
            "zzz.1",
            "Missing dependency:\n- zzz → a → b → c → d → e >= 7\nno matching version",
            "zzz.1 needs a → b → … → d → e >= 7: no such version",
        ),
        # Shapes that no opam is known to write.
        ("zzz.1", "Something new:\n  and\nmore", "Something new: and more"),
        ("zzz.1", "Missing dependency:\n- zzz → foo", "Missing dependency: - zzz → foo"),
    ],
)
def test_the_shapes_of_the_solver(own: str, cause: str, line: str) -> None:
    assert explain(own, (cause,)) == line


def test_the_cause_of_the_package_itself_is_shown_and_the_others_are_counted() -> None:
    other = "Missing dependency:\n- other → nope\nunknown package"
    own = "Missing dependency:\n- zzz → foo >= 9\nno matching version"
    line = explain("zzz.1", (other, own, "?"))
    assert line == "zzz.1 needs foo >= 9: no such version (and 2 more)"


def test_a_package_that_a_mirror_hides_is_not_reported_as_missing() -> None:
    cause = "Missing dependency:\n- zzz → foo | bar >= 2\nunknown package\nno matching version"
    assert explain("zzz.1", (cause,), hidden=("foo", "bar")) == (
        "zzz.1 needs foo (not in the offline mirror) or bar >= 2 (no such version in the "
        "offline mirror)"
    )

    # Another lib is hidden, and what this one needs is nowhere.
    cause = "Missing dependency:\n- zzz → lib → foo\nunknown package"
    assert explain("zzz.1", (cause,), hidden=("lib",)) == "zzz.1 needs lib → foo: no such package"


@pytest.mark.parametrize(
    ("line", "explanation"),
    [
        (
            "[ERROR] zzz = 1: unmet availability conditions: 'os = \"win32\"'",
            'zzz.1 is not available here (available: os = "win32")',
        ),
        (
            (
                "[ERROR] Package zzz.1 depends on the unavailable system package 'no-x'. You can "
                "use `--no-depexts' to attempt installation anyway."
            ),
            "zzz.1 needs the system package no-x, which does not exist here",
        ),
        (
            "E: Unable to locate package libfoo-dev",
            "zzz.1 needs the system package libfoo-dev, which does not exist here",
        ),
        ("[ERROR] No package named zzz found.", None),
    ],
)
def test_refusals_without_the_solver(line: str, explanation: str | None) -> None:
    assert explain_refusal("zzz.1", line) == explanation


def test_a_system_package_is_distinguished_from_an_opam_package() -> None:
    assert lacks_system_package(_NO_DEPEXT)
    assert not lacks_system_package("Missing dependency:\n- zzz → foo\nunknown package")


@pytest.mark.parametrize(
    ("cause", "hidden"),
    [
        ("Missing dependency:\n- zzz → foo\nunknown package", ("foo",)),
        ("Missing dependency:\n- zzz → foo >= 2\nno matching version", ("foo",)),
        ("Missing dependency:\n- zzz → foo >= 9\nno matching version", ()),
        ("Missing dependency:\n- zzz → nope\nunknown package", ()),
        # Another bar, which is hidden, may not need what this one needs.
        ("Missing dependency:\n- zzz → bar → nope\nunknown package", ("bar",)),
        ("Incompatible packages:\n- (invariant) → ocaml-system\n- zzz → ocaml < 5.0", ()),
        ("Missing dependency:\n- zzz → nope | foo = 2\nunknown package", ("foo",)),
        ("Something new about foo and bar", ("bar", "foo")),
    ],
)
def test_what_rests_on_a_mirror(cause: str, hidden: tuple[str, ...]) -> None:
    packages = ("foo.2", "bar.1", "zzz.2", "ocaml-system.4.14.1", "ocaml.4.14.1")
    assert rests_on_hidden("zzz.1", (cause,), packages) == hidden


_WORDS = st.sampled_from(
    (
        *("Missing dependency:", "Incompatible packages:", "No agreement on the version of x:"),
        *("- ", "\n", "zzz", " → ", " -> ", " | ", "(invariant)", "ocaml", " < 5"),
        *("unknown package", "é\x1b[31m", "unmet availability conditions: '", "'"),
        *("unavailable system package '", "x" * 500),
    )
)


@given(st.lists(st.lists(_WORDS, max_size=30).map("".join) | st.text(), min_size=1, max_size=5))
def test_no_shape_crashes_or_needs_two_lines(causes: list[str]) -> None:
    line = explain("zzz.1", causes)
    assert len(line) <= LIMIT
    assert line.isprintable()
    rests_on_hidden("zzz.1", causes, ("x.1", "zzz.1"))
    explain_refusal("zzz.1", causes[0])


@pytest.mark.parametrize("part", ["- zzz", " → a", "\n- ", " | ", "'", ", 'x'"])
def test_a_huge_cause_costs_little(part: str) -> None:
    cause = "Missing dependency:\n" + part * 20_000
    assert len(explain("zzz.1", [cause] * 50)) <= LIMIT
