"""Heads share a base in the store; what a head itself changes is always in its overlay."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.records import RevisionKey
from tests.support.fakes.clone import Clone, at, opam

TESTING = RevisionKey(
    repository="o/r", number=1, head="a" * 40, opened_at=datetime(2026, 5, 4, tzinfo=UTC)
)


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    start = clone.commit("master", {"repo": b'opam-version: "2.0"\n', at("a.1"): opam()})
    clone.commit("topic", {at("b.1"): opam()}, parents=(start,))
    return clone


async def test_heads_share_a_base(clone: Clone) -> None:
    exporter = Exporter(ArtifactStore.open("memory:"))
    with Repository.open(clone.path) as repository:
        master, topic = (repository.resolve(name) for name in ("master", "topic"))
        tree = repository.tree_of(topic)
        first = await exporter.export(repository, TESTING, master, tree)
        again = await exporter.export(repository, TESTING, master, tree)
    assert first.base_commit == master
    assert (first.overlay_packages, first.package_count) == (1, 2)
    assert again == first


async def test_a_newer_base_that_has_the_change_too_does_not_empty_the_overlay(
    clone: Clone,
) -> None:
    exporter = Exporter(ArtifactStore.open("memory:"))
    with Repository.open(clone.path) as repository:
        master, topic = (repository.resolve(name) for name in ("master", "topic"))
        tree = repository.tree_of(topic)
        await exporter.export(repository, TESTING, topic, tree)
        made = await exporter.export(repository, TESTING, master, tree)
    assert made.base_commit == topic
    assert made.overlay_packages == 1
