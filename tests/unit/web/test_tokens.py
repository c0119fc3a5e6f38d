"""Tokens of the command line: whose they are, and what strangers with others can bring about."""

import pytest

from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.web.refusal import RefusedError
from opam_ci.web.tokens import CHECKS_A_MINUTE, KEPT_FOR, Tokens
from tests.support.fakes.github_oauth import FakeOAuth


class World:
    """GitHub, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.oauth = FakeOAuth(tokens={"ghp_alice": "alice", "gho_bob": "bob"})
        self.tokens = Tokens(self.oauth.client(), clock=lambda: self.now)

    async def refusal(self, header: str) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            await self.tokens.login(header)
        return caught.value


async def test_github_is_asked_once_a_minute_whose_a_token_is() -> None:
    world = World()
    for _ in range(3):
        assert await world.tokens.login("Bearer ghp_alice") == "alice"
    assert world.oauth.asked == 1
    del world.oauth.tokens["ghp_alice"]
    world.now += KEPT_FOR.total_seconds() - 1
    assert await world.tokens.login("bearer ghp_alice") == "alice"
    world.now += 1
    refusal = await world.refusal("Bearer ghp_alice")
    assert (refusal.status, str(refusal)) == (
        401,
        "GitHub does not know the token (any more): make another one",
    )


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic ghp_alice", "Bearer gho_bob", "Bearer ghp_a b", "Bearer \xe9"],
)
async def test_only_tokens_that_people_made_themselves_count(header: str) -> None:
    """An application that somebody signed in to has a token too: it must not restart jobs."""
    world = World()
    refusal = await world.refusal(header)
    assert refusal.status == 401
    assert refusal.headers == {"www-authenticate": "Bearer"}
    assert world.oauth.asked == 0


async def test_strangers_cannot_have_github_block_us() -> None:
    world = World()
    for number in range(CHECKS_A_MINUTE):
        assert (await world.refusal(f"Bearer ghp_{number}")).status == 401
    refusal = await world.refusal("Bearer ghp_another")
    assert (refusal.status, refusal.headers) == (429, {"retry-after": "61"})
    assert world.oauth.asked == CHECKS_A_MINUTE
    world.now += 60
    assert await world.tokens.login("Bearer ghp_alice") == "alice"


async def test_a_fault_of_github_is_not_the_tokens() -> None:
    world = World()
    world.oauth.is_down = True
    with pytest.raises(InfrastructureError):
        await world.tokens.login("Bearer ghp_alice")
