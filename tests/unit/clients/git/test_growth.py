"""Many pull requests through one installation: clone and store stay as large as the last days.

More: `OPAM_CI_PULL_REQUESTS=1000 ./opam-ci test tests/unit/clients/git/test_growth.py`.
"""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.git import upstream as upstreams
from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.git.upstream import Upstream
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.retention import prune
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord
from tests.support.fakes.clone import Clone, at, opam
from tests.support.fakes.written import write

PULL_REQUESTS = int(os.environ.get("OPAM_CI_PULL_REQUESTS", "60"))
A_DAY = 5 if PULL_REQUESTS < 100 else 40
"""Pull requests in a day, each with an opam file and a patch of its own."""

OPEN = 3
"""How many of the last ones are still open, and one of the first day."""

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
PATCH = 20_000

_log = logging.getLogger(__name__)


def size(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


@pytest.mark.timeout(120 + PULL_REQUESTS)
async def test_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = FIRST_DAY
    monkeypatch.setattr(upstreams, "_PRUNED", "now")
    remote = Clone(tmp_path / "remote.git")
    tip = remote.commit("master", {"repo": b"", **{at(f"a.{n}"): opam() for n in range(300)}})
    upstream = Upstream(tmp_path / "clone.git", remote.path.as_uri())
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    exporter = Exporter(store)
    sizes: list[int] = []
    packs: list[int] = []
    refs: list[int] = []
    heads: dict[int, str] = {}
    for number in range(1, PULL_REQUESTS + 1):
        if number % A_DAY == 1:
            now = FIRST_DAY + timedelta(days=number // A_DAY)
            monkeypatch.setattr(upstreams, "_today", now.date)
            for mark in upstream.directory.glob(upstreams._MAINTAINED):
                os.utime(mark, (0, 0))
        files = {at(f"p{number}.1"): opam(), at(f"p{number}.1", "files/p"): os.urandom(PATCH)}
        heads[number] = remote.commit(f"refs/pull/{number}/head", files, parents=(tip,))
        base = upstream.fetch("master", number, heads[number])
        key = RevisionKey(repository="o/r", number=number, head=heads[number], opened_at=now)
        prepared = await exporter.prepare(
            upstream.directory, key, base, heads[number], base_alone=True
        )
        seconds = now.timestamp()
        for ref in (prepared.merged, prepared.base_alone):
            assert ref is not None
            os.utime(tmp_path / "store" / ref.overlay_archive, (seconds, seconds))
        is_open = number in {1, *range(PULL_REQUESTS - OPEN + 1, PULL_REQUESTS + 1)}
        record = RevisionRecord(key=key, base=base, is_open=is_open, updated_at=now, sequence=1)
        write(index, record)
        if number % 10 == 0:
            # It is merged: the base moves on.
            tip = remote.commit("master", {at(f"m.{number}"): opam()}, parents=(tip,))
        if number % A_DAY == 0:
            await prune(index, store, now - timedelta(days=90), now=now)
            sizes.append(size(upstream.directory))
            packs.append(len(list(upstream.directory.glob("objects/pack/*.pack"))))
            refs.append(len(Clone(upstream.directory).git("for-each-ref").splitlines()))
    # The heads of today and of two days before, the base, and the one for fetching.
    assert max(refs) <= 3 * A_DAY + 2
    assert max(packs) <= upstreams._MAX_PACKS + 1
    assert max(sizes) < 1.3 * (3 * A_DAY + 5) * PATCH + 300_000
    assert max(sizes[len(sizes) // 2 :]) <= 1.2 * max(sizes[: len(sizes) // 2])
    overlays = await store.list("repositories/heads")
    # Of eight days, and of the open one of the first.
    # Each of the merge, and of the base alone.
    assert len(overlays) <= 2 * (9 * A_DAY + 1)
    assert any("/pr-1/" in each.key for each in overlays)
    assert len(await store.list("repositories/bases")) == 1
    _log.info("bytes %s, packs %s, refs %s; %d overlays", sizes, packs, refs, len(overlays))
    assert upstream.has(heads[PULL_REQUESTS])
    # The first one is restarted.
    upstream.fetch("master", 1, heads[1])
    assert upstream.has(heads[1])
    index.close()
