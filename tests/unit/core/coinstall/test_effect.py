"""What a change does to packages that it does not touch: small repositories, and all tiny ones."""

from collections.abc import Mapping
from itertools import chain, combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.coinstall.described import Assembled, Described, assemble, describe
from opam_ci.core.coinstall.effect import effect
from opam_ci.core.submission.effect import Effect, LostPackage

COMPILERS = {
    "ocaml-base-compiler.4.14.2": 'conflict-class: "ocaml-core-compiler"',
    "ocaml-base-compiler.5.4.0": 'conflict-class: "ocaml-core-compiler"',
    "ocaml.4.14.2": 'depends: ["ocaml-base-compiler" {= version}]',
    "ocaml.5.4.0": 'depends: ["ocaml-base-compiler" {= version}]',
}
RELEASES = ("5.4", "4.14")

Files = Mapping[str, str | None]


def assembled(files: Files) -> Assembled:
    found = [
        describe(package, f'opam-version: "2.0"\n{text}'.encode())
        for package, text in files.items()
        if text is not None
    ]
    return assemble(one for one in found if one is not None)


def changed(files: Files, change: Files) -> Effect:
    before = {**COMPILERS, **files}
    return effect(assembled(before), assembled({**before, **change}), RELEASES)


def lost(files: Files, change: Files) -> dict[str, tuple[str, ...]]:
    return {one.package: one.ocaml for one in changed(files, change).lost}


def needs(*depends: str) -> str:
    return f"depends: [{' '.join(depends)}]"


BOTH = ("5.4", "4.14")
LIB = {
    "lib.1": "",
    "lib.2": "",
    "user.1": needs('"lib" {>= "2"}', '"ocaml"'),
    "other.1": needs('"lib"'),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lib.2": None}, {"user.1": BOTH}),
        ({"lib.2": "available: false"}, {"user.1": BOTH}),
        ({"lib.2": needs('"missing"')}, {"user.1": BOTH}),
        ({"lib.2": needs('"ocaml" {< "5"}')}, {"user.1": ("5.4",)}),
        ({"lib.2": 'conflicts: "ocaml" {< "5"}'}, {"user.1": ("4.14",)}),
        ({"lib.2": 'conflicts: "ocaml" {>= "4" & < "5"}'}, {"user.1": ("4.14",)}),
        ({"lib.2": 'conflicts: "ocaml" {< "4" | >= "5"}'}, {"user.1": ("5.4",)}),
        ({"lib.2": 'conflict-class: "ocaml-core-compiler"'}, {"user.1": BOTH}),
        ({"lib.1": 'conflict-class: "ocaml-core-compiler"'}, {}),
        ({"lib.2": 'available: arch != "x86_64"'}, {"user.1": BOTH}),
        ({"lib.2": None, "lib.3": ""}, {}),
        ({"lib.2": needs('"missing" {with-test}')}, {}),
        ({"lib.2": 'synopsis: "another text"'}, {}),
        ({"lib.3": needs('"missing"')}, {}),
        ({"lib.1": None, "lib.2": None}, {"user.1": BOTH, "other.1": BOTH}),
        ({"ocaml.5.4.0": needs('"missing"')}, {"user.1": ("5.4",)}),
        ({"ocaml-base-compiler.5.4.0": needs('"missing"')}, dict.fromkeys(LIB, ("5.4",))),
    ],
)
def test_what_is_lost(change: Files, expected: dict[str, tuple[str, ...]]) -> None:
    expected = {name: on for name, on in expected.items() if name not in change}
    found = lost(LIB, change)
    assert {name: on for name, on in found.items() if name in LIB} == expected


def test_what_needs_it_over_others_is_lost_too() -> None:
    files = {**LIB, "far.1": needs('"user"')}
    assert lost(files, {"lib.2": None}) == {"user.1": BOTH, "far.1": BOTH}


def test_what_the_change_touches_itself_is_left_out() -> None:
    assert lost(LIB, {"lib.2": None, "user.1": needs('"lib" {>= "2"}', '"more"')}) == {}


def test_what_could_not_be_installed_before_is_left_out() -> None:
    assert lost({**LIB, "user.1": needs('"lib"', '"missing"')}, {"lib.1": None, "lib.2": None}) == {
        "other.1": BOTH
    }


def test_names_without_another_version_come_first() -> None:
    files = {
        "lib.1": "",
        "a.1": needs('"lib"'),
        "a.2": "",
        "b.1": needs('"lib"'),
        "b.2": needs('"ocaml" {< "5"}'),
        "c.1": needs('"lib"'),
        "c.2": needs('"lib"'),
    }
    assert changed(files, {"lib.1": None}).lost == (
        LostPackage(package="b.1", ocaml=BOTH, last_on=("5.4",)),
        LostPackage(package="c.1", ocaml=BOTH, last_on=BOTH),
        LostPackage(package="c.2", ocaml=BOTH, last_on=BOTH),
        LostPackage(package="a.1", ocaml=BOTH),
    )


def test_a_release_without_a_compiler_is_not_decided() -> None:
    found = effect(assembled({**COMPILERS, **LIB}), assembled(COMPILERS), ("5.3", "5.4"))
    assert found == Effect(ocaml=("5.4",))


def test_prereleases_count_for_themselves_alone() -> None:
    compilers = ["5.5.0~beta1", "5.5.0~rc1", "5.5.0"]
    files = {f"ocaml-base-compiler.{version}": "" for version in compilers}
    files |= {"lib.1": "", "user.1": needs('"lib"', '"ocaml-base-compiler" {= "5.5.0~beta1"}')}
    before = assembled(files)
    after = assembled({name: text for name, text in files.items() if name != "lib.1"})
    assert effect(before, after, ("5.5~beta1", "5.5")).lost == (
        LostPackage(package="user.1", ocaml=("5.5~beta1",), last_on=("5.5~beta1",)),
    )


@pytest.mark.parametrize(
    ("files", "cycle"),
    [
        ({"a.1": needs('"b"')}, ("a.1", "b.1", "a.1")),
        ({"a.1": needs('"b" {build}')}, ("a.1", "b.1", "a.1")),
        ({"a.1": needs('"b" {post}')}, None),
        ({"a.1": needs('"b" {with-test}')}, None),
        ({"a.1": needs('"b" | "c"')}, None),
        ({"a.1": needs('"b" | "missing"')}, ("a.1", "b.1", "a.1")),
        (
            {"a.1": needs('"d"'), "d.1": needs('"b"'), "d.2": needs('"b"')},
            ("a.1", "d.1", "b.1", "a.1"),
        ),
        ({"a.1": needs('"d"'), "d.1": needs('"b"'), "d.2": ""}, None),
        ({"a.1": needs('"a"')}, None),
        # b accepts no other version of a than one that is not there together with this one.
        ({"a.1": needs('"b"'), "a.2": ""}, ("a.1", "b.1", "a.1")),
        # Another b is a way out.
        ({"a.1": needs('"b"'), "b.2": ""}, None),
        ({"a.1": needs('"b"'), "b.2": "available: false"}, ("a.1", "b.1", "a.1")),
        ({"a.1": needs('"b" {= "2"}'), "b.2": needs('"a" {< "1"}')}, None),
    ],
)
def test_cycles(files: Files, cycle: tuple[str, ...] | None) -> None:
    before = {"a.1": "", "b.1": needs('"a"'), "c.1": ""}
    found = changed(before, files).cycles
    assert [each for each in found if each[0] == "a.1"] == ([] if cycle is None else [cycle])


def test_a_cycle_of_before_is_not_reported() -> None:
    files = {"a.1": needs('"b"'), "b.1": needs('"a"')}
    assert changed(files, {"a.1": needs('"b"', '"c"'), "c.1": ""}).cycles == ()
    assert changed({"b.1": needs('"a"')}, {"a.1": needs('"b"')}).cycles == (("a.1", "b.1", "a.1"),)


@pytest.mark.parametrize(
    ("opam", "expected"),
    [
        (needs('"b" {>= "1" & < "2"}'), Described(package="a.1", depends="b (>= 1) , b (< 2)")),
        (needs('"b" {= version}'), Described(package="a.1", depends="b (= 1)")),
        (needs('"b" {< "1" | > "2"}'), Described(package="a.1", depends="b (< 1) | b (> 2)")),
        (needs('"b" {os = "macos"}'), Described(package="a.1")),
        (needs('"b" {os = "linux" & post}'), Described(package="a.1", post="b")),
        (needs('"b" {with-test = "false"}'), Described(package="a.1", depends="b")),
        (needs('"b" | ("c" & "d")'), Described(package="a.1", depends="b | c , b | d")),
        (needs('"b" {?nothing & x = "1"}'), Described(package="a.1")),
        (needs('"b" {"%{x}%" = "1"}'), Described(package="a.1", available=False, certain=False)),
        ("available: os-distribution = nothing", Described(package="a.1", available=False)),
        ('conflicts: "b" {ocaml:version >= "5.0"}', Described(package="a.1")),
        (
            'conflicts: ["b" {>= "1" & < "2"} "c"]',
            Described(package="a.1", conflicts=("b (>= 1) , b (< 2)", "c")),
        ),
        ("depends: [", None),
    ],
)
def test_descriptions(opam: str, expected: Described | None) -> None:
    assert describe("a.1", f'opam-version: "2.0"\n{opam}'.encode()) == expected


@pytest.mark.parametrize(
    "opam",
    [
        # Each has a normal form of a thousand or a million clauses.
        needs(" | ".join(f'("a{n}" & "b{n}")' for n in range(20))),
        needs('"b" {' + " | ".join(f'(>= "{n}" & < "{n}.1")' for n in range(20)) + "}"),
        needs(*[" | ".join(f'("a{m}{n}" & "b")' for n in range(10)) for m in range(20)]),
    ],
)
def test_long_normal_forms_are_not_kept(opam: str) -> None:
    expected = Described(package="a.1", available=False, certain=False)
    assert describe("a.1", f'opam-version: "2.0"\n{opam}'.encode()) == expected


def test_packages_that_cannot_be_evaluated_are_counted() -> None:
    files = {"a.1": needs('"b" {"%{x}%" = "1"}'), "b.1": ""}
    assert changed(files, {"b.1": None}) == Effect(ocaml=BOTH, left_out=1)


def test_versions_that_opam_considers_equal_are_one_package() -> None:
    found = assembled({"a.1.00": needs('"missing"'), "a.1.0": "", "b.1": needs('"a"')})
    assert sorted(found.universe.index) == ["a.1.0", "b.1"]


# All tiny repositories

NAMES = ("a", "b", "c")
ALTERNATIVES = [(name, op) for name in NAMES for op in ("", "= 1", "= 2")]


def formula(alternatives: list[tuple[str, str]]) -> str:
    return (
        "("
        + " | ".join(
            f'"{name}"' + (f' {{{op[0]} "{op[2]}"}}' if op else "") for name, op in alternatives
        )
        + ")"
    )


@st.composite
def files(draw: st.DrawFn) -> dict[str, str]:
    found = {}
    for name, version in product(NAMES, "12"):
        if draw(st.integers(0, 5)) == 0:
            continue
        clauses = draw(
            st.lists(st.lists(st.sampled_from(ALTERNATIVES), min_size=1, max_size=2), max_size=2)
        )
        conflicts = draw(st.lists(st.sampled_from(ALTERNATIVES), max_size=1))
        text = needs(*map(formula, clauses))
        if conflicts:
            text += f"\nconflicts: {formula(conflicts)}"
        if draw(st.integers(0, 7)) == 0:
            text += "\navailable: false"
        found[f"{name}.{version}"] = text
    return found


def worlds(repository: Assembled) -> list[frozenset[int]]:
    """Finds all sets of packages that can be installed together, by trying all sets."""
    universe = repository.universe
    places = sorted(universe.available)
    sets = chain.from_iterable(combinations(places, size) for size in range(len(NAMES) + 1))
    found = []
    for some in map(frozenset, sets):
        names = [universe.packages[place][0] for place in some]
        if len(set(names)) == len(names) and all(
            all(any(each & some for _, each in clause) for clause in universe.depends[place])
            and not any(
                each & (some - {place})
                for clause in universe.conflicts[place]
                for name, each in clause
                if name != universe.packages[place][0]
            )
            for place in some
        ):
            found.append(some)
    return found


def installable(repository: Assembled) -> set[str]:
    return {repository.universe.name(place) for some in worlds(repository) for place in some}


@settings(max_examples=150)
@given(files(), files())
def test_what_is_lost_is_what_no_set_of_packages_has(
    before: dict[str, str], after: dict[str, str]
) -> None:
    # Half of the packages do not change.
    after |= {name: text for name, text in before.items() if name[0] in "ac"}
    old, new = assembled(before), assembled(after)
    compiler = {"ocaml-base-compiler.5.4.0": ""}
    found = effect(assembled({**before, **compiler}), assembled({**after, **compiler}), ("5.4",))
    unchanged = {name for name in before.keys() & after.keys() if before[name] == after[name]}
    expected = (installable(old) - installable(new)) & unchanged
    assert {one.package for one in found.lost} == expected
    left = {name.partition(".")[0] for name in installable(new)}
    assert {one.package for one in found.lost if one.last_on} == {
        name for name in expected if name.partition(".")[0] not in left
    }


@settings(max_examples=150)
@given(files())
def test_no_set_of_packages_avoids_a_cycle(after: dict[str, str]) -> None:
    after = {name: text.partition("\nconflicts")[0] for name, text in after.items()}
    new = assembled(after)
    cycles = effect(assembled({}), new, ()).cycles
    for cycle in cycles:
        place = new.universe.index[cycle[0]]
        for some in worlds(new):
            if place in some:
                assert place in reached(new, place, some)


def reached(repository: Assembled, package: int, some: frozenset[int]) -> set[int]:
    """Finds what a package needs, over any number of steps, in a set of packages."""
    found: set[int] = set()
    todo = [package]
    while todo:
        place = todo.pop()
        for clause in repository.built_with[place]:
            needed = frozenset().union(*(places for _, places in clause)) & some
            if place not in needed:
                todo += needed - found
                found |= needed
    return found
