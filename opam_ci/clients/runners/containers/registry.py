"""Looking up the digest that an image's tag has now.

Registries are queried directly, by `HEAD`: that works for lists of images and for single ones
alike, needs no container engine where workflows run, and does not count as a pull in Docker
Hub's limits. `podman manifest inspect` does neither of the first two: it does not show a
list's digest, refuses an image that is not a list, and prefers a local copy to the registry.
"""

import asyncio
import json
import math
import time
from datetime import timedelta
from typing import Final

import httpx

from opam_ci.clients.runners.containers import credentials
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.images import DIGEST, ImageReference, bearer_challenge, parse_image

_MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TIMEOUT: Final = httpx.Timeout(20, connect=10)
#: For all requests about one image: a token may be needed, and a registry may drip.
_TOTAL_TIMEOUT: Final = timedelta(seconds=60)
_ENGINE_TIMEOUT: Final = timedelta(seconds=30)
#: How long no request is sent to a registry that timed out: until then its images are faults at
#: once, so that many platforms of one registry do not take all activities of a worker.
_UNAVAILABLE_FOR: Final = timedelta(seconds=15)
_CACHED_FOR: Final = timedelta(hours=1)


class UnknownImageError(UnfitImageError):
    """The registry or engine answers, but does not have the image, or denies access to it."""


class ImageResolver:
    """Looks up digests, and caches them.

    Args:
        engine: Client of the engine that has the machine's own images: another one has others.
        known_for: How long a tag's digest is cached; images of distributions are rebuilt every
            few days.
        timeout: Of one request to a registry.
    """

    def __init__(
        self,
        *,
        engine: str = "podman",
        known_for: timedelta = _CACHED_FOR,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> None:
        self._engine = Engine(engine)
        self._known_for = known_for.total_seconds()
        self._timeout = timeout
        self._known: dict[str, tuple[float, str]] = {}
        self._unavailable: dict[str, tuple[float, str]] = {}

    async def resolve(self, image: str) -> str:
        """Returns the reference by digest of the image that a tag refers to now.

        For a list of images by architecture it is the list's digest: an engine that gets the
        architecture (`--platform`) takes the one that it needs from it.

        Args:
            image: A well-formed reference; one by digest is returned unchanged.

        Raises:
            UnknownImageError: There is no such image.
            InfrastructureError: Cause `image`: the registry or the engine does not answer.
        """
        reference = parse_image(image)
        if reference.digest is not None:
            return image
        now = time.monotonic()
        if image in self._known and now - self._known[image][0] < self._known_for:
            return self._known[image][1]
        if reference.is_local:
            # A machine's own images can change at any time, and inspecting them is cheap.
            return await self._inspect(image, reference)
        failed_at, why = self._unavailable.get(reference.host, (-math.inf, ""))
        if now - failed_at < _UNAVAILABLE_FOR.total_seconds():
            raise _fault(f"image {image}: {why}")
        found = reference.at(await self.digest(image))
        self._known[image] = (now, found)
        return found

    async def digest(self, image: str) -> str:
        """Asks a registry for the digest of an image, also of one by digest.

        Args:
            image: A well-formed reference to an image that is not local.

        Raises:
            UnknownImageError: The registry does not have it, or refuses it to this machine.
            InfrastructureError: Cause `image`: the registry does not answer.
        """
        reference = parse_image(image)
        login = await asyncio.to_thread(credentials.login, reference.host, reference.path)
        headers = {"Accept": ", ".join(_MANIFESTS)}
        try:
            async with (
                asyncio.timeout(_TOTAL_TIMEOUT.total_seconds()),
                httpx.AsyncClient(
                    timeout=self._timeout,
                    follow_redirects=True,
                    # No proxy leads to this machine.
                    trust_env=not reference.is_on_loopback,
                ) as http,
            ):
                response = await http.head(reference.manifest_url, headers=headers)
                if response.status_code == httpx.codes.UNAUTHORIZED:
                    authorization = await _authorization(http, response, login)
                    if authorization is not None:
                        headers["Authorization"] = authorization
                        response = await http.head(reference.manifest_url, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            why = f"registry {reference.host} does not answer: {str(error) or type(error).__name__}"
            if isinstance(error, httpx.TimeoutException | TimeoutError):
                self._unavailable[reference.host] = (time.monotonic(), why)
            raise _fault(f"image {image}: {why}") from error
        if response.status_code in _DENIED and login is not None:
            raise UnknownImageError(
                f"image {image}: registry {reference.host} refuses this machine's login: HTTP "
                f"{response.status_code}; log in again: podman login {reference.host}"
            )
        if response.status_code in _NOT_THERE:
            raise UnknownImageError(
                f"image {image}: registry {reference.host} does not have it, or denies access: "
                f"HTTP {response.status_code}"
            )
        if not response.is_success:
            raise _fault(
                f"image {image}: registry {reference.host} answers HTTP {response.status_code}",
                retry_after=_retry_after(response),
            )
        digest = response.headers.get("Docker-Content-Digest", "")
        if DIGEST.fullmatch(digest) is None:
            raise _fault(f"image {image}: registry {reference.host} sent no digest for it")
        return str(digest)

    async def _inspect(self, image: str, reference: ImageReference) -> str:
        """Returns the reference by digest, or id, of an image in this machine's own storage."""
        client = self._engine.client
        if missing := self._engine.missing():
            raise _fault(f"image {image}: {missing}")
        code, output, errors = await self._engine.try_call(
            "image", "inspect", image, time_limit=_ENGINE_TIMEOUT.total_seconds()
        )
        if code != 0:
            if "image not known" in errors.lower() or "no such image" in errors.lower():
                raise UnknownImageError(f"image {image}: {errors}")
            raise _fault(f"image {image}: {client}: {errors or f'exit code {code}'}")
        try:
            [found] = json.loads(output)
            # podman computes a digest for every image. docker has only those of registries, of
            # other names; its ids have the form of one.
            digest, number = found.get("Digest"), found.get("Id")
        except (ValueError, TypeError, AttributeError):
            raise _fault(f"image {image}: invalid output of {client}") from None
        if isinstance(digest, str) and DIGEST.fullmatch(digest):
            return reference.at(digest)
        if isinstance(number, str) and DIGEST.fullmatch(number):
            # With its tag, by which alone a Dockerfile can name it.
            return f"{image}@{number}"
        raise UnknownImageError(f"image {image}: {client} has no digest for it")


_DENIED: Final = frozenset({httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN})
_NOT_THERE: Final = _DENIED | {httpx.codes.NOT_FOUND}


def _fault(message: str, retry_after: timedelta | None = None) -> InfrastructureError:
    return InfrastructureError(message, cause=Cause.IMAGE, retry_after=retry_after)


def _retry_after(response: httpx.Response) -> timedelta | None:
    seconds = response.headers.get("Retry-After", "")
    return timedelta(seconds=min(int(seconds), 86_400)) if seconds.isdecimal() else None


async def _authorization(
    http: httpx.AsyncClient, refused: httpx.Response, login: str | None
) -> str | None:
    """Returns the header that a registry asks for; None if none can be had.

    A login is sent to the registry itself, or with TLS to the host that it names for tokens. Docker
    Hub wants a token for anonymous reading, too.
    """
    basic = None if login is None else f"Basic {login}"
    challenge = bearer_challenge(refused.headers.get("WWW-Authenticate", ""))
    if challenge is None:
        return basic
    realm = httpx.URL(challenge.pop("realm"))
    trusted = realm.scheme == "https" or realm.host == refused.url.host
    headers = {"Authorization": basic} if basic is not None and trusted else {}
    response = await http.get(realm, params=challenge, headers=headers)
    if not response.is_success:
        return None
    try:
        body = response.json()
    except ValueError:
        return None
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
    fits = isinstance(token, str) and token.isascii() and token.isprintable()
    return f"Bearer {token}" if fits else None
