"""What depends on a package and can be installed with it: small universes, and all tiny ones."""

from collections.abc import Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.core.coinstall import dependents, post, universe, worlds
from opam_ci.core.coinstall.answer import Answers, Dumps, answer
from opam_ci.core.coinstall.universe import DumpError
from opam_ci.core.coinstall.worlds import UnprovenError

VARIABLES = """
<><> Global opam variables ><><>
arch              x86_64           # Inferred from system
exe                                # Suffix needed for executable filenames (Windows)
os                linux            # Inferred from system
sys-ocaml-version                  # OCaml version present on your system
<><> Package variables ><><>
PKG:name       # Name of the package
"""

Fields = Mapping[str, Mapping[str, str]]


def dump(packages: Fields) -> str:
    paragraphs = []
    for package, fields in packages.items():
        name, _, version = package.partition(".")
        lines = {"package": name, "version": version, "available": "true", **fields}
        lines["conflicts"] = " , ".join(filter(None, [name, fields.get("conflicts")]))
        paragraphs.append("".join(f"{key}: {value}\n" for key, value in lines.items() if value))
    return "\n".join(paragraphs)


def ask(
    packages: Fields,
    *,
    tests: Fields | None = None,
    table: str = "# Package|||# Depends\n",
    invariant: str = "[]",
    package: str = "lib.1",
) -> Answers:
    return answer(
        package,
        Dumps(
            universe=dump(packages),
            universe_with_tests=dump({**packages, **(tests or {})}),
            post=table,
            invariant=invariant,
            variables=VARIABLES,
        ),
    )


def test_each_query_has_its_own_candidates() -> None:
    found = ask(
        {
            "lib.1": {},
            "direct.1": {"depends": "lib"},
            "far.1": {"depends": "direct"},
            "maybe.1": {"recommends": "lib (>= 1)"},
            "tested.1": {},
            "other.1": {},
        },
        tests={"tested.1": {"depends": "lib"}},
    )
    assert found == Answers(
        direct=("direct.1", "maybe.1"),
        recursive=("direct.1", "far.1"),
        testing=("direct.1", "maybe.1", "tested.1"),
        dependents={"direct": 1},
    )


def test_dependents_are_counted_by_name() -> None:
    found = ask(
        {
            "lib.1": {},
            "some.1": {"depends": "lib"},
            "some.2": {"depends": "lib , some (>= 1)"},
            "a.1": {"depends": "some"},
            "a.2": {"depends": "some (= 2) | lib"},
            "b.1": {"depends": "some"},
        },
        tests={"tested.1": {"depends": "lib"}, "c.1": {"depends": "tested | some"}},
    )
    # Versions count once, and a name is not its own dependent.
    assert found.dependents == {"some": 3, "tested": 1}


@pytest.mark.parametrize(
    ("depends", "counts"),
    [
        ("lib", True),
        ("lib (= 1)", True),
        ("lib (!= 1)", False),
        ("lib (>= 1) , lib (< 2)", True),
        ("lib (> 1)", False),
        ("lib (< 1.0)", True),
        ("lib (<= 1~beta)", False),
        ("lib (> 1~beta)", True),
        ("lib | other", True),
        ("lib (> 1) | other", False),
        # A binding constraint counts more than a choice.
        ("lib (> 1) , lib | other", False),
    ],
)
def test_versions_are_opams(depends: str, *, counts: bool) -> None:
    found = ask({"lib.1": {}, "lib.2": {}, "other.1": {}, "user.1": {"depends": depends}})
    assert found.direct == (("user.1",) if counts else ())


def test_what_cannot_be_together_is_left_out() -> None:
    found = ask(
        {
            "lib.1": {"conflicts": "enemy"},
            "lib.2": {},
            "enemy.1": {},
            "new.1": {"depends": "lib"},
            "needs-enemy.1": {"depends": "lib , enemy"},
            "enemy-or-not.1": {"depends": "lib , enemy | new"},
            "needs-newer.1": {"depends": "lib , wants-two"},
            "wants-two.1": {"depends": "lib (= 2)"},
            "missing.1": {"depends": "lib , nowhere"},
            "hates.1": {"depends": "lib", "conflicts": "new (< 2)"},
            "hates-what-it-needs.1": {"depends": "lib , new", "conflicts": "new"},
            "gone.1": {"depends": "lib", "available": "false"},
        }
    )
    assert found.direct == ("enemy-or-not.1", "hates.1", "new.1")


def test_versions_of_one_package_exclude_each_other() -> None:
    found = ask(
        {
            "lib.1": {},
            "base.1": {},
            "base.2": {},
            "old.1": {"depends": "lib , base (= 1)"},
            "new.1": {"depends": "lib , base (= 2)"},
            "both.1": {"depends": "lib , old , new"},
        }
    )
    assert found.direct == ("new.1", "old.1")


def test_the_invariant_holds_in_every_world() -> None:
    packages = {
        "lib.1": {},
        "ocaml-system.5.3.0": {"conflicts": "ocaml-variants"},
        "ocaml-variants.5.3.0": {"conflicts": "ocaml-system"},
        "good.1": {"depends": "lib , ocaml-system"},
        "bad.1": {"depends": "lib , ocaml-variants"},
    }
    assert ask(packages, invariant='["ocaml-system" {>= "5"}]').direct == ("good.1",)
    assert ask(packages, invariant="[]").direct == ("bad.1", "good.1")
    assert ask(packages, invariant='["ocaml-system" {>= "6"}]').direct == ()


def test_a_candidate_that_is_not_available_serves_those_of_its_own_query() -> None:
    # opam puts all candidates of a query into the universe and filters the answer.
    found = ask(
        {
            "lib.1": {},
            "hidden.1": {"depends": "lib", "available": "false"},
            "over.1": {"depends": "lib , hidden"},
            "maybe.1": {"depends": "hidden-maybe", "recommends": "lib"},
            "hidden-maybe.1": {"recommends": "lib", "available": "false"},
            "far.1": {"depends": "lib , hidden-maybe"},
        }
    )
    assert found.direct == ("far.1", "maybe.1", "over.1")
    assert found.recursive == ("over.1",)


def test_a_package_that_is_not_available_is_there_all_the_same() -> None:
    found = ask({"lib.1": {"available": "false"}, "user.1": {"depends": "lib"}})
    assert found.direct == ("user.1",)


def test_what_is_installed_but_not_available_is_not_a_dependency() -> None:
    broken = {"available": "false", "installed": "true", "depends": "lib"}
    packages = {"lib.1": {}, "old.1": broken, "user.1": {"depends": "lib , old"}}
    assert ask(packages).direct == ()


POST = """# Packages matching: depends-match(*post*)
# Package   |||# Depends
"""


@pytest.mark.parametrize(
    ("field", "dumped", "possible"),
    [
        ('["lib" "enemy" {post}]', "lib", False),
        ('["lib" "friend" {post & >= "1"}]', "lib", True),
        ('["lib" "friend" {post & >= "2"}]', "lib", False),
        ('["lib" ("enemy" {post} | "friend")]', "lib , friend", True),
        ('["lib" "enemy" {post & os = "win32"}]', "lib", True),
        ('["lib" "enemy" {post & ? strange & strange}]', "lib", True),
        ('["lib" "enemy" {post & with-test}]', "lib", True),
        ('["lib" {= version} "enemy" {post & dev}]', "lib (= 1)", None),
        ('["lib" "enemy" {post & foo:installed}]', "lib", None),
        # What is printed is not what the dump has: not opam's own reading.
        ('["lib" "enemy" {post}]', "lib , friend", None),
        ("nonsense [", "lib", None),
    ],
)
def test_what_is_needed_afterwards_counts(
    field: str, dumped: str, *, possible: bool | None
) -> None:
    packages = {
        "lib.1": {"conflicts": "enemy"},
        "enemy.1": {},
        "friend.1": {},
        "user.1": {"depends": dumped},
    }
    table = f"{POST}user.1   |||{field}\nnobody.1|||[]\n"
    if possible is None:
        with pytest.raises(UnprovenError, match=r"user\.1"):
            ask(packages, table=table)
    else:
        assert ask(packages, table=table).direct == (("user.1",) if possible else ())


def test_what_is_not_known_does_not_matter_where_it_cannot_be() -> None:
    found = ask(
        {
            "lib.1": {"conflicts": "strange"},
            "strange.1": {"depends": "lib"},
            "user.1": {"depends": "lib"},
        },
        table=f"{POST}strange.1|||nonsense [\n",
    )
    assert found.direct == ("user.1",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no field at all\n",
        "package: a\n",
        "package: a\nversion: 1\n\npackage: a\nversion: 1\n",
        "package: lib\nversion: 1\ndepends: a (~ 2)\n",
        "package: lib\nversion: 1\ndepends:  | a\n",
        "package: lib\nversion: 1\npinned: true\n",
        "package: other\nversion: 1\n",
    ],
)
def test_nonsense_is_not_answered(text: str) -> None:
    with pytest.raises(DumpError):
        answer("lib.1", Dumps(text, text, POST, "[]", VARIABLES))


def test_an_invariant_or_table_of_nonsense_is_refused() -> None:
    packages = {"lib.1": {}, "user.1": {"depends": "lib"}}
    with pytest.raises(DumpError, match="invariant"):
        ask(packages, invariant="No switch is set")
    with pytest.raises(DumpError, match="table"):
        ask(packages, table="[ERROR] all is lost\n")


def test_variables_are_those_of_opam() -> None:
    found = post.read_variables(VARIABLES)
    assert found.values == {"arch": "x86_64", "os": "linux"}
    assert found.defined == {"arch", "exe", "os", "sys-ocaml-version"}


# Against brute force

NAMES = ("a", "b", "c", "lib")
PLACES = [f"{name}.{version}" for name in NAMES for version in ("1", "2")]
ATOM = st.builds(
    "{}{}".format,
    st.sampled_from(NAMES),
    st.sampled_from(["", " (= 1)", " (= 2)", " (> 1)", " (> 2)", " (!= 2)", " (<= 1)"]),
)
FORMULA = st.lists(st.lists(ATOM, min_size=1, max_size=2).map(" | ".join), max_size=2).map(
    " , ".join
)
PACKAGE = st.fixed_dictionaries(
    {
        "depends": FORMULA,
        "recommends": FORMULA,
        "conflicts": st.lists(ATOM, max_size=1).map(" , ".join),
        "available": st.sampled_from(["true", "true", "false"]),
    }
)
UNIVERSE = st.fixed_dictionaries(dict.fromkeys(PLACES, PACKAGE))


def brute_force(problem: worlds.Problem) -> list[frozenset[int]]:
    packages = problem.universe
    everything = range(len(packages.packages))

    def holds(world: set[int], clauses: universe.Clauses) -> bool:
        return all(any(world & places for _, places in clause) for clause in clauses)

    def excluded(world: set[int], place: int) -> bool:
        name = packages.packages[place][0]
        return any(
            world & (places - {place})
            for clause in packages.conflicts[place]
            for _, places in clause
        ) or any(packages.packages[o][0] == name for o in world - {place})

    def possible(world: set[int]) -> bool:
        return (
            problem.package in world
            and holds(world, problem.invariant)
            and all(holds(world, problem.depends[place]) for place in world)
            and not any(excluded(world, place) for place in world)
        )

    chosen: Sequence[tuple[bool, ...]] = list(product((False, True), repeat=len(everything)))
    all_worlds = [{p for p in everything if row[p]} for row in chosen]
    good = [world for world in all_worlds if possible(world)]
    found = []
    for question in problem.questions:
        usable = packages.available | question | {problem.package}
        reachable = set().union(*(world for world in good if world <= usable))
        found.append(frozenset(reachable & question & packages.available))
    return found


@settings(max_examples=150)
@given(packages=UNIVERSE, invariant=st.lists(ATOM, max_size=1).map(" , ".join))
def test_tiny_universes_are_decided_as_by_brute_force(packages: Fields, invariant: str) -> None:
    read, atoms = universe.parse(dump(packages))
    place = read.index["lib.1"]
    problem = worlds.Problem(
        universe=read,
        depends=read.depends,
        uncertain=frozenset(),
        package=place,
        invariant=atoms.clauses(invariant),
        questions=[
            dependents.direct(read, place) - {place},
            dependents.recursive(read, place) - {place},
        ],
    )
    assert worlds.coinstallable(problem) == brute_force(problem)
