"""References to container images."""

import re
from typing import Final, NamedTuple

from opam_ci.core.platforms.model import Platform

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HUB: Final = "docker.io"
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


class ImageReference(NamedTuple):
    """A parsed reference.

    Attributes:
        host: The registry; `localhost` without a port is a machine's own storage.
        path: Name of the repository there.
        tag: `latest` if the reference has none.
        digest: The digest, if the image is pinned.
    """

    host: str
    path: str
    tag: str
    digest: str | None

    @property
    def is_local(self) -> bool:
        """Whether the image is in a machine's own storage, and in no registry."""
        return self.host == "localhost"

    @property
    def is_on_loopback(self) -> bool:
        """Whether the registry is a program on this very machine."""
        return self.host.partition(":")[0] in {"localhost", "127.0.0.1"}

    @property
    def manifest_url(self) -> str:
        """URL of the manifest (source: OCI distribution specification).

        For a registry on this very machine it is plain HTTP, as with podman and docker.
        """
        host = "registry-1.docker.io" if self.host == _HUB else self.host
        scheme = "http" if self.is_on_loopback else "https"
        return f"{scheme}://{host}/v2/{self.path}/manifests/{self.digest or self.tag}"

    def at(self, digest: str) -> str:
        """Return the reference by digest: engines refuse one with both tag and digest."""
        return f"{self.host}/{self.path}@{digest}"


def parse_image(image: str) -> ImageReference:
    """Parse a reference that is well-formed (`core.platforms.model.IMAGE`)."""
    name, _, digest = image.partition("@")
    path, tag = name, "latest"
    if ":" in name.rpartition("/")[2]:
        path, _, tag = name.rpartition(":")
    first, slash, rest = path.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return ImageReference(first, rest, tag, digest or None)
    path = path if slash else f"library/{path}"
    return ImageReference(_HUB, path, tag, digest or None)


def bearer_challenge(header: str) -> dict[str, str] | None:
    """Parse the challenge of a registry's 401: `realm`, and mostly `service` and `scope`.

    Returns:
        None if it is not a challenge for a token.
    """
    scheme, _, rest = header.partition(" ")
    found = dict(_CHALLENGE.findall(rest))
    return found if scheme.lower() == "bearer" and "realm" in found else None


def is_pinned(platform: Platform) -> bool:
    """Whether no image of the platform must be resolved: it has none, or one by digest."""
    return platform.image is None or "@" in platform.image
