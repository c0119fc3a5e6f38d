"""Whose token a request has: GitHub is asked, and the answer kept for a minute."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta

from pydantic import SecretStr

from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.clients.github.oauth import OAuth
from opam_ci.core.github.model import Login
from opam_ci.web.refusal import RefusedError
from opam_ci.web.throttle import Throttle

KEPT_FOR = timedelta(seconds=60)
"""How long a token counts as valid that was revoked meanwhile."""

CHECKS_A_MINUTE = 30
"""Questions to GitHub."""

_KEPT = 1000

_PERSONAL = re.compile(r"(?:ghp_|github_pat_)[A-Za-z0-9_]{1,250}")
_CHALLENGE = {"www-authenticate": "Bearer"}

HINT = (
    "send a personal access token of GitHub's, which needs no permission, as "
    "`Authorization: Bearer …`"
)


class Tokens:
    """Accounts by their tokens.

    Only tokens that people make for themselves count: one that another application got of its
    users must not act here in their names.
    """

    def __init__(self, oauth: OAuth, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._oauth = oauth
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Login, float]] = OrderedDict()
        self._checks = Throttle(CHECKS_A_MINUTE, clock=clock)

    async def login(self, header: str) -> Login:
        """Returns the account that an `Authorization` header is of.

        Raises:
            RefusedError: It is not one, or too many were checked.
            InfrastructureError: GitHub is not available.
        """
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not _PERSONAL.fullmatch(token):
            raise RefusedError(401, f"not a personal access token: {HINT}", headers=_CHALLENGE)
        now, digest = self._clock(), hashlib.sha256(token.encode()).digest()
        login, until = self._known.get(digest, ("", now))
        if now < until:
            return login
        self._checks.count()
        try:
            login = await self._oauth.login_of_token(SecretStr(token))
        except GitHubRefusedError as error:
            raise RefusedError(
                401, "GitHub does not know the token (any more): make another one",
                headers=_CHALLENGE,
            ) from error  # fmt: skip
        self._known[digest] = login, now + KEPT_FOR.total_seconds()
        self._known.move_to_end(digest)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return login
