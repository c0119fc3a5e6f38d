"""Signing in with GitHub: OAuth's web flow, a signed cookie, and what a form must prove.

The cookie holds the name of the account and nothing that GitHub gave us. It is no permission: what
the account may do is asked of GitHub at each action (`web/actions.py`).
"""

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
from pydantic import Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.github.oauth import OAuth
from opam_ci.core.errors import UsageError
from opam_ci.core.github.model import Login
from opam_ci.core.model import Frozen
from opam_ci.web.refusal import RefusedError
from opam_ci.web.throttle import Throttle

SESSION_LIFE: Final = timedelta(hours=8)
"""From the sign-in on; a session is not prolonged."""

FLOW_LIFE: Final = timedelta(minutes=10)
"""For a person to sign in at GitHub; its codes live as long."""

CODES_A_MINUTE: Final = 60
"""Codes about which GitHub is asked."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_RETURN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]{0,500}")
"""A path of ours: printable ASCII without a backslash, which browsers read as a slash."""

_CODE = re.compile(r"[!-~]{1,200}")


class Session(Frozen):
    """Who is signed in.

    Attributes:
        login: The account.
        id: Of the session, random: what a form must prove is made from it.
    """

    login: Login
    id: str = Field(max_length=50)


class _Flow(Frozen):
    """A sign-in that has begun, kept by the browser alone.

    Attributes:
        state: Comes back from GitHub: this browser began the flow.
        verifier: Of PKCE: who has the code without it can do nothing.
        to: Path of the page to return to.
    """

    state: str = Field(max_length=100)
    verifier: str = Field(max_length=100)
    to: str


class SignIn:
    """Signs people in, and knows who a request is from."""

    def __init__(self, oauth: OAuth, secret: SecretStr, *, url: str) -> None:
        """Makes it for pages at one address.

        Args:
            oauth: Of the App.
            secret: Cookies are signed with keys made from it: that of the App. A new one ends all
                sessions.
            url: Of the pages, as browsers see them: scheme, host and port.

        Raises:
            UsageError: It is plain HTTP at an address that others can reach.
        """
        address = urlsplit(url)
        self._is_secure = address.scheme == "https"
        if not self._is_secure and address.hostname not in _LOOPBACK:
            raise UsageError(
                f"sign-in needs https: {url} would send cookies that others can read; put a proxy "
                "with TLS before it, and set OPAM_CI_PAGES_URL to its address"
            )
        self.origin = f"{address.scheme}://{address.netloc}"
        self._oauth = oauth
        self._throttle = Throttle(CODES_A_MINUTE)
        key = secret.get_secret_value()
        self._sessions = _serializer(key, "session")
        self._flows = _serializer(key, "flow")
        self._forms = _serializer(key, "form")
        # Browsers refuse the prefix without TLS.
        prefix = "__Host-" if self._is_secure else ""
        self.cookie = f"{prefix}opam-ci"
        self._flow_cookie = f"{prefix}opam-ci-flow"

    def routes(self) -> list[Route]:
        """Returns the routes of signing in and out."""
        return [
            Route("/sign-in", self.begin, methods=["GET"]),
            Route("/sign-in/callback", self.finish, methods=["GET"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
        ]

    def session(self, request: Request) -> Session | None:
        """Returns who a request is from; None without a cookie.

        Raises:
            RefusedError: The session has expired, or the cookie is not ours.
        """
        text = request.cookies.get(self.cookie)
        if text is None:
            return None
        try:
            found = self._sessions.loads(text, max_age=SESSION_LIFE.seconds)
            return Session.model_validate(found)
        except SignatureExpired as error:
            raise RefusedError(401, "the session has expired: sign in again") from error
        except (BadData, ValidationError) as error:
            raise RefusedError(401, "the session is not valid: sign in again") from error

    def new_session(self, login: Login) -> Session:
        """Returns a session of somebody whom GitHub has named."""
        return Session(login=login, id=secrets.token_urlsafe(16))

    def cookie_of(self, session: Session) -> str:
        """Returns the value of a session's cookie."""
        return str(self._sessions.dumps(session.model_dump()))

    def form_token(self, session: Session) -> str:
        """Returns what a form of this session must bring back."""
        return str(self._forms.dumps(session.id))

    def check_form(self, request: Request, session: Session, token: str | None) -> None:
        """Refuses a request that a page of somebody else's may have sent.

        Args:
            request: The request.
            session: Whose it is.
            token: What it brought back of `form_token`.

        Raises:
            RefusedError: It came from another site, or lacks the token.
        """
        self.check_site(request)
        try:
            proven = self._forms.loads(token or "", max_age=SESSION_LIFE.seconds)
        except BadData as error:
            raise RefusedError(
                403, "the form is outdated or not of this session: load the page again"
            ) from error
        if proven != session.id:
            raise RefusedError(
                403, "the form is outdated or not of this session: load the page again"
            )

    def check_site(self, request: Request) -> None:
        """Refuses a request that a browser sends for another site.

        Raises:
            RefusedError: It does.
        """
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin", self.origin)
        if site != "same-origin" or origin != self.origin:
            raise RefusedError(403, "the request came from another site: nothing was done")

    async def begin(self, request: Request) -> Response:
        """Answers `GET /sign-in?to=…`: sends the person to GitHub."""
        flow = _Flow(
            state=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            to=return_path(request.query_params.get("to")),
        )
        digest = hashlib.sha256(flow.verifier.encode()).digest()
        response = RedirectResponse(
            self._oauth.authorize_url(
                redirect_uri=self._redirect_uri,
                state=flow.state,
                challenge=urlsafe_b64encode(digest).rstrip(b"=").decode(),
            ),
            status_code=303,
        )
        self._set(response, self._flow_cookie, self._flows.dumps(flow.model_dump()), FLOW_LIFE)
        return response

    async def finish(self, request: Request) -> Response:
        """Answers `GET /sign-in/callback`: makes the session, and returns to where it began.

        Raises:
            RefusedError: This browser began no such sign-in, or GitHub does not confirm it.
            InfrastructureError: GitHub is not available.
        """
        flow = self._flow(request)
        if "error" in request.query_params:
            raise RefusedError(403, "GitHub was not allowed to name the account: sign in again")
        code = request.query_params.get("code", "")
        if not _CODE.fullmatch(code):
            raise RefusedError(400, "the sign-in lacks GitHub's code: sign in again")
        self._throttle.count()
        try:
            login = await self._oauth.login_of_code(
                code, redirect_uri=self._redirect_uri, verifier=flow.verifier
            )
        except GitHubRefusedError as error:
            raise RefusedError(403, "GitHub did not confirm the account: sign in again") from error
        response = RedirectResponse(flow.to, status_code=303)
        self._set(response, self.cookie, self.cookie_of(self.new_session(login)), SESSION_LIFE)
        self._delete(response, self._flow_cookie)
        return response

    async def sign_out(self, request: Request) -> Response:
        """Answers `POST /sign-out`.

        Raises:
            RefusedError: Another site sent it.
        """
        self.check_site(request)
        response = RedirectResponse("/", status_code=303)
        self._delete(response, self.cookie)
        return response

    @property
    def _redirect_uri(self) -> str:
        return f"{self.origin}/sign-in/callback"

    def _flow(self, request: Request) -> _Flow:
        """Returns the flow that this browser began.

        Raises:
            RefusedError: There is none, or it is another one than GitHub's answer is of.
        """
        refused = RefusedError(
            400, "this sign-in was not begun here, or over ten minutes ago: sign in again"
        )
        try:
            text = request.cookies.get(self._flow_cookie, "")
            flow = _Flow.model_validate(self._flows.loads(text, max_age=FLOW_LIFE.seconds))
        except (BadData, ValidationError) as error:
            raise refused from error
        state = request.query_params.get("state", "")
        if not secrets.compare_digest(state.encode(), flow.state.encode()):
            raise refused
        return flow

    def _set(self, response: Response, name: str, value: str, life: timedelta) -> None:
        response.set_cookie(
            name,
            value,
            max_age=int(life.total_seconds()),
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",
        )
        response.headers["cache-control"] = "no-store"

    def _delete(self, response: Response, name: str) -> None:
        response.delete_cookie(
            name, path="/", secure=self._is_secure, httponly=True, samesite="lax"
        )
        response.headers["cache-control"] = "no-store"


def return_path(text: str | None) -> str:
    """Returns the path of a page of ours, the front page instead of anything else."""
    return text if text is not None and _RETURN_PATH.fullmatch(text) else "/"


def _serializer(key: str, purpose: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(
        key,
        salt=f"opam-ci {purpose}",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )
