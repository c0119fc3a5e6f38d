"""Looking up the digest that an image's tag has right now.

Registries are queried directly, by `HEAD`: that works for lists of images and for single ones
alike, needs no container engine where workflows run, and does not count as a pull for Docker
Hub's limits. `podman manifest inspect` can do neither of the first two: it does not show a
list's digest, refuses an image that is not a list, and prefers a local copy to the registry.
"""

import asyncio
import json
import math
import shutil
import time
from datetime import timedelta
from typing import Final

import httpx

from opam_ci.clients.runners.engine import Engine
from opam_ci.core.images import (
    DIGEST,
    ImageReference,
    bearer_challenge,
    parse_image,
)
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

_MANIFESTS: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TIMEOUT: Final = httpx.Timeout(20, connect=10)
#: For all requests about one image: a token may be needed, and a response may come in small parts.
_ANSWER_TIMEOUT: Final = timedelta(seconds=60)
_ENGINE_TIMEOUT: Final = timedelta(seconds=30)
#: Time without further requests to a registry that hung: until then its images are faults at
#: once, so that many platforms of one registry do not take all activities of a worker.
_AWAY_FOR: Final = timedelta(seconds=15)
_KNOWN_FOR: Final = timedelta(hours=1)
_ENGINES: Final = ("podman", "docker")


class UnknownImageError(InfrastructureError):
    """The registry or engine answers that it lacks the image, or refuses it to us."""


class ImageResolver:
    """Finds digests, and caches them.

    Args:
        known_for: How long a tag's digest is cached; distributions publish new images every few
            days.
        timeout: Of one request to a registry.
    """

    def __init__(
        self, *, known_for: timedelta = _KNOWN_FOR, timeout: httpx.Timeout = _TIMEOUT
    ) -> None:
        self._known_for = known_for.total_seconds()
        self._timeout = timeout
        self._known: dict[str, tuple[float, str]] = {}
        self._away: dict[str, tuple[float, str]] = {}

    async def resolve(self, image: str) -> str:
        """Returns the reference by digest of a tag's current image.

        For a list of images by architecture it is the list's digest: an engine with the option
        `--platform` takes the image of that architecture from it.

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
            # A machine's own images can change at any time, and cost nothing to look up.
            return await _inspect(image, reference)
        away_since, why = self._away.get(reference.host, (-math.inf, ""))
        if now - away_since < _AWAY_FOR.total_seconds():
            raise _fault(f"image {image}: {why}")
        found = reference.at(await self._digest(image, reference))
        self._known[image] = (now, found)
        return found

    async def _digest(self, image: str, reference: ImageReference) -> str:
        headers = {"Accept": ", ".join(_MANIFESTS)}
        try:
            async with (
                asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()),
                httpx.AsyncClient(
                    timeout=self._timeout,
                    follow_redirects=True,
                    # Not through a proxy to this machine itself.
                    trust_env=not reference.is_on_loopback,
                ) as http,
            ):
                answer = await http.head(reference.manifest_url, headers=headers)
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    token = await _token(http, answer)
                    if token is not None:
                        headers["Authorization"] = f"Bearer {token}"
                        answer = await http.head(reference.manifest_url, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            why = f"registry {reference.host} does not answer: {str(error) or type(error).__name__}"
            if isinstance(error, httpx.TimeoutException | TimeoutError):
                self._away[reference.host] = (time.monotonic(), why)
            raise _fault(f"image {image}: {why}") from error
        if answer.status_code in _NOT_THERE:
            raise UnknownImageError(
                f"image {image}: not found in registry {reference.host}, or no access to it: "
                f"HTTP {answer.status_code}",
                cause=Cause.IMAGE,
            )
        if not answer.is_success:
            raise _fault(
                f"image {image}: registry {reference.host} answers HTTP {answer.status_code}",
                retry_after=_retry_after(answer),
            )
        digest = answer.headers.get("Docker-Content-Digest", "")
        if DIGEST.fullmatch(digest) is None:
            raise _fault(f"image {image}: registry {reference.host} returned no digest")
        return str(digest)


_NOT_THERE: Final = frozenset(
    {httpx.codes.NOT_FOUND, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}
)


def _fault(message: str, retry_after: timedelta | None = None) -> InfrastructureError:
    return InfrastructureError(message, cause=Cause.IMAGE, retry_after=retry_after)


def _retry_after(answer: httpx.Response) -> timedelta | None:
    seconds = answer.headers.get("Retry-After", "")
    return timedelta(seconds=min(int(seconds), 86_400)) if seconds.isdecimal() else None


async def _token(http: httpx.AsyncClient, refused: httpx.Response) -> str | None:
    """Gets a token for anonymous reading, which Docker Hub requires; None if none is offered."""
    challenge = bearer_challenge(refused.headers.get("WWW-Authenticate", ""))
    if challenge is None:
        return None
    answer = await http.get(challenge.pop("realm"), params=challenge)
    if not answer.is_success:
        return None
    try:
        body = answer.json()
    except ValueError:
        return None
    token = body.get("token") or body.get("access_token") if isinstance(body, dict) else None
    return token if isinstance(token, str) and token.isascii() and token.isprintable() else None


async def _inspect(image: str, reference: ImageReference) -> str:
    """Returns the reference by digest of an image in this machine's own storage."""
    engine = next(filter(shutil.which, _ENGINES), None)
    if engine is None:
        raise _fault(f"image {image}: neither podman nor docker is installed here to find it")
    code, output, errors = await Engine(engine).try_call(
        "image", "inspect", image, time_limit=_ENGINE_TIMEOUT.total_seconds()
    )
    if code != 0:
        last = (errors.splitlines() or [f"exit code {code}"])[-1]
        if "image not known" in last.lower() or "no such image" in last.lower():
            raise UnknownImageError(f"image {image}: {last}", cause=Cause.IMAGE)
        raise _fault(f"image {image}: {engine}: {last}")
    try:
        [found] = json.loads(output)
        # podman gives every image a digest; docker knows only those that a registry gave.
        digest = found.get("Digest")
    except (ValueError, TypeError, AttributeError):
        raise _fault(f"image {image}: {engine} printed an invalid description") from None
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
        raise UnknownImageError(f"image {image}: {engine} has no digest for it", cause=Cause.IMAGE)
    return reference.at(digest)
