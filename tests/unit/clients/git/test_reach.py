"""What is within reach of each package, read from git, with and without what is known already."""

from pathlib import Path

import pytest

from opam_ci.clients.git import folders, reach
from opam_ci.clients.git.exported import Exporter, reach_key
from opam_ci.clients.git.reach import KNOWN, read_named
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.core.opam.file import MAX_SIZE
from opam_ci.core.reuse.reach import Reachable, References, references
from opam_ci.core.submission.inputs import HeadInputs
from tests.support.fakes.clone import SUBMODULE, SYMLINK, Clone, at
from tests.unit.clients.git.test_exported import TESTING


def needs(*names: str) -> bytes:
    listed = " ".join(f'"{name}"' for name in names)
    return f'opam-version: "2.0"\ndepends: [{listed}]\n'.encode()


FILES = {
    "repo": b'opam-version: "2.0"\n',
    at("a.1"): needs("b"),
    at("a.2"): needs("c"),
    at("b.1"): needs(),
    at("c.1"): needs(),
    at("d.1"): needs("a"),
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    clone.commit("master", FILES)
    return clone


def read(clone: Clone, cache: Path, branch: str = "master") -> tuple[Reachable, bool]:
    with Repository.open(clone.path) as repository:
        found = read_named(repository, repository.tree_of(repository.resolve(branch)), cache)
        return found.reachable({"b"}), found.is_new


def changed(clone: Clone, cache: Path, **files: bytes) -> set[str]:
    before = read(clone, cache)[0].plain
    clone.commit(
        "topic",
        {at(name.replace("_", ".")): text for name, text in files.items()},
        parents=(clone.git("rev-parse", "master"),),
    )
    now = read(clone, cache, "topic")[0].plain
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


def test_all_versions_of_what_is_needed_count(clone: Clone, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert changed(clone, cache, b_2=needs()) == {"a", "b", "d"}
    assert changed(clone, cache, c_1=needs("b")) == {"a", "c", "d"}
    assert changed(clone, cache, d_2=needs()) == {"d"}
    assert changed(clone, cache, e_1=needs("a")) == {"e"}


def test_what_is_known_is_not_read_again_and_gives_the_same(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    whole, is_kept = read(clone, cache)
    assert (is_kept, cache.exists()) == (False, False)  # so little is read in no time
    monkeypatch.setattr(folders, "_WORTH_KEEPING", 1)
    assert read(clone, cache) == (whole, True)
    assert len(KNOWN.validate_json(cache.read_bytes())) == len({"a", "b", "c", "d"})
    with monkeypatch.context() as patch:
        patch.setattr(reach, "references", None)
        assert read(clone, cache) == (whole, False)
    # A directory of the change is read, and no other.
    asked: list[str] = []

    def noted(package: str, opam: bytes) -> References:
        asked.append(package)
        return references(package, opam)

    monkeypatch.setattr(reach, "references", noted)
    assert changed(clone, cache, b_2=needs()) == {"a", "b", "d"}
    assert sorted(asked) == ["b.1", "b.2"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": {"always": 1}}'])
def test_what_cannot_be_read_is_not_known(clone: Clone, tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    whole, _ = read(clone, cache)
    cache.write_text(text)
    assert read(clone, cache)[0] == whole


def test_what_builds_do_not_see_names_nothing(clone: Clone, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    oversized = needs("b") + b"#" * MAX_SIZE
    clone.commit(
        "odd",
        {
            at("big.1"): oversized,
            at("link.1"): (SYMLINK, b"../../a/a.1/opam"),
            "packages/module/module.1/opam": (SUBMODULE, b"1" * 40),
            "packages/gitlink": (SUBMODULE, b"1" * 40),
            "packages/README": b"",
            at("broken.1"): b"depends: [",
        },
        parents=(clone.git("rev-parse", "master"),),
    )
    found = read(clone, cache, "odd")[0]
    assert found.plain.keys() == {*"abcd", "big", "link", "module", "broken"}
    assert found.dependents == read(clone, cache)[0].dependents


async def test_it_is_stored_for_a_head_where_that_is_wanted(clone: Clone) -> None:
    store = ArtifactStore.open("memory:")
    base = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("b.2"): needs()}, parents=(base,))
    exporter = Exporter(store)
    await exporter.prepare(clone.path, TESTING, base, head)
    with pytest.raises(MissingKeyError):
        await store.get(reach_key(TESTING))
    await exporter.prepare(clone.path, TESTING, base, head, reach=True)
    found = Reachable.model_validate_json(await store.get(reach_key(TESTING)))
    assert found.dependents.keys() == {"b"}
    assert found.plain.keys() == {*"abcd"}


async def test_what_a_head_works_on_differs_with_its_packages_and_their_dependencies_alone(
    clone: Clone,
) -> None:
    store = ArtifactStore.open("memory:")
    exporter = Exporter(store)
    base = clone.git("rev-parse", "master")
    # Another file of the package is there already.
    base = clone.commit(
        "master", {at("a.2", "files/x"): b"x", at("a.2"): needs("b")}, parents=(base,)
    )
    head = clone.commit("topic", {at("a.2"): needs("b", "c")}, parents=(base,))

    async def inputs(**files: bytes) -> HeadInputs:
        moved = clone.commit(
            "moved",
            dict(files),
            parents=(base,),
        )
        found = await exporter.prepare(clone.path, TESTING, moved, head, export=False, reach=True)
        assert found.inputs is not None
        assert found.merged is None
        return found.inputs

    first = await inputs()
    assert await inputs(**{at("unrelated.1"): needs("a")}) == first
    below = await inputs(**{at("c.9"): needs()})
    assert (below.changes == first.changes, below.reach == first.reach) == (True, False)
    own = await inputs(**{at("a.2", "files/x"): b"y"})
    assert own.changes != first.changes
    # Nothing of a look is kept.
    with pytest.raises(MissingKeyError):
        await store.get(reach_key(TESTING))
    done = await exporter.prepare(clone.path, TESTING, base, head, reach=True)
    assert done.inputs == first
    plain = await exporter.prepare(clone.path, TESTING, base, head)
    assert plain.inputs == first.model_copy(update={"reach": None})
