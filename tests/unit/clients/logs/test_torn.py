"""Objects of the store that a power cut has torn: what they held is made again, or missing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from opam_ci.clients import canary
from opam_ci.clients.lint.findings import load_findings, store_findings
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.platforms.model import EMBEDDED


@pytest.mark.parametrize("torn", [b"", b"\0" * 100])
async def test_archives_of_a_canary_are_stored_again(tmp_path: Path, torn: bytes) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    exported = await canary.export(store, EMBEDDED)
    whole = [await store.get(key) for key in (exported.base_archive, exported.overlay_archive)]
    for key in (exported.base_archive, exported.overlay_archive):
        await store.put(key, torn)
    assert await canary.export(store, EMBEDDED) == exported
    again = [await store.get(key) for key in (exported.base_archive, exported.overlay_archive)]
    assert again == whole


async def test_findings_are_missing(tmp_path: Path) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    key = RevisionKey(
        repository="o/r", number=1, head="a" * 40, opened_at=datetime(2026, 5, 4, tzinfo=UTC)
    )
    await store_findings(store, key, ["a.1"], [])
    [stored] = await store.list("findings")
    await store.put(stored.key, b"")
    assert await load_findings(store, key) == ()
