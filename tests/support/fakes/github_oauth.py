"""The OAuth side of the fake GitHub: people who sign in, and tokens that they made."""

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import httpx
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from opam_ci.clients.github.oauth import OAuth
from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_api import api
from tests.support.fakes.github_bodies import user

CLIENT_ID, CLIENT_SECRET = "Iv1.0123456789abcdef", "an oauth secret"


@dataclass
class Authorization:
    """What somebody has allowed, until its code is exchanged."""

    login: str
    redirect_uri: str
    challenge: str


@dataclass
class FakeOAuth:
    """People and their tokens.

    Attributes:
        person: Who sits before the browser; empty for somebody who refuses.
        tokens: Accounts by token.
        codes: By code.
        asked: Requests about an account.
        is_down: Whether GitHub has a server error.
    """

    person: str = "alice"
    tokens: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Authorization] = field(default_factory=dict)
    asked: int = 0
    is_down: bool = False

    def client(self, url: str | None = None) -> OAuth:
        """Returns our client of it: in this process, or where it is served."""
        if url is not None:
            return OAuth(CLIENT_ID, SecretStr(CLIENT_SECRET), web_url=url, api_url=url)
        transport = httpx.ASGITransport(app=self.app())
        return OAuth(CLIENT_ID, SecretStr(CLIENT_SECRET), transport=transport)

    def app(self, fake: FakeGitHub | None = None) -> Starlette:
        """Returns the application, with the API of a fake behind it."""
        return Starlette(
            routes=[
                Route("/login/oauth/authorize", self._authorize),
                Route("/login/oauth/access_token", self._exchange, methods=["POST"]),
                Route("/user", self._user),
                *([Mount("/", api(fake))] if fake is not None else []),
            ]
        )

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        back = query["redirect_uri"]
        if not self.person:
            return RedirectResponse(f"{back}?error=access_denied&state={query['state']}")
        code = f"code{len(self.codes)}"
        self.codes[code] = Authorization(self.person, back, query["code_challenge"])
        return RedirectResponse(f"{back}?code={code}&state={query['state']}")

    async def _exchange(self, request: Request) -> Response:
        if self.is_down:
            return Response(status_code=502)
        form = dict(parse_qsl((await request.body()).decode()))
        found = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            found is None
            or form["client_secret"] != CLIENT_SECRET
            or (found.redirect_uri, found.challenge) != (form["redirect_uri"], challenge)
        ):
            # As GitHub does: the status code is that of a success.
            return JSONResponse(
                {"error": "bad_verification_code", "error_description": "The code is incorrect."}
            )
        token = f"ghu_{found.login}{len(self.tokens)}"
        self.tokens[token] = found.login
        return JSONResponse({"access_token": token, "token_type": "bearer", "scope": ""})

    async def _user(self, request: Request) -> Response:
        self.asked += 1
        if self.is_down:
            return Response(status_code=502)
        login = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if login is None:
            return JSONResponse({"message": "Bad credentials"}, status_code=401)
        return JSONResponse(user(login))
