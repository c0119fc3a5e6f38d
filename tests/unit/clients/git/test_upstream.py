"""The CI's own clone, fetched from a real remote by real git."""

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.upstream import Upstream, upstream_in
from opam_ci.core.errors import UsageError
from opam_ci.core.github.model import HEAD_GONE
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.outcome import Cause, FailureReason
from tests.support.fakes.clone import Clone, opam
from tests.support.fakes.serving import served, silent_server


@pytest.fixture
def remote(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "remote.git")
    made.commit("master", {"packages/a/a.1/opam": opam()})
    return made


@pytest.fixture
def upstream(remote: Clone, tmp_path: Path) -> Upstream:
    return upstream_in(tmp_path / "clones", "OCaml", "Opam-Repository", remote.path.as_uri())


def head(remote: Clone, number: int, name: str = "b.1") -> str:
    base = remote.git("rev-parse", "refs/heads/master")
    path = f"packages/{name.partition('.')[0]}/{name}/opam"
    return remote.commit(f"refs/pull/{number}/head", {path: opam()}, parents=(base,))


def test_head_and_newest_base_are_fetched(remote: Clone, upstream: Upstream) -> None:
    pushed = head(remote, 7)
    base = remote.commit(
        "master",
        {"packages/z/z.1/opam": opam()},
        parents=(remote.git("rev-parse", "refs/heads/master"),),
    )
    assert upstream.fetch("master", 7, pushed) == base
    assert upstream.has(base, pushed)
    with Repository.open(upstream.directory) as clone:
        merged = clone.merge(base, pushed)
        assert merged.tree is not None
        assert clone.count_packages(merged.tree) == 3
        # An open clone sees what is fetched later.
        later = head(remote, 8, "c.1")
        upstream.fetch("master", 8, later)
        assert clone.merge(base, later).tree is not None


def test_a_clone_is_fetched_for_a_moved_base_only_if_it_must_be(
    remote: Clone, upstream: Upstream
) -> None:
    first = remote.git("rev-parse", "refs/heads/master")
    pushed = head(remote, 7)
    # Not even the clone is there.
    assert upstream.newest("master", first, pushed) is None
    upstream.fetch("master", 7, pushed)
    assert upstream.newest("master", first, pushed) == first
    second = remote.commit("master", {"packages/z/z.1/opam": opam()}, parents=(first,))
    assert upstream.newest("master", second, pushed) is None
    upstream.refresh("master")
    # A newer one is as good.
    assert upstream.newest("master", first, pushed) == second
    assert upstream.newest("master", second, "f" * 40) is None
    # Forced back: the clone has the commit, and no longer in the branch.
    remote.git("update-ref", "refs/heads/master", first)
    upstream.refresh("master")
    assert upstream.newest("master", second, pushed) is None
    assert upstream.newest("master", first, pushed) == first


def test_private_repository_is_fetched_with_the_credentials_of_git(
    remote: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = "Basic c2VjcmV0"

    async def private(scope: Any, _receive: Any, send: Any) -> None:
        known = (b"authorization", header.encode()) in scope["headers"]
        file = remote.path / scope["path"].lstrip("/")
        status = (200 if file.is_file() else 404) if known else 401
        await send({"type": "http.response.start", "status": status, "headers": []})
        body = file.read_bytes() if status == 200 else b""
        await send({"type": "http.response.body", "body": body})

    remote.git("update-server-info")
    monkeypatch.setenv("HOME", str(tmp_path))
    with served(private) as url:
        clone = Upstream(tmp_path / "clone", url)
        with pytest.raises(InfrastructureError, match="could not read Username"):
            clone.refresh("master")
        (tmp_path / ".gitconfig").write_text(
            f'[http "{url}"]\n  extraHeader = Authorization: {header}\n'
        )
        assert clone.refresh("master") == remote.git("rev-parse", "refs/heads/master")
        with pytest.raises(InfrastructureError) as caught:
            clone.refresh("missing")
    assert "c2VjcmV0" not in str(caught.value)
    assert not [each for each in clone.directory.rglob("*") if holds(each, b"c2VjcmV0")]


def holds(file: Path, text: bytes) -> bool:
    return file.is_file() and text in file.read_bytes()


@pytest.mark.skipif(
    b"core.maxTreeDepth"
    not in subprocess.run(["git", "help", "--config"], check=True, capture_output=True).stdout,
    reason="git before 2.43 transfers trees of any depth; the analysis refuses them",
)
def test_head_that_git_does_not_transfer_is_the_authors(remote: Clone, upstream: Upstream) -> None:
    base = remote.git("rev-parse", "refs/heads/master")
    deep = "packages/b/b.1/files/" + "d/" * 2_100 + "x"
    pushed = remote.commit("refs/pull/7/head", {deep: b""}, parents=(base,))
    # By their git, and, where theirs lets it pass, by ours.
    for limit in (2_048, 4_096):
        remote.git("config", "core.maxTreeDepth", str(limit))
        with pytest.raises(SubmissionError, match="nested too deeply") as caught:
            upstream.fetch("master", 7, pushed)
        assert caught.value.reason is FailureReason.ANALYSIS
        assert "pull request 7" in (caught.value.evidence.detail or "")


def test_head_that_was_pushed_over_is_there_for_as_long_as_the_host_keeps_it(
    remote: Clone, upstream: Upstream
) -> None:
    old = head(remote, 7)
    new = head(remote, 7, "c.1")
    assert old != new
    upstream.fetch("master", 7, old)
    assert upstream.has(old)
    third = head(remote, 7, "d.1")
    head(remote, 7, "e.1")
    remote.git("reflog", "expire", "--expire=now", "--all")
    remote.git("gc", "--quiet", "--prune=now")
    with pytest.raises(InfrastructureError, match="its branch is now at") as caught:
        upstream.fetch("master", 7, third)
    assert caught.value.evidence.rule == HEAD_GONE
    assert caught.value.cause is Cause.GITHUB


def test_pull_request_that_does_not_exist(upstream: Upstream) -> None:
    with pytest.raises(InfrastructureError, match="cannot fetch pull request 9") as caught:
        upstream.fetch("master", 9, "f" * 40)
    assert caught.value.evidence.rule == HEAD_GONE


def test_base_that_does_not_exist_says_nothing_of_the_head(
    remote: Clone, upstream: Upstream
) -> None:
    wanted = head(remote, 7)
    with pytest.raises(InfrastructureError, match="cannot fetch branch 'no-such'") as caught:
        upstream.fetch("no-such", 7, wanted)
    assert caught.value.evidence.rule != HEAD_GONE
    assert caught.value.cause is Cause.GIT


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("file:///nowhere/at/all.git", Cause.GIT),
        ("https://no-such-host.invalid/r.git", Cause.DNS),
        ("http://127.0.0.1:1/r.git", Cause.NETWORK),
    ],
)
def test_remote_that_is_away_is_the_cis_trouble(tmp_path: Path, url: str, cause: Cause) -> None:
    with pytest.raises(InfrastructureError) as caught:
        Upstream(tmp_path / "clone.git", url).refresh("master")
    assert caught.value.cause is cause, caught.value


@pytest.mark.parametrize("url", ["--upload-pack=touch /tmp/x", "ext::sh -c id", "/etc", "a b"])
def test_url_that_could_run_something_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="URL without a password"):
        Upstream(tmp_path / "clone.git", url)


@pytest.mark.parametrize("name", ["a:refs/heads/b", "*", "x\n"])
def test_branch_that_is_syntax_is_refused(upstream: Upstream, name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a branch"):
        upstream.refresh(name)


def test_branch_that_is_not_there(upstream: Upstream) -> None:
    with pytest.raises(InfrastructureError, match="cannot fetch branch 'no-such'"):
        upstream.refresh("no-such")


def test_many_at_once_take_turns(remote: Clone, upstream: Upstream) -> None:
    heads = {number: head(remote, number, f"p{number}.1") for number in range(1, 9)}
    with ThreadPoolExecutor(8) as pool:
        bases = list(pool.map(lambda n: upstream.fetch("master", n, heads[n]), heads))
    assert set(bases) == {remote.git("rev-parse", "refs/heads/master")}
    assert upstream.has(*heads.values())


async def test_a_remote_that_never_answers_holds_one_thread(remote: Clone, tmp_path: Path) -> None:
    wanted = "1" * 40
    with silent_server() as port:
        stuck = Upstream(tmp_path / "stuck.git", f"git://127.0.0.1:{port}/r.git")
        fetches = [
            asyncio.create_task(stuck.in_turn(stuck.fetch, "master", number, wanted))
            for number in range(1, 9)
        ]
        await asyncio.sleep(0.5)
        # Another repository is fetched meanwhile, and what is there already is read.
        other = Upstream(tmp_path / "other.git", remote.path.as_uri())
        for _ in range(2):
            await asyncio.wait_for(other.in_turn(other.refresh, "master"), 20)
        assert not any(fetch.done() for fetch in fetches)
        for fetch in fetches:
            fetch.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*fetches, return_exceptions=True), 10)
    assert {type(each) for each in ended} == {asyncio.CancelledError}
    # With the fetch, its git has gone, and the next one need not wait for it.
    with pytest.raises(InfrastructureError):
        await asyncio.wait_for(stuck.in_turn(stuck.refresh, "master"), 10)


async def test_turns_are_taken(remote: Clone, upstream: Upstream) -> None:
    heads = {number: head(remote, number, f"p{number}.1") for number in range(1, 5)}
    bases = await asyncio.gather(
        *(upstream.in_turn(upstream.fetch, "master", number, heads[number]) for number in heads)
    )
    assert set(bases) == {remote.git("rev-parse", "refs/heads/master")}
    assert upstream.has(*heads.values())


def test_half_made_clone_is_made_whole(remote: Clone, upstream: Upstream) -> None:
    upstream.directory.mkdir(parents=True)
    (upstream.directory / "objects").mkdir()
    pushed = head(remote, 1)
    upstream.fetch("master", 1, pushed)
    assert upstream.has(pushed)
    done = subprocess.run(
        ["git", f"--git-dir={upstream.directory}", "fsck"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
