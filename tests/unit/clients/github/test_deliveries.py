"""Accepted deliveries in a database, and what an App's set-up lacks."""

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opam_ci.clients.github.deliveries import KEPT, StoredDeliveries
from opam_ci.clients.index.index import Index
from opam_ci.clients.threads import GIT, LINT, STORE
from opam_ci.core.github.setup import missing
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.web.webhook import Deliveries
from tests.support.fakes.github import EVENTS, PERMISSIONS

NOW = datetime(2026, 3, 1, tzinfo=UTC)


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.sqlite"
    opened = StoredDeliveries.open(url)
    first: Deliveries = opened
    assert not await first.is_accepted("a")
    await first.accept("a")
    await first.accept("a")
    again = StoredDeliveries.open(url)
    assert await again.is_accepted("a")
    assert not await again.is_accepted("b")
    opened.close()
    again.close()


async def test_two_receivers_may_note_the_same_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.sqlite"
    stores = [StoredDeliveries.open(url) for _ in range(2)]
    await asyncio.gather(*(store.accept(f"{n}") for n in range(20) for store in stores))
    assert all([await stores[0].is_accepted(f"{n}") for n in range(20)])
    for store in stores:
        store.close()


async def test_they_are_noted_while_git_store_and_lint_are_stuck(tmp_path: Path) -> None:
    deliveries = StoredDeliveries.open(f"sqlite:///{tmp_path}/index.sqlite")
    released = threading.Event()
    stuck = [
        asyncio.create_task(threads.run(released.wait))
        for threads in (GIT, STORE, LINT)
        for _ in range(40)
    ]
    try:
        await asyncio.wait_for(deliveries.accept("a"), 10)
        assert await asyncio.wait_for(deliveries.is_accepted("a"), 10)
    finally:
        released.set()
        await asyncio.gather(*stuck)
        deliveries.close()


async def test_it_shares_the_index_s_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.sqlite"
    index = Index.open(url)
    deliveries = StoredDeliveries.open(url)
    await deliveries.accept("a")
    index.close()
    Index.open(url).close()
    assert await deliveries.is_accepted("a")
    deliveries.close()


async def test_old_deliveries_are_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/index.sqlite"
    StoredDeliveries.open(url).close()
    early = StoredDeliveries.open(url, clock=lambda: NOW)
    await early.accept("old")
    late = StoredDeliveries.open(url, clock=lambda: NOW + KEPT + timedelta(seconds=1))
    await late.accept("new")
    assert not await early.is_accepted("old")
    assert await early.is_accepted("new")
    early.close()
    late.close()


async def test_trouble_with_the_database_is_said(tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    store = StoredDeliveries.open(f"sqlite:///{file}")
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE webhook_deliveries")
    connection.close()
    with pytest.raises(InfrastructureError):
        await store.accept("a")
    store.close()


def test_a_good_set_up_lacks_nothing() -> None:
    assert missing(PERMISSIONS, EVENTS, checks=True) == ()


def test_what_is_missing_is_named_with_what_to_do() -> None:
    weak = PERMISSIONS | {"statuses": "read"}
    del weak["checks"]
    found = missing(weak, ["push", "pull_request"], checks=True)
    assert found[0] == "give the App the permission statuses: write (to post statuses)"
    assert found[1].startswith("give the App the permission checks: write")
    assert found[2] == "subscribe the App to the event issue_comment (commands in comments)"
    assert len(found) == 3
    assert len(missing({}, [], checks=False)) == 7
