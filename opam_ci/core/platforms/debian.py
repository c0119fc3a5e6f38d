"""Debian's names of the distributions and architectures that root file systems are made for."""

from typing import Final

from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import EMBEDDED, Platform, architectures

SUITES: Final = {
    "debian-12": "bookworm",
    "debian-13": "trixie",
    "debian-testing": "testing",
    "debian-unstable": "unstable",
}
"""Suite of each distribution; the archive has `testing` and `unstable` under these names too."""

_WITHOUT_UPDATES: Final = frozenset({"unstable"})
_DEBIAN: Final = {"arm32v7": "armhf", "ppc64le": "ppc64el"}
"""Names of architectures that differ."""


class DebianRoot(Frozen):
    """A Debian of which a root file system is made.

    Attributes:
        suite: Such as `trixie`.
        architecture: Debian's name of it.
    """

    suite: str
    architecture: str

    @property
    def has_updates(self) -> bool:
        """Whether the archive has suites with updates, and security updates, of this one."""
        return self.suite not in _WITHOUT_UPDATES


def debian_root(platform: Platform) -> DebianRoot | None:
    """Return the root file system of a platform, None if its distribution has none."""
    return _root(platform) if platform.distribution in SUITES else None


def embedded_platform(machine: str) -> Platform:
    """Return the platform that needs no set-up, of a machine's own architecture."""
    known = architectures(machine) or (EMBEDDED.arch,)
    return EMBEDDED.model_copy(update={"arch": known[0]})


def embedded_root(machine: str) -> DebianRoot:
    """Return the root file system of that platform."""
    return _root(embedded_platform(machine))


def _root(platform: Platform) -> DebianRoot:
    arch = platform.arch
    return DebianRoot(suite=SUITES[platform.distribution], architecture=_DEBIAN.get(arch, arch))
