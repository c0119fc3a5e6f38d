"""Container images: what a reference says, and platforms whose images are pinned by digest."""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from pydantic import Field

from opam_ci.core.model import Frozen
from opam_ci.core.platforms import Platform

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HUB: Final = "docker.io"
_CHALLENGE: Final = re.compile(r'(\w+)="([^"]*)"')


class ImageReference(NamedTuple):
    """A reference, in parts.

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
        """Where the registry answers for the tag (source: OCI distribution specification).

        A registry on this very machine is asked without TLS, as podman and docker do.
        """
        host = "registry-1.docker.io" if self.host == _HUB else self.host
        scheme = "http" if host.partition(":")[0] in {"localhost", "127.0.0.1"} else "https"
        return f"{scheme}://{host}/v2/{self.path}/manifests/{self.tag}"

    def at(self, digest: str) -> str:
        """Returns the reference by digest: engines refuse one with both tag and digest."""
        return f"{self.host}/{self.path}@{digest}"


def parse_image(image: str) -> ImageReference:
    """Reads a reference that is well-formed (`core.platforms.IMAGE`)."""
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
    """Reads what a registry's 401 asks for: `realm`, and mostly `service` and `scope`.

    Returns:
        None if it is no challenge for a token.
    """
    scheme, _, rest = header.partition(" ")
    found = dict(_CHALLENGE.findall(rest))
    return found if scheme.lower() == "bearer" and "realm" in found else None


class PinnedImages(Frozen):
    """Platforms as all jobs and attempts of one head use them.

    Attributes:
        platforms: All that were given; images by digest wherever one was found.
        unpinned: Images that their registry says it does not have, and why. Their
            platforms keep the tag: jobs there meet the missing image themselves, and jobs
            of the other platforms are not held up by it.
    """

    platforms: tuple[Platform, ...]
    unpinned: dict[str, str] = Field(default_factory=dict)


def images_of(platforms: Iterable[Platform]) -> tuple[str, ...]:
    """Returns the images of these platforms that are not pinned yet, each once."""
    found = dict.fromkeys(one.image for one in platforms if one.image is not None)
    return tuple(image for image in found if "@" not in image)


def pinned(platforms: Iterable[Platform], found: Mapping[str, str]) -> tuple[Platform, ...]:
    """Returns the platforms with their images replaced.

    Args:
        platforms: To pin.
        found: The reference by digest for each image that has one.
    """
    return tuple(
        one
        if one.image is None or one.image not in found
        else Platform.model_validate({**one.model_dump(), "image": found[one.image]})
        for one in platforms
    )
