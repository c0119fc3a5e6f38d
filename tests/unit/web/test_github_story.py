"""Stories of a fake GitHub, the receiver, the client and the decisions between them."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.github.posting import Posting, post_due
from opam_ci.clients.github.redelivery import confirmed
from opam_ci.core.github.action import (
    Action,
    Cancel,
    Closed,
    HeadChanged,
    Restart,
    Tracked,
    UnknownCommand,
)
from opam_ci.core.github.checks import BUTTON_ERRORS, BUTTON_FAILED, CheckRun
from opam_ci.core.github.debounce import Debounce, Posted
from opam_ci.core.github.reconcile import compare, to_redeliver
from opam_ci.core.github.status import Status
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from opam_ci.core.jobs.summary import State
from opam_ci.web.webhook import Webhook
from tests.support.fakes.deliveries import InMemoryDeliveries
from tests.support.fakes.github import FakeGitHub, InjectedFault
from tests.support.fakes.github_wire import connect, listener

HEADS = [f"{number}" * 40 for number in range(10)]
PACE = Debounce()


class Ci:
    """The parts of a CI that are needed here: it records the actions that it receives."""

    def __init__(self, fake: FakeGitHub) -> None:
        self.fake = fake
        self.github: GitHub = connect(fake)
        self.tracked = Tracked(repository=fake.full_name, app_id=fake.app_id)
        self.asked: list[Action] = []
        self.posted: dict[str, Posted] = {}
        self.broken = False
        self.listener = listener(
            Webhook(
                secret=fake.secret,
                tracked=self.tracked,
                accept=self._accept,
                deliveries=InMemoryDeliveries(),
            )
        )
        fake.listener = self.listener

    async def _accept(self, action: Action, _delivery: str) -> None:
        if self.broken:
            raise ConnectionError("no Temporal")
        self.asked.append(action)

    def last(self) -> Action:
        return self.asked[-1]

    async def says(self, head: str, state: State, words: str) -> Posting:
        wanted = Status(context="opam-ci", sha=head, state=state, description=words)
        send, clock = self.github.create_status, self.fake.clock
        done = await post_due(send, (wanted,), self.posted, clock=clock, debounce=PACE)
        self.posted = done.posted
        return done


@pytest.fixture
async def ci() -> AsyncIterator[Ci]:
    made = Ci(FakeGitHub())
    yield made
    await made.github.close()


async def test_a_pull_request_from_its_opening_to_its_merge(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1])
    assert isinstance(ci.last(), HeadChanged)
    await ci.says(HEADS[1], State.PENDING, "Analysing the change")
    await fake.push(1, HEADS[2])
    await fake.push(1, HEADS[3])
    heads = [action.head for action in ci.asked if isinstance(action, HeadChanged)]
    assert heads == HEADS[1:4]

    words = "Internal CI error, not your package: disk full"
    await ci.says(HEADS[3], State.ERROR, words)
    assert fake.last_status(HEADS[3]) == ("error", words)
    external_id = ci.tracked.ref(1).workflow_id
    run = CheckRun(
        name="opam-ci",
        head_sha=HEADS[3],
        external_id=external_id,
        conclusion="neutral",
        actions=(BUTTON_ERRORS, BUTTON_FAILED),
    )
    await fake.press(await ci.github.create_check_run(run), "restart-errors", "maintainer")
    assert ci.last() == Restart(
        numbers=(1,),
        head=HEADS[3],
        selectors=(RestartSelector(which=RestartWhich.ERRORED),),
        by="maintainer",
        check_permission=False,
    )
    await ci.says(HEADS[3], State.PENDING, "3/4 done")
    await ci.says(HEADS[3], State.SUCCESS, "4 passed")
    await fake.close(1, merged=True)
    assert ci.last() == Closed(pull_request=ci.tracked.ref(1), why="merged", as_of=fake.now)
    assert fake.last_status(HEADS[3]) == ("success", "4 passed")
    assert all(delivery["status_code"] in {200, 202} for delivery in fake.deliveries)


async def test_commands_are_for_the_author_and_for_those_who_may_write(ci: Ci) -> None:
    fake = ci.fake
    fake.roles = {"maintainer": "write"}
    await fake.open(1, HEADS[1], author="alice")
    allowed = {}
    for who in ("alice", "maintainer", "mallory"):
        await fake.write(1, "/opam-ci cancel", by=who)
        cancel = ci.last()
        assert isinstance(cancel, Cancel)
        allowed[who] = not cancel.check_permission or await ci.github.may_command(cancel.by)
    assert allowed == {"alice": True, "maintainer": True, "mallory": False}
    await fake.write(1, "/opam-ci hello", by="alice")
    misunderstood = ci.last()
    assert isinstance(misunderstood, UnknownCommand)
    await ci.github.comment(1, misunderstood.answer)
    assert "No such command" in fake.comments[0]["body"]
    before = len(ci.asked)
    await fake.write(1, "/opam-ci cancel", by="opam-ci[bot]")
    assert len(ci.asked) == before


async def test_pull_request_that_moves_to_another_base_and_back(ci: Ci) -> None:
    await ci.fake.open(1, HEADS[1])
    await ci.fake.retarget(1, "2.0")
    assert ci.last() == Closed(pull_request=ci.tracked.ref(1), why="moved", as_of=ci.fake.now)
    await ci.fake.retarget(1, "master")
    back = ci.last()
    assert isinstance(back, HeadChanged)
    assert back.again


async def test_ci_that_was_down_for_a_day_catches_up(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1])
    await fake.open(2, HEADS[2])
    running = {1: HEADS[1], 2: HEADS[2]}
    fake.listener = None
    await fake.push(1, HEADS[3])
    fake.advance(hours=12)
    await fake.close(2, merged=True)
    await fake.open(4, HEADS[4])
    fake.advance(hours=12)
    # It is back, but not quite: Temporal is still down.
    fake.listener, ci.broken = ci.listener, True
    await fake.open(5, HEADS[5])
    assert fake.deliveries[-1]["status_code"] == 503

    ci.broken = False
    ci.asked.clear()
    found = compare(
        await ci.github.open_pull_requests("master"), running, ci.tracked, lately=fake.now
    )
    assert [(one.pull_request.number, one.head) for one in found.missed] == [
        (1, HEADS[3]),
        (4, HEADS[4]),
        (5, HEADS[5]),
    ]
    assert [(await ci.github.pull_request(n)).state for n in found.suspects] == ["closed"]

    async def redeliver() -> int:
        since = fake.now - timedelta(days=3)
        failed = to_redeliver(await ci.github.deliveries(since), fake.now)
        for delivery in failed:
            await ci.github.redeliver(delivery)
        return len(failed)

    assert await redeliver() == 4
    assert [action.kind for action in ci.asked] == [
        "head_changed",
        "closed",
        "head_changed",
        "head_changed",
    ]
    assert await redeliver() == 0


async def test_late_deliveries_bring_nothing_old_back(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1])
    await fake.push(1, HEADS[2])
    await fake.open(2, HEADS[3])
    await fake.close(2)
    await fake.open(3, HEADS[4])
    late = list(ci.asked)
    assert [await confirmed(one, ci.github, ci.tracked, fake.now) for one in late] == late
    assert not [path for _, path, _ in fake.requests if "/pulls/" in path]

    fake.advance(minutes=2)
    now = [await confirmed(one, ci.github, ci.tracked, fake.now) for one in late]
    heads = [(a.kind, a.head if isinstance(a, HeadChanged) else "") for a in now]
    assert heads == [
        ("head_changed", HEADS[2]),
        ("head_changed", HEADS[2]),
        ("closed", ""),
        ("closed", ""),
        ("head_changed", HEADS[4]),
    ]
    fake.pulls[3].base_ref = "2.0"
    moved = await confirmed(late[-1], ci.github, ci.tracked, fake.now)
    assert isinstance(moved, Closed)
    assert moved.why == "moved"
    fake.pulls[2].state = "open"
    reopened = await confirmed(late[3], ci.github, ci.tracked, fake.now)
    assert isinstance(reopened, HeadChanged)
    fake.pulls.clear()
    with pytest.raises(GitHubRefusedError):
        await confirmed(late[0], ci.github, ci.tracked, fake.now)


async def test_github_down_for_an_hour_loses_nothing(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1])
    await ci.says(HEADS[1], State.PENDING, "0/9 done")
    fake.troubles = [InjectedFault("/statuses/", 502, times=10**6)]
    end = fake.now + timedelta(hours=1)
    number = 0
    while fake.now < end:
        number += 1
        done = await ci.says(HEADS[1], State.PENDING, f"{number}/999 done")
        fake.now = done.next_at or end
    broken = await ci.says(HEADS[1], State.FAILURE, "1 failed, 998 passed")
    assert broken.trouble is not None
    assert "502" in broken.trouble
    fake.troubles.clear()
    fake.now = broken.next_at or end
    done = await ci.says(HEADS[1], State.FAILURE, "1 failed, 998 passed")
    assert (done.trouble, done.next_at) == (None, None)
    # Nothing of what was meanwhile comes late.
    words = [status["description"] for status in fake.statuses[HEADS[1], "opam-ci"]]
    assert words == ["0/9 done", "1 failed, 998 passed"]


async def test_rate_limit_is_waited_for_as_long_as_it_says(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1])
    fake.troubles = [InjectedFault("/statuses/", 429, {"retry-after": "300"})]
    done = await ci.says(HEADS[1], State.PENDING, "0/9 done")
    assert done.next_at == fake.now + timedelta(seconds=300)
    fake.advance(seconds=300)
    assert (await ci.says(HEADS[1], State.PENDING, "5/9 done")).trouble is None
    assert fake.last_status(HEADS[1]) == ("pending", "5/9 done")


async def test_refused_head_is_recorded_once_and_accepted_later(ci: Ci) -> None:
    fake = ci.fake
    await fake.open(1, HEADS[1], fork_deleted=True)
    assert isinstance(ci.last(), HeadChanged)
    fake.commits.clear()
    first = await ci.says(HEADS[1], State.PENDING, "0/9 done")
    assert (first.refused, first.trouble) == ((), None)
    assert first.next_at == fake.now + timedelta(minutes=1)
    refused = [text for state in State for text in (await ci.says(HEADS[1], state, "9")).refused]
    (note,) = refused
    assert note == (
        f"opam-ci: GitHub refuses POST /repos/ocaml/opam-repository/statuses/{HEADS[1]}: 422 "
        f"No commit found for SHA: {HEADS[1]}; it is tried again for a day"
    )
    fake.commits.add(HEADS[1])
    assert (await ci.says(HEADS[1], State.SUCCESS, "9 passed")).next_at is None
    assert fake.last_status(HEADS[1]) == ("success", "9 passed")
