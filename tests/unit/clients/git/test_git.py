"""The git client on small real repositories."""

import asyncio
import os
import shutil
import subprocess
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opam_ci.clients.git import repository as git
from opam_ci.clients.git.repository import Merge, Repository
from opam_ci.clients.threads import GIT
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from tests.support.fakes.clone import Clone, at, opam

START = {"repo": b'opam-version: "2.0"\n', at("a.1"): opam(), at("b.1"): opam('depends: "a"')}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    clone.commit("master", START)
    return clone


def test_names_of_commits(clone: Clone) -> None:
    master = clone.git("rev-parse", "master")
    clone.commit("refs/remotes/origin/topic/x", {"y": b""}, parents=(master,))
    with Repository.open(clone.path) as repository:
        for name in ("master", "refs/heads/master", "HEAD", master, master[:10]):
            assert repository.resolve(name) == master
        assert repository.parents(repository.resolve("topic/x")) == (master,)
        assert repository.resolve("origin/topic/x") == repository.resolve("topic/x")
        assert repository.tree_of(master) == clone.git("rev-parse", "master^{tree}")


@pytest.mark.parametrize(
    "name",
    [
        *("", "-x", "--help", "a..b", "master~1", "master^{tree}", "@{-1}", ":/x", "a b", "a\nb"),
        *("$(x)", "nope", "f" * 40, "x" * 500, "a\0b", "..", "master:repo", "é\udcff"),
    ],
)
def test_hostile_and_unknown_names_are_one_clear_line(clone: Clone, name: str) -> None:
    with Repository.open(clone.path) as repository:
        with pytest.raises(UsageError) as caught:
            repository.resolve(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200
        # The processes are still in step.
        assert repository.resolve("master") == clone.git("rev-parse", "master")


def test_what_is_no_clone_of_an_opam_repository(clone: Clone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a git repository"):
        Repository.open(tmp_path)
    with pytest.raises(UsageError, match="is not a git repository"):
        Repository.open(tmp_path / "absent")
    other = clone.commit("other", {"packages": b"a file"})
    with Repository.open(clone.path) as repository:
        repository.require_packages(repository.resolve("master"))
        with pytest.raises(UsageError, match="has no packages folder"):
            repository.require_packages(other)


@pytest.mark.parametrize(
    ("script", "error"), [("echo git version 2.34.1", UsageError), ("exit 1", InfrastructureError)]
)
def test_a_git_that_is_too_old_or_broken(
    clone: Clone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[Exception],
) -> None:
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    git._require_version.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error):
        Repository.open(clone.path)
    monkeypatch.undo()
    with Repository.open(clone.path) as repository:
        assert repository.exists("master", "packages")


def test_a_clone_with_a_work_tree_is_opened_from_below(clone: Clone, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", clone.path, tmp_path / "work"], check=True)
    with Repository.open(tmp_path / "work" / "packages") as repository:
        assert repository.resolve("master") == clone.git("rev-parse", "master")


def merged_with(clone: Clone, head: str) -> Merge:
    with Repository.open(clone.path) as repository:
        return repository.merge(repository.resolve("master"), head)


def test_merge_and_conflict(clone: Clone) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("b.1"): opam("build: [make]")}, parents=(start,))
    clone.commit("master", {at("a.1"): opam("build: [make]")}, parents=(start,))
    with Repository.open(clone.path) as repository:
        tree = repository.merge(repository.resolve("master"), head).tree
        assert tree is not None
        assert repository.read(tree, at("a.1")) == opam("build: [make]")
        assert repository.read(tree, at("b.1")) == opam("build: [make]")
    clone.commit("master", {at("b.1"): opam("build: [dune]")}, parents=(start,))
    assert merged_with(clone, head) == Merge(tree=None, conflicts=(at("b.1"),))


def test_unrelated_histories_do_not_merge(clone: Clone) -> None:
    assert merged_with(clone, clone.commit("other", START, message="other")) == Merge(tree=None)


def test_a_merge_that_a_shallow_clone_cannot_make(clone: Clone, tmp_path: Path) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("c.1"): opam()}, parents=(start,))
    base = clone.commit("master", {at("d.1"): opam()}, parents=(start,))
    shallow = tmp_path / "shallow.git"

    def fetch(*refs: str) -> None:
        clone.git("init", "-q", "--bare", str(shallow))
        subprocess.run(
            ["git", "fetch", "-q", "--depth=1", clone.path.as_uri(), *refs],
            cwd=shallow, check=True, capture_output=True,
        )  # fmt: skip

    fetch("+master:master", "+topic:topic")
    with Repository.open(shallow) as repository, pytest.raises(UsageError, match="--unshallow"):
        repository.merge(base, head)
    merge = clone.commit("master", {at("c.1"): opam()}, parents=(base, head))
    subprocess.run(
        ["git", "fetch", "-q", "--depth=2", clone.path.as_uri(), "+master:merged"],
        cwd=shallow, check=True, capture_output=True,
    )  # fmt: skip
    # Somebody merged the two already, and that merge is there.
    with Repository.open(shallow) as repository:
        assert repository.merge(base, head).tree == clone.git("rev-parse", f"{merge}^{{tree}}")


def test_a_read_only_clone_is_not_written(clone: Clone) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("c.1"): opam()}, parents=(start,))
    clone.commit("master", {at("d.1"): opam()}, parents=(start,))
    before = {path: path.stat().st_mtime_ns for path in clone.path.rglob("*")}
    with Repository.open(clone.path) as repository:
        base = repository.resolve("master")
        assert repository.merge(base, head).tree is not None
    assert {path: path.stat().st_mtime_ns for path in clone.path.rglob("*")} == before


@pytest.mark.parametrize(
    "ref", ["refs/pull/7/head", "refs/pr/7", "refs/remotes/up/pr/7", "refs/remotes/up/pull/7/head"]
)
def test_a_fetched_pull_request(clone: Clone, ref: str) -> None:
    master = clone.git("rev-parse", "master")
    head = clone.commit(ref, {at("c.1"): opam()}, parents=(master,))
    with Repository.open(clone.path) as repository:
        found = repository.find_pull_request(7, "master")
        assert (found.base, found.head, found.merge) == (master, head, None)
        with pytest.raises(UsageError, match="pull/8/head"):
            repository.find_pull_request(8, "master")


def test_a_merged_pull_request(clone: Clone) -> None:
    start = clone.git("rev-parse", "master")
    head = clone.commit("refs/pull/7/head", {at("c.1"): opam()}, parents=(start,))
    merge = clone.commit(
        "master",
        {at("c.1"): opam()},
        parents=(start, head),
        message="Merge pull request #7 from x/y\n\nMerge pull request #70 from a/b",
    )
    clone.commit("master", {"z": b""}, parents=(merge,), message="About #7")
    with Repository.open(clone.path) as repository:
        found = repository.find_pull_request(7, "master")
        assert (found.base, found.head, found.merge) == (start, head, merge)
        with pytest.raises(UsageError):
            repository.find_pull_request(70, "master")


def test_changes_pair_renames_as_git_does(clone: Clone) -> None:
    master = clone.git("rev-parse", "master")
    long = opam("\n".join(f"# line {number}" for number in range(50)))
    base = clone.commit("base", {at("c.1"): long}, parents=(master,))
    head = clone.commit("topic", {at("c.1"): None, at("c.2"): long + b"#"}, parents=(base,))
    with Repository.open(clone.path) as repository:
        (change,) = repository.changes(repository.tree_of(base), repository.tree_of(head))
        assert (change.status, change.old_path, change.path) == ("R", at("c.1"), at("c.2"))
        assert not change.was_at_path
        assert repository.changes(repository.tree_of(base), repository.tree_of(base)) == []


def test_trees_and_blobs(clone: Clone) -> None:
    odd = 'packages/é "x"\n/y'
    head = clone.commit("odd", {odd: b"\0\n", "big": b"x" * 300_000}, parents=("master",))
    with Repository.open(clone.path) as repository:
        entries = {entry.path: entry for entry in repository.list_tree(head)}
        assert set(entries) == {*START, odd, "big"}
        ids = [entries[odd].object_id, entries["big"].object_id, entries["repo"].object_id] * 100
        assert repository.sizes(ids[:3]) == [2, 300_000, len(START["repo"])]
        assert [len(blob) for blob in repository.objects(ids)] == [2, 300_000, 20] * 100
        assert repository.count_packages(head) == 2
        assert repository.read(head, "packages") is None
        assert repository.exists(head, "packages/a")
        assert not repository.exists(head, odd)  # a name that cannot be queried
        with pytest.raises(InfrastructureError, match="is missing") as caught:
            list(repository.objects(["1" * 40]))
        assert caught.value.cause is Cause.GIT


def test_a_lost_process_is_a_fault_of_git_and_comes_back(clone: Clone) -> None:
    with Repository.open(clone.path) as repository:
        master = repository.resolve("master")
        process = repository._objects._process._process
        assert process is not None
        process.kill()
        process.wait()
        with pytest.raises(InfrastructureError) as caught:
            repository.tree_of(master)
        assert caught.value.cause is Cause.GIT
        assert repository.tree_of(master) == clone.git("rev-parse", "master^{tree}")


def test_a_damaged_clone_is_a_fault_of_git(clone: Clone) -> None:
    master = clone.git("rev-parse", "master")
    head = clone.commit("topic", {at("c.1"): opam()}, parents=(master,))
    tree = clone.git("rev-parse", f"{head}^{{tree}}")
    (clone.path / "objects" / tree[:2] / tree[2:]).unlink()
    with Repository.open(clone.path) as repository:
        with pytest.raises(InfrastructureError) as caught:
            repository.merge(master, head)
        assert caught.value.cause is Cause.GIT


def test_threads_share_a_clone(clone: Clone) -> None:
    master = clone.git("rev-parse", "master")
    heads = [
        clone.commit(f"t{number}", {at(f"c.{number}"): opam(f"# {number}")}, parents=(master,))
        for number in range(8)
    ]
    with Repository.open(clone.path) as repository, ThreadPoolExecutor(8) as threads:

        def changed(head: str) -> list[str]:
            tree = repository.merge(master, head).tree
            assert tree is not None
            return [change.path for change in repository.changes(repository.tree_of(master), tree)]

        assert (
            list(threads.map(changed, heads * 3))
            == [[at(f"c.{number}")] for number in range(8)] * 3
        )


def test_objects_are_read_some_bytes_at_a_time(clone: Clone) -> None:
    """A hundred and more were in memory at once, whatever their sizes: here 60 MiB."""
    names = ["small", *(f"large{number}" for number in range(20)), "absent"]
    contents = {name: name.encode() * (3 << 20 if "large" in name else 1) for name in names[:-1]}
    ids = [clone.store(content[: 3 << 20]) for content in contents.values()]
    with Repository.open(clone.path) as repository:
        assert list(repository.objects(ids[:2])) == [b"small", contents["large0"][: 3 << 20]]
        del contents
        tracemalloc.start()
        try:
            assert sum(map(len, repository.objects(ids))) == 20 * (3 << 20) + len("small")
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()
        with pytest.raises(InfrastructureError, match=f"object {'1' * 40} is missing"):
            list(repository.objects([*ids, "1" * 40]))


async def test_a_command_ends_with_the_activity_for_which_a_thread_runs_it(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("git")
    script = tmp_path / "bin" / "git"
    started = tmp_path / "started"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        f'for a; do [ "$a" = merge-tree ] && echo $$ > {started} && exec sleep 60; done\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    master = clone.git("rev-parse", "master")
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    with Repository.open(clone.path) as repository:
        merging = asyncio.create_task(GIT.run(repository.merge, master, master))
        while not (started.exists() and started.read_text()):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        process = psutil.Process(int(started.read_text()))
        merging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await merging
        psutil.wait_procs([process], timeout=10)
        assert not process.is_running()
    with pytest.raises(InfrastructureError, match="the repository was closed"):
        repository.merge(master, master)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=30))
def test_any_name_is_a_commit_or_wrong_use(clone: Clone, name: str) -> None:
    with Repository.open(clone.path) as repository:
        try:
            repository.resolve(name)
        except UsageError as error:
            assert "\n" not in str(error)  # noqa: PT017 -- it may also succeed
