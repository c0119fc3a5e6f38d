"""Who somebody is, by GitHub's word: the web flow of OAuth, and tokens that people made."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Self, TypeVar

import httpx
from pydantic import SecretStr, ValidationError

from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.github.http import API_VERSION, PUBLIC_API
from opam_ci.core.github.limits import is_limited, retry_after
from opam_ci.core.github.model import Login, Tolerant, Word
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.printable import printable
from opam_ci.core.text.status import problems

T = TypeVar("T", bound=Tolerant)

PUBLIC_WEB = "https://github.com"

_TIMEOUT = timedelta(seconds=10)
"""Of a request: a person waits for it."""

_UNAUTHORIZED = 401
_SERVER_ERROR = 500


class _User(Tolerant):
    login: Login


class _Exchanged(Tolerant):
    """GitHub answers 200 to a refused code too, with an error in the body."""

    access_token: SecretStr | None = None
    error: Word = ""


class _Refusal(Tolerant):
    message: str = ""


class OAuth:
    """The OAuth side of a GitHub App, or of an OAuth App.

    It asks for no scope: all that is wanted is the name of the account. What the account may do is
    asked with the CI's own credentials. To be used from one event loop.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: SecretStr,
        *,
        web_url: str = PUBLIC_WEB,
        api_url: str = PUBLIC_API,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            client_id: Of the App.
            client_secret: Of the App.
            web_url: Where people sign in; another one for GitHub Enterprise and for tests.
            api_url: Of the API.
            transport: For tests.
        """
        self._client_id = client_id
        self._client_secret = client_secret
        self._web_url = web_url
        self._api_url = api_url
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=_TIMEOUT.total_seconds(),
            # Sign-ins are rare: a connection that is kept would be a stale one.
            limits=httpx.Limits(max_keepalive_connections=0),
            headers={"User-Agent": "opam-ci", "Accept": "application/json"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def authorize_url(self, *, redirect_uri: str, state: str, challenge: str) -> str:
        """Returns the page on GitHub where a person allows us to know the account's name.

        Args:
            redirect_uri: Where GitHub sends the person back to.
            state: Comes back with the person.
            challenge: Hash of the verifier (PKCE, RFC 7636, method S256).
        """
        query = {
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "allow_signup": "false",
        }
        return str(httpx.URL(f"{self._web_url}/login/oauth/authorize", params=query))

    async def login_of_code(self, code: str, *, redirect_uri: str, verifier: str) -> Login:
        """Returns the account that a code stands for; a code can be used once.

        The token that GitHub gives for it is forgotten at once.

        Args:
            code: As GitHub sent it back with the person.
            redirect_uri: As in `authorize_url`.
            verifier: What the challenge was made from.

        Raises:
            GitHubRefusedError: The code is not valid (any more), or of somebody else's flow.
            InfrastructureError: GitHub is not available.
        """
        response = await self._send(
            "POST",
            f"{self._web_url}/login/oauth/access_token",
            data={
                "client_id": self._client_id,
                "client_secret": self._client_secret.get_secret_value(),
                "code": code,
                "redirect_uri": redirect_uri,
                "code_verifier": verifier,
            },
        )
        found = _parsed(_Exchanged, response)
        if found.access_token is None:
            # Its description names our App's settings, which a stranger need not read.
            raise GitHubRefusedError(
                "the sign-in", status=_UNAUTHORIZED, message=printable(found.error)
            )
        return await self.login_of_token(found.access_token)

    async def login_of_token(self, token: SecretStr) -> Login:
        """Returns the account that a token belongs to.

        Raises:
            GitHubRefusedError: The token is not valid (any more).
            InfrastructureError: GitHub is not available.
        """
        headers = {
            "Authorization": f"Bearer {token.get_secret_value()}",
            "X-GitHub-Api-Version": API_VERSION,
        }
        response = await self._send("GET", f"{self._api_url}/user", headers=headers)
        return _parsed(_User, response).login

    async def _send(
        self,
        method: str,
        url: str,
        *,
        data: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            async with asyncio.timeout(_TIMEOUT.total_seconds()):
                response = await self._http.request(method, url, data=data, headers=headers)
        except (httpx.RequestError, TimeoutError) as error:
            raise InfrastructureError(
                f"GitHub is not reachable: {type(error).__name__}", cause=Cause.GITHUB
            ) from error
        if response.is_success:
            return response
        status = response.status_code
        message = printable(_refusal(response).message)[:200]
        answered = {name.lower(): value for name, value in response.headers.items()}
        if status >= _SERVER_ERROR or is_limited(status, answered, message):
            raise InfrastructureError(
                f"GitHub cannot confirm the account: {status}",
                cause=Cause.GITHUB,
                retry_after=retry_after(status, answered, datetime.now(UTC)),
            )
        raise GitHubRefusedError("the account", status=status, message=message)


def _parsed(model: type[T], response: httpx.Response) -> T:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise InfrastructureError(
            f"invalid response of GitHub to {response.url.path}: {problems(error)}",
            cause=Cause.GITHUB,
        ) from error


def _refusal(response: httpx.Response) -> _Refusal:
    try:
        return _Refusal.model_validate_json(response.content)
    except ValidationError:
        return _Refusal()
