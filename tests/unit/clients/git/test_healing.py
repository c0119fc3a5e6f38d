"""A clone of ours after a kill or a power cut: the next fetch and analysis work without a hand."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opam_ci.clients.git import upstream as upstreams
from opam_ci.clients.git.healing import Recovery
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.upstream import Upstream
from opam_ci.core.jobs.errors import InfrastructureError
from tests.support.fakes.clone import Clone, at, opam

BLOB = at("a.1", "files/b")
TWO_DAYS = 2 * 86_400


@pytest.fixture
def remote(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "remote.git")
    files = {at(f"a.{version}"): opam() for version in range(30)}
    made.commit("master", {**files, BLOB: hashlib.shake_256(b"").digest(100_000)})
    return made


@pytest.fixture
def recoveries() -> list[Recovery]:
    return []


@pytest.fixture
def upstream(remote: Clone, tmp_path: Path, recoveries: list[Recovery]) -> Upstream:
    """A clone that has fetched two pull requests."""
    made = Upstream(tmp_path / "clone.git", remote.path.as_uri(), recoveries.append)
    for number in (1, 2):
        made.fetch("master", number, push(remote, number))
    assert recoveries == []
    return made


def push(remote: Clone, number: int) -> str:
    base = remote.git("rev-parse", "refs/heads/master")
    return remote.commit(f"refs/pull/{number}/head", {at(f"p{number}.1"): opam()}, parents=(base,))


def works(upstream: Upstream, remote: Clone, number: int) -> None:
    """A new pull request is fetched, merged and read."""
    head = push(remote, number)
    base = upstream.fetch("master", number, head)
    with Repository.open(upstream.directory) as clone:
        merged = clone.merge(base, head)
        assert merged.tree is not None
        assert clone.read(merged.tree, at(f"p{number}.1")) == opam()
        assert clone.read(merged.tree, at("a.7")) == opam()


def packs(clone: Path) -> list[Path]:
    return sorted((clone / "objects/pack").glob("*.pack"))


def write(path: str, content: bytes = b"") -> Callable[[Path], None]:
    def damage(clone: Path) -> None:
        target = clone / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)

    return damage


def cut_packed_refs(clone: Path) -> None:
    (clone / "packed-refs").write_bytes(b"# pack-refs with: peeled\n0123456789abcdef refs/hea")


def old_ref_of_another_pull_request(clone: Path) -> None:
    """What this CI kept before: a ref for each pull request, here one that was not written."""
    write("refs/pull/1/head")(clone)


@pytest.mark.parametrize(
    ("damage", "how"),
    [
        (write("refs/heads/master.lock"), Recovery.LEFTOVERS),
        (write("HEAD.lock"), Recovery.LEFTOVERS),
        (write("config.lock"), Recovery.LEFTOVERS),
        (write("packed-refs.lock"), Recovery.LEFTOVERS),
        (write("packed-refs.new"), Recovery.LEFTOVERS),
        (write("refs/keep/20200101/x.lock"), Recovery.LEFTOVERS),
        (write("gc.pid", b"1 elsewhere\n"), Recovery.LEFTOVERS),
        (write("refs/heads/master"), Recovery.REFS),
        (write("refs/heads/master", b"\0" * 41), Recovery.REFS),
        (write("refs/heads/master", b"0123456789abcdef"), Recovery.REFS),
        (write("refs/opam-ci/pull"), Recovery.REFS),
        (old_ref_of_another_pull_request, Recovery.REFS),
        (cut_packed_refs, Recovery.REFS),
        (write("HEAD"), None),
        (write("HEAD", b"\0" * 23), None),
        (write("config"), None),
        (write("config", b"\0" * 66), None),
        (lambda clone: shutil.rmtree(clone / "refs"), None),
    ],
)
def test_what_a_crash_leaves_is_removed(
    upstream: Upstream,
    remote: Clone,
    recoveries: list[Recovery],
    damage: Callable[[Path], None],
    how: Recovery | None,
) -> None:
    damage(upstream.directory)
    works(upstream, remote, 3)
    assert recoveries == ([] if how is None else [how])
    assert packs(upstream.directory)  # it was not cloned anew
    works(upstream, remote, 4)
    assert len(recoveries) <= 1


@pytest.mark.parametrize("damage", ["packs", "objects", "torn", "index"])
def test_clone_without_its_objects_is_made_anew_once(
    upstream: Upstream, remote: Clone, recoveries: list[Recovery], damage: str
) -> None:
    clone = upstream.directory
    match damage:
        case "packs":
            for pack in packs(clone):
                pack.chmod(0o600)
                pack.unlink()
        case "objects":
            shutil.rmtree(clone / "objects")
        case "torn":
            for pack in packs(clone):
                pack.chmod(0o600)
                pack.write_bytes(b"\0" * pack.stat().st_size)
        case "index":
            for pack in packs(clone):
                pack.with_suffix(".idx").chmod(0o600)
                pack.with_suffix(".idx").write_bytes(b"")
    works(upstream, remote, 3)
    assert recoveries.count(Recovery.ANEW) == 1
    assert clone.with_name("clone.git.damaged").is_dir()
    works(upstream, remote, 4)
    assert recoveries.count(Recovery.ANEW) == 1


def test_damage_that_only_an_analysis_sees_is_repaired_by_the_next_fetch(
    upstream: Upstream, remote: Clone, recoveries: list[Recovery]
) -> None:
    first = max(packs(upstream.directory), key=lambda pack: pack.stat().st_size)
    content = bytearray(first.read_bytes())
    middle = len(content) // 2  # of the large blob, which no fetch reads
    content[middle : middle + 200] = bytes(200)
    first.chmod(0o600)
    first.write_bytes(content)
    base = upstream.fetch("master", 3, push(remote, 3))
    with Repository.open(upstream.directory) as clone, pytest.raises(InfrastructureError):
        clone.read(base, BLOB)
    upstream.suspect()
    works(upstream, remote, 4)
    with Repository.open(upstream.directory) as clone:
        assert clone.read(base, BLOB) is not None
    assert recoveries == [Recovery.ANEW]


def test_clone_that_is_sound_is_not_made_anew_and_not_read_again_and_again(
    upstream: Upstream, remote: Clone, recoveries: list[Recovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Upstream._run
    commands: list[str] = []

    def counted(self: Upstream, *arguments: str, **options: object) -> object:
        commands.append(arguments[0])
        return run(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Upstream, "_run", counted)
    before = packs(upstream.directory)
    upstream.suspect()
    works(upstream, remote, 3)
    for _ in range(3):
        with pytest.raises(InfrastructureError, match="no-such"):
            upstream.refresh("no-such")
    assert commands.count("fsck") == 1
    assert recoveries == []
    assert set(before) <= set(packs(upstream.directory))


def test_remote_that_is_away_is_no_reason_to_check_the_clone(
    upstream: Upstream, remote: Clone, recoveries: list[Recovery]
) -> None:
    remote.path.rename(remote.path.with_name("elsewhere.git"))
    for pack in packs(upstream.directory):
        pack.chmod(0o600)
        pack.unlink()
    with pytest.raises(InfrastructureError, match="cannot fetch"):
        upstream.refresh("master")
    assert Recovery.ANEW not in recoveries


def test_leftovers_of_killed_fetches_and_repacks_go(upstream: Upstream, remote: Clone) -> None:
    clone = upstream.directory
    left = [
        "objects/pack/tmp_pack_abc",
        "objects/pack/tmp_idx_abc",
        "objects/pack/.tmp-17-pack-abc.pack",
        "objects/ab/tmp_obj_abc",
        "objects/tmp_objdir-bulk-fsync-abc/ab/cd",
        f"objects/pack/pack-{'a' * 40}.pack",
        f"objects/pack/pack-{'b' * 40}.idx",
        f"objects/pack/pack-{'b' * 40}.rev",
        "refs/pull/9/head.lock",
    ]
    for path in left:
        write(path, b"x" * 1000)(clone)
    kept = packs(clone)[0].with_suffix(".keep")
    kept.write_text("fetch-pack 17 on a machine that is off")
    branch = "tmp_branch"
    remote.git("branch", branch, "master")
    upstream.refresh(branch)
    assert [path for path in left if (clone / path).exists()] == []
    assert not kept.exists()
    works(upstream, remote, 3)
    assert upstream.refresh(branch)
    assert (clone / "refs/heads" / branch).exists()


def test_heads_of_earlier_days_are_collected(
    upstream: Upstream, remote: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = upstream.directory
    old = [push(remote, number) for number in range(10, 20)]
    for number, head in enumerate(old, 10):
        upstream.fetch("master", number, head)
    git = Clone(clone).git
    git("update-ref", "refs/pull/9/head", old[0])  # of an earlier version
    # Two days later.
    [today] = (clone / "refs/keep").iterdir()
    today.rename(today.with_name("20200101"))
    for path in (*(clone / "objects/pack").iterdir(), clone / upstreams._MAINTAINED):
        past = time.time() - TWO_DAYS
        os.utime(path, (past, past))
    new = push(remote, 30)
    upstream.fetch("master", 30, new)
    assert upstream.has(new)
    assert not any(map(upstream.has, old))
    refs = git("for-each-ref", "--format=%(refname)").splitlines()
    assert [name for name in refs if not name.startswith("refs/keep/2")] == [
        "refs/heads/master",
        "refs/opam-ci/pull",
    ]
    assert len(refs) == 3
    # One of them is checked again.
    upstream.fetch("master", 12, old[2])
    assert upstream.has(old[2])
    monkeypatch.setattr(upstreams, "_MAX_PACKS", 2)
    works(upstream, remote, 31)
    assert len(packs(clone)) <= 2


def test_maintenance_that_fails_costs_no_analysis(
    upstream: Upstream, remote: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = upstream.directory
    maintained = clone / upstreams._MAINTAINED
    maintained.unlink()
    monkeypatch.setattr(upstreams, "_PRUNED", "no such date")
    works(upstream, remote, 3)
    assert maintained.exists()
    assert (clone / upstreams._SUSPECTED).exists()
    monkeypatch.undo()
    works(upstream, remote, 4)
    assert not (clone / upstreams._SUSPECTED).exists()
