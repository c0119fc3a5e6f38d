"""The opam repositories that are exported for builds."""

import tarfile
from pathlib import Path

import pytest

from opam_ci.clients.git.export import archive_tree, overlay
from opam_ci.clients.git.repository import Repository
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.nodes import Bool
from tests.support.fakes.clone import EXECUTABLE, SUBMODULE, SYMLINK, Clone, Content, at, opam


def members(archive: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            assert member.isfile()
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            body = tar.extractfile(member)
            assert body is not None
            found[member.name] = (member.mode, body.read())
    return found


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    start = clone.commit(
        "master",
        {
            "repo": b'opam-version: "2.0"\n',
            "README": b"not exported",
            ".gitattributes": b"packages/** export-ignore\n*.sh text eol=crlf\n",
            at("a.1"): opam(),
            at("a.2"): opam(),
            at("b.1"): opam(),
            at("b.1", "files/x.sh"): (EXECUTABLE, b"#!/bin/sh\n"),
        },
    )
    clone.commit(
        "topic",
        {
            at("a.1"): None,
            at("a.2"): opam("build: [make]"),
            at("c.1"): opam(),
            at("c.1", "files/link"): (SYMLINK, b"/etc/passwd"),
            at("c.1", "files/module"): (SUBMODULE, start.encode()),
            at("d.1", "files/alone"): b"no opam file",
            "README": b"changed",
        },
        parents=(start,),
    )
    return clone


def test_the_whole_repository(clone: Clone, tmp_path: Path) -> None:
    with Repository.open(clone.path) as repository:
        count = archive_tree(repository, repository.resolve("master"), tmp_path / "all.tar.gz")
        archive_tree(repository, repository.resolve("master"), tmp_path / "again.tar.gz")
    assert count == 3
    found = members(tmp_path / "all.tar.gz")
    assert set(found) == {"repo", at("a.1"), at("a.2"), at("b.1"), at("b.1", "files/x.sh")}
    assert found[at("b.1", "files/x.sh")] == (0o755, b"#!/bin/sh\n")
    assert found[at("a.1")] == (0o644, opam())
    assert (tmp_path / "all.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_an_overlay_holds_what_differs(clone: Clone, tmp_path: Path) -> None:
    with Repository.open(clone.path) as repository:
        base, merged = (repository.tree_of(repository.resolve(it)) for it in ("master", "topic"))
        made = overlay(repository, base, merged, tmp_path / "overlay.tar.gz")
        overlay(repository, base, merged, tmp_path / "again.tar.gz")
    assert made.packages == ("a.2", "c.1")
    assert made.deleted == ("a.1", "d.1")
    assert made.total == 3
    found = members(tmp_path / "overlay.tar.gz")
    assert found.pop("repo")[1] == b'opam-version: "2.0"\n'
    assert found.pop(at("a.2"))[1] == opam("build: [make]")
    assert found.pop(at("c.1"))[1] == opam()
    # No link, so that nothing is written outside of the folder.
    assert set(found) == {at("a.1"), at("d.1")}
    for _, body in found.values():
        assert parse(body).value("available") == Bool(value=False)
    assert (tmp_path / "overlay.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_what_no_worker_can_take_is_left_out(clone: Clone, tmp_path: Path) -> None:
    """The base may have it: then no pull request can be blamed for it."""
    odd: dict[str, Content] = {
        "packages/ü/ü.1/opam": opam(),
        "packages/b/wrong/opam": opam(),
        at("b.1", "files/" + "n" * 256): b"",
        at("b.1", "files/" + "d/" * 100 + "x"): b"",
        at("b.1", "files/link"): (SYMLINK, b"/etc/passwd"),
        "repo": (SUBMODULE, clone.git("rev-parse", "master").encode()),
    }
    clone.commit("odd", odd, parents=("master",))
    clone.commit("mended", dict.fromkeys(odd), parents=("odd",))
    with Repository.open(clone.path) as repository:
        old, new = (repository.tree_of(repository.resolve(it)) for it in ("odd", "mended"))
        assert archive_tree(repository, old, tmp_path / "all.tar.gz") == 3
        assert [repository.count_packages(tree) for tree in (old, new)] == [3, 3]
        made = overlay(repository, old, new, tmp_path / "overlay.tar.gz")
    packages = {at("a.1"), at("a.2"), at("b.1"), at("b.1", "files/x.sh")}
    # opam ignores a folder that is not a package's.
    assert set(members(tmp_path / "all.tar.gz")) == packages | {"packages/b/wrong/opam"}
    assert (made.packages, made.deleted) == (("b.1",), ())


def test_an_overlay_of_nothing(clone: Clone, tmp_path: Path) -> None:
    with Repository.open(clone.path) as repository:
        tree = repository.tree_of(repository.resolve("master"))
        made = overlay(repository, tree, tree, tmp_path / "overlay.tar.gz")
    assert (made.packages, made.deleted, made.total) == ((), (), 3)
    assert set(members(tmp_path / "overlay.tar.gz")) == {"repo"}


def test_a_failed_export_leaves_nothing(clone: Clone, tmp_path: Path) -> None:
    blob = clone.git("rev-parse", f"master:{at('b.1', 'files/x.sh')}")
    (clone.path / "objects" / blob[:2] / blob[2:]).unlink()
    target = tmp_path / "out" / "all.tar.gz"
    target.parent.mkdir()
    with Repository.open(clone.path) as repository, pytest.raises(InfrastructureError):
        archive_tree(repository, repository.resolve("master"), target)
    assert list(target.parent.iterdir()) == []
