"""The effect of a head, decided in its process from git, with and without what is known already."""

import asyncio
import resource
from pathlib import Path

import pytest

from opam_ci.clients.git import effect, exported, folders, head_process
from opam_ci.clients.git.effects import find_effect
from opam_ci.clients.git.head_process import Failed, FindEffect, FoundEffect, perform
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.core.coinstall.described import Described, describe
from opam_ci.core.coinstall.universe import DumpError
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.submission.effect import Effect, LostPackage
from tests.support.fakes.clone import Clone, at, opam

DESCRIPTIONS = "repositories/descriptions-1.json"
LOST = Effect(
    ocaml=("5.4",), lost=(LostPackage(package="user.1", ocaml=("5.4",), last_on=("5.4",)),)
)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    start = clone.commit(
        "master",
        {
            at("ocaml-base-compiler.5.4.0"): opam(),
            at("lib.1"): opam(),
            at("user.1"): opam('depends: "lib"'),
        },
    )
    # The base moves on: only what the merge changes counts.
    clone.commit("master", {at("more.1"): opam('depends: "lib"')}, parents=(start,))
    clone.commit("topic", {at("lib.1"): None}, parents=(start,))
    clone.commit("nothing", {"README": b"text"}, parents=(start,))
    return clone


def commits(clone: Clone, head: str = "topic") -> tuple[str, str]:
    return clone.git("rev-parse", "master"), clone.git("rev-parse", head)


async def test_what_the_merge_takes_away(clone: Clone) -> None:
    store = ArtifactStore.open("memory:")
    found = await find_effect(store, clone.path, *commits(clone), ("5.4", "5.3"))
    assert found.ocaml == ("5.4",)
    assert [one.package for one in found.lost] == ["more.1", "user.1"]
    nothing = await find_effect(store, clone.path, *commits(clone, "nothing"), ("5.4",))
    assert nothing == Effect(ocaml=("5.4",))
    with pytest.raises(MissingKeyError):
        await store.get(DESCRIPTIONS)  # so little is read in no time


async def test_what_is_known_of_packages_is_kept(clone: Clone) -> None:
    many = {at(f"p{number}.1"): opam() for number in range(folders._WORTH_KEEPING)}
    clone.commit("master", many, parents=(clone.git("rev-parse", "master"),))
    store = ArtifactStore.open("memory:")
    found = await find_effect(store, clone.path, *commits(clone), ("5.4",))
    kept = await store.get(DESCRIPTIONS)
    assert kept.count(b'"package"') >= len(many)
    assert await find_effect(store, clone.path, *commits(clone), ("5.4",)) == found
    assert await store.get(DESCRIPTIONS) == kept


def find(clone: Clone, directory: Path, head: str = "topic") -> head_process.Result:
    base, topic = commits(clone, head)
    return perform(
        FindEffect(clone=clone.path, directory=directory, base=base, head=topic, ocaml=("5.4",))
    )


def test_files_that_are_known_are_not_read_again(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    first = find(clone, tmp_path)
    asked: list[str] = []

    def noted(package: str, text: bytes) -> Described | None:
        asked.append(package)
        return describe(package, text)

    monkeypatch.setattr(effect, "describe", noted)
    again = find(clone, tmp_path)
    assert isinstance(first, FoundEffect)
    assert isinstance(again, FoundEffect)
    assert (again.effect, asked) == (first.effect, [])
    # A directory of the change is read, and no other.
    start = clone.git("rev-parse", "master")
    clone.commit("other", {at("user.2"): opam('depends: "lib"')}, parents=(start,))
    find(clone, tmp_path, "other")
    assert sorted(asked) == ["user.1", "user.2"]


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (
            MemoryError(),
            Failed(message="over 4 GiB of memory were needed", cause=Cause.OUT_OF_MEMORY),
        ),
        (DumpError("too many"), Failed(message="too many", cause=None)),
    ],
)
def test_limits_are_one_sentence(
    clone: Clone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    failed: Failed,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(head_process, "read_effect", fail)
    assert find(clone, tmp_path) == failed


async def test_a_head_that_does_not_merge_has_no_effect(clone: Clone) -> None:
    start = clone.git("rev-parse", "master^")
    clone.commit("topic", {at("more.1"): opam('synopsis: "other"')}, parents=(start,))
    with pytest.raises(UsageError, match="does not merge"):
        await find_effect(ArtifactStore.open("memory:"), clone.path, *commits(clone), ("5.4",))


async def test_it_ends_with_its_caller(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "_TIME_LIMIT", 0.05)
    with pytest.raises(InfrastructureError, match="effect\\) ended early \\(time limit\\)"):
        await find_effect(ArtifactStore.open("memory:"), clone.path, *commits(clone), ("5.4",))
    monkeypatch.undo()
    waiting = asyncio.create_task(
        find_effect(ArtifactStore.open("memory:"), clone.path, *commits(clone), ("5.4",))
    )
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
