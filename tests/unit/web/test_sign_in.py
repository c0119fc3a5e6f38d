"""Signing in with GitHub: what a browser must bring, and what nobody else can."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opam_ci.core.errors import UsageError
from opam_ci.web.api_problem import problem_response
from opam_ci.web.refusal import RefusedError
from opam_ci.web.sign_in import CODES_A_MINUTE, SESSION_LIFE, SignIn, return_path
from tests.support.fakes.github_oauth import FakeOAuth

URL = "https://ci.example.org"
SECRET = SecretStr("a secret")


def client(app: Starlette, url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=url)


class World:
    """Pages with a sign-in, GitHub, and a browser."""

    def __init__(self, url: str = URL) -> None:
        self.oauth = FakeOAuth()
        self.sign_in = SignIn(self.oauth.client(), SECRET, url=url)
        self.browser = self.another_browser()
        self.github = client(self.oauth.app(), "https://github.com")

    def another_browser(self) -> httpx.AsyncClient:
        async def who(request: Request) -> Response:
            session = self.sign_in.session(request)
            if session is None:
                return JSONResponse({"login": None})
            return JSONResponse({"login": session.login, "token": self.sign_in.form_token(session)})

        async def act(request: Request) -> Response:
            session = self.sign_in.session(request)
            assert session is not None
            self.sign_in.check_form(request, session, request.headers.get("x-csrf-token"))
            return JSONResponse({"acted": session.login})

        async def refused(_: Request, error: Exception) -> Response:
            return problem_response(error)

        app = Starlette(
            routes=[
                *self.sign_in.routes(),
                Route("/who", who),
                Route("/act", act, methods=["POST"]),
            ],
            exception_handlers={RefusedError: refused},
        )
        return client(app, self.sign_in.origin)

    async def begin(self, to: str = "/o/r/pull/7") -> str:
        """Goes to GitHub, and returns the address to which that sends the person back."""
        response = await self.browser.get("/sign-in", params={"to": to})
        assert response.status_code == 303
        there = httpx.URL(response.headers["location"])
        assert there.host == "github.com"
        answer = await self.github.get(there.path, params=dict(there.params))
        return str(answer.headers["location"])

    async def sign(self) -> None:
        assert (await self.browser.get(await self.begin())).status_code == 303

    async def who(self) -> dict[str, str]:
        found: dict[str, str] = (await self.browser.get("/who")).json()
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.browser.aclose()
    await made.github.aclose()


async def test_somebody_signs_in_and_returns_to_the_page(world: World) -> None:
    back = await world.begin("/o/r/pull/7?is=failed")
    response = await world.browser.get(back)
    assert response.headers["location"] == "/o/r/pull/7?is=failed"
    assert (await world.who())["login"] == "alice"
    cookie = next(each for each in response.headers.get_list("set-cookie") if "opam-ci=" in each)
    assert cookie.startswith("__Host-opam-ci=")
    for attribute in ("HttpOnly", "SameSite=lax", "Secure", "Path=/", "Max-Age=28800"):
        assert attribute in cookie
    assert "Domain" not in cookie
    assert not any(token in str(response.headers) for token in world.oauth.tokens)


async def test_no_scope_is_asked_for(world: World) -> None:
    location = (await world.browser.get("/sign-in")).headers["location"]
    assert "scope" not in httpx.URL(location).params


async def test_a_callback_is_good_for_one_time(world: World) -> None:
    back = await world.begin()
    assert (await world.browser.get(back)).status_code == 303
    again = await world.browser.get(back)
    assert again.status_code == 400
    assert "sign in again" in again.json()["detail"]


async def test_a_replayed_code_is_refused_although_the_flow_is_kept(world: World) -> None:
    back = await world.begin()
    flow = dict(world.browser.cookies)
    assert (await world.browser.get(back)).status_code == 303
    world.browser.cookies.update(flow)
    again = await world.browser.get(back)
    assert again.status_code == 403
    assert "bad_verification_code" not in again.text


async def test_another_browser_cannot_finish_a_sign_in(world: World) -> None:
    back = await world.begin()
    other = world.another_browser()
    assert (await other.get(back)).status_code == 400
    # Nor with a flow of its own: an attacker's account would be slipped in there.
    await other.get("/sign-in")
    assert (await other.get(back)).status_code == 400
    await other.aclose()


async def test_who_refuses_at_github_is_told_so(world: World) -> None:
    world.oauth.person = ""
    response = await world.browser.get(await world.begin())
    assert response.status_code == 403
    assert response.json()["detail"] == "GitHub was not allowed to name the account: sign in again"


@pytest.mark.parametrize("change", ["expired", "forged", "of another CI"])
async def test_a_session_ends(world: World, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.sign()
    match change:
        case "expired":
            later = time.time() + SESSION_LIFE.total_seconds() + 1
            monkeypatch.setattr("time.time", lambda: later)
        case "forged":
            text = world.browser.cookies["__Host-opam-ci"]
            world.browser.cookies.set("__Host-opam-ci", f"x{text}", domain="ci.example.org")
        case _:
            other = SignIn(world.oauth.client(), SecretStr("another"), url=URL)
            world.sign_in._sessions = other._sessions
    response = await world.browser.get("/who", headers={"cookie": cookies(world)})
    assert response.status_code == 401
    assert "sign in again" in response.json()["detail"]


def cookies(world: World) -> str:
    return "; ".join(f"{each.name}={each.value}" for each in world.browser.cookies.jar)


async def test_strangers_cannot_have_github_asked_without_end(world: World) -> None:
    for _ in range(CODES_A_MINUTE):
        back = httpx.URL(await world.begin())
        forged = back.copy_set_param("code", "forged")
        assert (await world.browser.get(forged)).status_code == 403
    refused = await world.browser.get(await world.begin())
    assert refused.status_code == 429
    assert "repeat it in" in refused.json()["detail"]


async def test_signing_out_takes_a_page_of_ours(world: World) -> None:
    await world.sign()
    cross = await world.browser.post("/sign-out", headers={"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403
    assert (await world.who())["login"] == "alice"
    assert (await world.browser.post("/sign-out")).status_code == 303
    assert (await world.who())["login"] is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": URL}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"x-csrf-token": ""}, 403),
        ({"x-csrf-token": "forged"}, 403),
    ],
)
async def test_only_pages_of_ours_act(world: World, headers: dict[str, str], status: int) -> None:
    await world.sign()
    token = (await world.who())["token"]
    response = await world.browser.post("/act", headers={"x-csrf-token": token, **headers})
    assert response.status_code == status


async def test_a_form_of_another_session_does_not_act(world: World) -> None:
    await world.sign()
    token = (await world.who())["token"]
    world.oauth.person = "bob"
    await world.sign()
    assert (await world.who())["login"] == "bob"
    assert (await world.browser.post("/act", headers={"x-csrf-token": token})).status_code == 403


async def test_a_cookie_of_the_flow_is_not_a_session(world: World) -> None:
    await world.begin()
    flow = world.browser.cookies["__Host-opam-ci-flow"]
    response = await world.browser.get("/who", headers={"cookie": f"__Host-opam-ci={flow}"})
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("to", "path"),
    [
        ("/o/r/pull/7?q=is:failed#L1", "/o/r/pull/7?q=is:failed#L1"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/a\\b", "/"),
        ("/\nset-cookie: a=b", "/"),
        ("/" + "a" * 600, "/"),
        ("", "/"),
        (None, "/"),
    ],
)
def test_nobody_is_sent_elsewhere(to: str | None, path: str) -> None:
    assert return_path(to) == path


async def test_pages_at_a_loopback_address_need_no_tls_and_others_do() -> None:
    world = World("http://127.0.0.1:8080")
    await world.sign()
    assert "opam-ci" in world.browser.cookies
    with pytest.raises(UsageError, match="sign-in needs https"):
        SignIn(world.oauth.client(), SECRET, url="http://ci.example.org")
