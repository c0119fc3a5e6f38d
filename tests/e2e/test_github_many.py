"""A thousand deliveries, a fifth of them twice, in any order: exactly the right workflows."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from opam_ci.activities import github as activities
from opam_ci.app.connection import ensure_search_attributes
from opam_ci.app.github_service import github_worker
from opam_ci.cli.local import services
from opam_ci.core.github import redelivery as late
from opam_ci.core.submission.result import Analysis
from tests.support.fakes import github_api
from tests.support.fakes.github_stage import Stage, policy_for
from tests.support.fakes.world import Script, workers
from tests.support.ports import free_port
from tests.support.worlds.github import LiveGitHub

pytestmark = pytest.mark.e2e

PULLS = 310


@pytest.fixture
async def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    # A close that came too early is looked at again after this time; normally a minute.
    for module in (late, activities):
        monkeypatch.setattr(module, "LATE_AFTER", timedelta(seconds=20))
    # GitHub's limits are another test's matter.
    monkeypatch.setattr(github_api, "CREATIONS_A_MINUTE", 10**6)
    monkeypatch.setattr(github_api, "POINTS_A_MINUTE", 10**6)
    port = free_port()
    server = await asyncio.to_thread(
        services.start_temporal, tmp_path, port=port, ui_port=free_port()
    )
    try:
        client = await Client.connect(server.address, data_converter=pydantic_data_converter)
        await ensure_search_attributes(client)
        script = Script()
        # Nothing to build: this is about the workflows, and there are many.
        script.analysis = Analysis(merge_tree="e" * 40)
        fake = LiveGitHub(page_size=50)
        policy = policy_for().model_copy(update={"report": None})
        made = Stage(client, fake, script, policy=policy, clones=tmp_path, sleep=asyncio.sleep)
        yield made
        await made.github.close()
    finally:
        await asyncio.to_thread(services.stop, tmp_path)


async def live(fake: LiveGitHub, chance: random.Random) -> None:
    """What people do with many pull requests within a few moments."""
    numbers = list(range(1, PULLS + 1))
    for number in numbers:
        await fake.open(number, f"{number:039x}0")
    for step in (1, 2):
        # GitHub's clock has seconds.
        await asyncio.sleep(0.3)
        for number in chance.sample(numbers, 2 * PULLS // 3):
            await fake.push(number, f"{number:039x}{step}")
    for number in chance.sample(numbers, PULLS // 3):
        await fake.close(number, merged=chance.random() < 0.5)
    for number in chance.sample(numbers, 22):
        if fake.pulls[number].state == "open":
            await fake.retarget(number, "2.0")


@pytest.mark.timeout(600)  # a minute where nothing else runs
async def test_a_thousand_deliveries_in_any_order(stage: Stage) -> None:
    chance = random.Random(7)  # noqa: S311 - no secrets
    fake = stage.fake
    assert isinstance(fake, LiveGitHub)
    receiver, fake.listener = fake.listener, None
    assert receiver is not None
    await live(fake, chance)
    events = [delivery["id"] for delivery in fake.deliveries]
    ids = events + chance.sample(events, len(events) // 5)
    chance.shuffle(ids)
    assert len(ids) >= 1000
    fake.listener = receiver
    gate = asyncio.Semaphore(10)

    async def redeliver(delivery: int) -> None:
        async with gate:
            await fake.redeliver(delivery)

    await asyncio.gather(*(redeliver(delivery) for delivery in ids))
    codes = {each["status_code"] for each in fake.deliveries if each["redelivery"]}
    assert codes <= {200, 202}
    # Only now anybody works: what was accepted waits on the server.
    async with workers(stage.client, stage.script), github_worker(stage.client, stage.activities):
        await settled(stage)
    print(f"{len(ids)} deliveries of {len(events)} events")  # noqa: T201


async def settled(stage: Stage) -> None:
    fake = stage.fake
    wanted = {
        number: pull.head
        for number, pull in fake.pulls.items()
        if pull.state == "open" and pull.base_ref == "master"
    }
    found: dict[int, str] = {}
    for _ in range(250):
        await asyncio.sleep(2)
        found = await stage.pull_requests.running("ocaml", "opam-repository")
        if found == wanted:
            break
    wrong = {
        number: (found.get(number), wanted.get(number))
        for number in fake.pulls
        if found.get(number) != wanted.get(number)
    }
    assert not wrong
