"""Keys of cached builds: everything that a build depends on changes them, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.build_keys import CachedBuild, PackageFiles, cached_builds

SOURCE = 'url { src: "https://example.org/a.tgz" checksum: "sha256=%s" }\n' % ("0" * 64)
Solution = dict[str, PackageFiles]


def package(
    depends: str = "", rest: str = SOURCE, files: PackageFiles | None = None
) -> PackageFiles:
    text = f'opam-version: "2.0"\ndepends: [{depends}]\n{rest}'
    return {"opam": text.encode(), **(files or {})}


def chain() -> Solution:
    return {
        "a.1": package(),
        "b.1": package('"a" {>= "1"}'),
        "c.1": package('"b" "ocaml"'),
        "d.1": package(),
    }


def builds(solution: Solution, surroundings: str = "here") -> dict[str, CachedBuild]:
    return {build.package: build for build in cached_builds(solution, surroundings)}


def changed(solution: Solution, surroundings: str = "here") -> set[str]:
    before, after = builds(chain()), builds(solution, surroundings)
    return {name for name in before if name not in after or before[name].key != after[name].key}


def test_a_build_needs_its_whole_closure_in_an_order_to_install_it() -> None:
    found = builds(chain())
    assert found["c.1"].needs == ("a.1", "b.1")
    assert found["a.1"].needs == found["d.1"].needs == ()
    assert list(found).index("a.1") < list(found).index("b.1") < list(found).index("c.1")
    assert len({build.key for build in found.values()}) == len(found)


def test_a_key_changes_with_all_that_the_build_is_made_from() -> None:
    everything = set(chain())
    assert changed(chain()) == set()
    assert changed(chain(), "elsewhere") == everything
    assert changed(chain() | {"a.1": package(rest=SOURCE + "# edited\n")}) == everything - {"d.1"}
    with_file = package(files={"files/fix.patch": b"one"})
    assert changed(chain() | {"b.1": with_file}) == {"b.1", "c.1"}
    other_source = package(rest=SOURCE.replace("0", "1"))
    assert changed(chain() | {"d.1": other_source}) == {"d.1"}


def test_an_added_file_and_a_changed_one_differ() -> None:
    keys = {
        builds({"a.1": package(files={"files/x": content})})["a.1"].key for content in (b"1", b"2")
    }
    assert len(keys) == 2


def test_another_version_of_a_dependency_is_another_build() -> None:
    solution = chain()
    solution["a.2"] = solution.pop("a.1")
    assert changed(solution) >= {"b.1", "c.1"}


@pytest.mark.parametrize(
    ("condition", "needed"),
    [
        ("", True),
        ("{build}", True),
        ('{with-test & >= "1"}', False),
        ("{with-test | with-doc}", False),
        ("{with-test | build}", True),
        ("{with-dev-setup}", False),
        ("{post}", False),
        ("{!post}", True),
        ("{!(!post)}", False),
        ('{os = "win32"}', True),
    ],
)
def test_filters_that_are_false_for_a_dependency_take_it_out(
    condition: str, *, needed: bool
) -> None:
    found = builds({"a.1": package(), "b.1": package(f'"a" {condition}')})
    assert (found["b.1"].needs == ("a.1",)) is needed


def test_optional_dependencies_count_where_the_solution_has_them() -> None:
    optional = package(rest=SOURCE + 'depopts: ["a"]\n')
    assert builds({"b.1": optional})["b.1"].needs == ()
    assert builds({"a.1": package(), "b.1": optional})["b.1"].needs == ("a.1",)


@pytest.mark.parametrize(
    "files",
    [
        package(rest='url { src: "https://example.org/a.tgz" }\n'),
        package(
            rest='url { src: "git+https://example.org/a.git" checksum: "md5=%s" }\n' % ("0" * 32)
        ),
        package(rest='extra-source "x" { src: "https://example.org/x" }\n'),
        {"opam": b'depends: ["unclosed'},
        package(rest="depopts: 3\n"),
        {},
    ],
)
def test_what_is_not_fixed_is_not_cached_nor_what_needs_it(files: PackageFiles) -> None:
    assert builds(chain() | {"b.1": files}).keys() == {"a.1", "d.1"}


def test_packages_that_need_one_another_are_left_out() -> None:
    solution = {"a.1": package('"b"'), "b.1": package('"a"'), "c.1": package('"b"')}
    assert builds(solution | {"d.1": package()}).keys() == {"d.1"}


@given(st.permutations(sorted(chain())))
def test_the_order_of_a_solution_does_not_matter(order: list[str]) -> None:
    assert cached_builds({name: chain()[name] for name in order}, "here") == cached_builds(
        chain(), "here"
    )


def test_what_needs_no_system_packages_is_the_same_whichever_there_are() -> None:
    with_depexts = b'opam-version: "2.0"\ndepexts: [["libfoo-dev"] {os-family = "debian"}]\n'
    over = b'opam-version: "2.0"\ndepends: ["conf-foo" "plain"]\n'
    solution = {
        "plain.1": {"opam": b'opam-version: "2.0"\n'},
        "conf-foo.1": {"opam": with_depexts},
        "over.1": {"opam": over},
    }
    one, other = (
        {build.package: build for build in cached_builds(solution, "here", system)}
        for system in ("libfoo", "libfoo, libbar")
    )
    assert {name for name, build in one.items() if build.plain} == {"plain.1"}
    assert one["plain.1"].key == other["plain.1"].key
    assert one["conf-foo.1"].key != other["conf-foo.1"].key
    assert one["over.1"].key != other["over.1"].key
