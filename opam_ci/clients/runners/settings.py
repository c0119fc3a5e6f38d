"""Settings of the root-file-system runner."""

import os
import re
from pathlib import Path

from pydantic import Field, field_validator

from opam_ci.core.model import Frozen

_GIB = 1 << 30


def default_home() -> Path:
    """Returns the per-user cache directory: `$XDG_CACHE_HOME/opam-ci` or `~/.cache/opam-ci`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "opam-ci"


class RootfsSettings(Frozen):
    """How a machine builds.

    Attributes:
        home: Directory of images, layers and job roots; on a file system that overlayfs can
            write to (ext4, xfs, btrfs, tmpfs; no overlay, no NFS).
        suite: Debian suite of the image.
        mirror: URI of the Debian archive; by default what the machine's own apt uses.
        keep_layers: How many base layers (350 MB each) are kept besides those in use.
        min_free_bytes: Free space in `home` below which a preflight fails.
        min_free_inodes: The same for inodes; a layer of the whole repository takes 30,000.
        opam_jobs: Parallel package builds within one job; by default opam's own choice.
    """

    home: Path = Field(default_factory=default_home)
    suite: str = Field(default="trixie", pattern=r"^[a-z][a-z0-9-]*$")
    mirror: str | None = None
    keep_layers: int = Field(default=4, ge=1)
    min_free_bytes: int = Field(default=4 * _GIB, ge=0)
    min_free_inodes: int = Field(default=100_000, ge=0)
    opam_jobs: int | None = Field(default=None, ge=1)

    @field_validator("home")
    @classmethod
    def _mountable(cls, home: Path) -> Path:
        home = home.expanduser().absolute()
        # An overlay's options are one comma-separated word, its layers separated by colons.
        if re.search(r"[,:\\\"'\s]", str(home)):
            raise ValueError(f"{home}: no comma, colon, quote, backslash or space, please")
        return home
