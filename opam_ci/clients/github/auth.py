"""Credentials for GitHub: an App, or a plain token for small set-ups.

No secret leaves this module but in an `Authorization` header: `repr` hides all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AwareDatetime, SecretStr

from opam_ci.core.errors import UsageError
from opam_ci.core.github.model import Tolerant

_JWT_BACKDATED = timedelta(seconds=60)
"""GitHub's advice against clocks that differ."""

_JWT_LIFE = timedelta(minutes=9)
"""GitHub refuses more than ten, counted by its own clock."""

_RENEW_BEFORE = timedelta(minutes=5)
"""How long before it expires a token is renewed: longer than any request takes."""


class InstallationToken(Tolerant):
    """GitHub's response to a request for an installation token.

    Attributes:
        token: Opaque, valid for an hour.
        expires_at: Until when.
    """

    token: SecretStr
    expires_at: AwareDatetime


MakeToken = Callable[[str], Awaitable[InstallationToken]]
"""Requests an installation token from GitHub, with this `Authorization`."""


class Credentials(Protocol):
    """Authorises requests."""

    def as_app(self, now: datetime) -> str:
        """Returns the `Authorization` for `/app` requests.

        Raises:
            UsageError: There is no App.
        """

    async def as_installation(self, now: datetime, make: MakeToken) -> str:
        """Returns the `Authorization` for all other requests."""

    def forget(self, authorization: str) -> bool:
        """Drops a refused installation's authorization.

        Returns:
            Whether a new one can be requested.
        """


@dataclass(frozen=True)
class TokenCredentials:
    """A plain token: a personal one, or that of a machine account.

    Attributes:
        token: The token.
    """

    token: SecretStr = field(repr=False)

    def as_app(self, _now: datetime) -> str:
        """Refuses: only an App has these calls."""
        raise UsageError("this needs a GitHub App: a plain token cannot list or repeat deliveries")

    async def as_installation(self, _now: datetime, _make: MakeToken) -> str:
        """Returns the token."""
        return f"Bearer {self.token.get_secret_value()}"

    def forget(self, _authorization: str) -> bool:
        """Nothing can be renewed."""
        return False


class AppCredentials:
    """A GitHub App: signs its own requests, and caches one installation token."""

    def __init__(self, app_id: int, private_key: bytes) -> None:
        """Loads the key once: parsing it costs a hundred times what signing does.

        Args:
            app_id: The App's id.
            private_key: The PEM file that GitHub offers for download.

        Raises:
            UsageError: The key is not an RSA private key in PEM form.
        """
        self.app_id = app_id
        self._key = _load(private_key)
        self._token: InstallationToken | None = None
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AppCredentials(app_id={self.app_id})"

    def as_app(self, now: datetime) -> str:
        """Returns a JWT signed for this moment."""
        claims = {
            "iat": int((now - _JWT_BACKDATED).timestamp()),
            "exp": int((now + _JWT_LIFE).timestamp()),
            "iss": str(self.app_id),
        }
        return f"Bearer {jwt.encode(claims, self._key, algorithm='RS256')}"

    async def as_installation(self, now: datetime, make: MakeToken) -> str:
        """Returns the cached token, or a new one shortly before it expires."""
        async with self._lock:
            if self._token is None or now >= self._token.expires_at - _RENEW_BEFORE:
                self._token = await make(self.as_app(now))
            return _bearer(self._token)

    def forget(self, authorization: str) -> bool:
        """Drops the installation token, if it is the refused one."""
        if self._token is not None and _bearer(self._token) == authorization:
            self._token = None
        return True


def _bearer(token: InstallationToken) -> str:
    return f"Bearer {token.token.get_secret_value()}"


def _load(pem: bytes) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The error's text is left out: it could quote the file.
        raise UsageError(
            "the GitHub App's private key cannot be read: give the .pem file as downloaded"
        ) from error
    if not isinstance(key, RSAPrivateKey):
        raise UsageError("the GitHub App's private key is not an RSA key")
    return key
