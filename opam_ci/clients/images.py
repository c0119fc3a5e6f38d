"""Looking up the digest that an image's tag has right now.

Registries are asked directly, by `HEAD`: that works for lists of images and for single ones
alike, needs no container engine where workflows run, and is no pull in the terms of Docker
Hub's limits. `podman manifest inspect` can do neither of the first two: it does not show a
list's digest, refuses an image that is no list, and prefers a local copy to the registry.
"""

import asyncio
import json
import math
import shutil
import time
from datetime import timedelta
from typing import Final

import httpx

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
#: For all requests about one image: a token may be needed, and a registry may drip.
_ANSWER_TIMEOUT: Final = timedelta(seconds=60)
_ENGINE_TIMEOUT: Final = timedelta(seconds=30)
#: A registry that hangs is asked again this long after it did: until then its images are faults
#: at once, so that many platforms of one registry do not take all activities of a worker.
_AWAY_FOR: Final = timedelta(seconds=15)
_KNOWN_FOR: Final = timedelta(hours=1)
_ENGINES: Final = ("podman", "docker")


class UnknownImageError(InfrastructureError):
    """Whoever should have the image answers, and does not have it, or not for us."""


class ImageResolver:
    """Finds digests, and remembers them for a while.

    Args:
        known_for: How long a digest is taken for a tag's without asking again; images of
            distributions are made anew every few days.
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
        """Returns the reference by digest of the image that a tag stands for now.

        For a list of images by architecture it is the list's digest: an engine that is told
        the architecture (`--platform`) takes the one that it needs from it.

        Args:
            image: A well-formed reference; one by digest is returned as it is.

        Raises:
            UnknownImageError: There is no such image.
            InfrastructureError: Cause `image`: the registry or the engine does not answer.
        """
        reference = parse_image(image)
        if reference.digest is not None:
            return image
        asked_at = time.monotonic()
        if image in self._known and asked_at - self._known[image][0] < self._known_for:
            return self._known[image][1]
        if reference.is_local:
            # What a machine has itself can change at any time, and costs nothing to ask.
            return await _inspect(image, reference)
        away_since, why = self._away.get(reference.host, (-math.inf, ""))
        if asked_at - away_since < _AWAY_FOR.total_seconds():
            raise _fault(f"image {image}: {why}")
        found = reference.at(await self._ask(image, reference))
        self._known[image] = (asked_at, found)
        return found

    async def _ask(self, image: str, reference: ImageReference) -> str:
        headers = {"Accept": ", ".join(_MANIFESTS)}
        try:
            async with (
                asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()),
                httpx.AsyncClient(
                    timeout=self._timeout,
                    follow_redirects=True,
                    # No proxy leads to this very machine.
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
                f"image {image}: registry {reference.host} does not have it for us: "
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
            raise _fault(f"image {image}: registry {reference.host} gives no digest for it")
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
    """Gets a token for anonymous reading, as Docker Hub wants it; None if none is offered."""
    asked = bearer_challenge(refused.headers.get("WWW-Authenticate", ""))
    if asked is None:
        return None
    answer = await http.get(asked.pop("realm"), params=asked)
    if not answer.is_success:
        return None
    try:
        said = answer.json()
    except ValueError:
        return None
    token = said.get("token") or said.get("access_token") if isinstance(said, dict) else None
    return token if isinstance(token, str) and token.isascii() and token.isprintable() else None


async def _inspect(image: str, reference: ImageReference) -> str:
    """Returns the reference by digest of an image in this machine's own storage."""
    engine = next(filter(shutil.which, _ENGINES), None)
    if engine is None:
        raise _fault(f"image {image}: neither podman nor docker is here to look for it")
    process = await asyncio.create_subprocess_exec(
        *(engine, "image", "inspect", image),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_ENGINE_TIMEOUT.total_seconds()):
            output, errors = await process.communicate()
    except TimeoutError:
        raise _fault(f"image {image}: {engine} does not answer") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = errors.decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        words = said[-1] if said else f"exit code {process.returncode}"
        if "image not known" in words.lower() or "no such image" in words.lower():
            raise UnknownImageError(f"image {image}: {words}", cause=Cause.IMAGE)
        raise _fault(f"image {image}: {engine}: {words}")
    try:
        [found] = json.loads(output)
        # podman gives every image a digest; docker knows only those that a registry gave.
        digest = found.get("Digest")
    except (ValueError, TypeError, AttributeError):
        raise _fault(f"image {image}: {engine} says what we cannot read") from None
    if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
        raise UnknownImageError(f"image {image}: {engine} has no digest for it", cause=Cause.IMAGE)
    return reference.at(digest)
