"""Popular packages, read from git."""

from pathlib import Path

from opam_ci.clients.git.popular import read_popular
from opam_ci.clients.git.reach import read_named
from opam_ci.clients.git.repository import Repository
from opam_ci.core.opam.file import MAX_SIZE
from tests.support.fakes.clone import SYMLINK, Clone, at
from tests.unit.clients.git.test_reach import needs

AVOIDED = needs("a") + b"flags: avoid-version\n"


def popular(clone: Clone, number: int, cache: Path) -> list[str]:
    with Repository.open(clone.path) as repository:
        tree = repository.tree_of(repository.resolve("master"))
        named = read_named(repository, tree, cache).named
        return [each.package for each in read_popular(repository, tree, number, named)]


def test_the_newest_version_that_is_offered(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone.git")
    clone.commit(
        "master",
        {
            at("a.9"): needs(),
            at("a.10"): needs(),
            at("a.11"): AVOIDED,
            at("a.12"): b"#" * (MAX_SIZE + 1),
            at("a.13"): (SYMLINK, b"../a.9/opam"),
            at("b.1"): needs("a", "c"),
            at("c.1"): AVOIDED,
            at("d.1"): needs("a", "b", "c"),
        },
    )
    cache = tmp_path / "cache"
    # On a and c depend two each, but nobody is offered c.
    assert popular(clone, 1, cache) == ["a.10"]
    assert popular(clone, 2, cache) == ["a.10", "b.1"]
    assert popular(clone, 100, cache) == ["a.10", "b.1"]
