"""Which packages most others depend on, and in which version they are built."""

import pytest

from opam_ci.core.opam.package import Package
from opam_ci.core.reuse.popular import most_needed, newest_first, unchanged
from opam_ci.core.reuse.reach import References


def names(*always: str, tested: tuple[str, ...] = ()) -> References:
    return References(always=frozenset(always), tested=frozenset(tested))


def test_those_come_first_that_most_packages_name() -> None:
    named = {
        "dune": names("ocaml"),
        "ocaml": names(),
        "lwt": names("dune", "lwt", "gone"),
        "fmt": names("dune", tested=("alcotest",)),
        "alcotest": names("dune", "fmt"),
        "alone": names("ocaml"),
    }
    # Itself does not count, nor what is not there; of equals, the one that comes first by name.
    assert most_needed(named) == ["dune", "ocaml", "alcotest", "fmt"]


def test_versions_are_ordered_as_opam_orders_them() -> None:
    found = newest_first(["a.1.10", "a.1.9", "a.2~beta", "a.2", "a.$", "nothing"])
    assert [each.version for each in found] == ["2", "2~beta", "1.10", "1.9"]


@pytest.mark.parametrize(
    "body",
    [
        "flags: avoid-version",
        "flags: [deprecated]",
        "flags: compiler",
        'tags: "flags:deprecated"',
        "available: false",
        "depends: [",
        'depends: "a" {= }',
        "build: 5",
    ],
)
def test_what_nobody_installs_unasked_is_left_out(body: str) -> None:
    assert unchanged(Package("a", "1"), f'opam-version: "2.0"\n{body}\n'.encode()) is None


def test_a_package_says_whether_it_has_tests() -> None:
    plain = unchanged(Package("a", "1"), b'opam-version: "2.0"\navailable: os = "linux"\n')
    tested = unchanged(Package("a", "1"), b'opam-version: "2.0"\nrun-test: ["true"]\n')
    assert plain is not None
    assert tested is not None
    assert (plain.package, plain.kind, plain.has_tests) == ("a.1", "unchanged", False)
    assert tested.has_tests
