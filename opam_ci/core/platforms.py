"""Platforms: what a package is built on."""

from pydantic import Field

from opam_ci.core.model import Frozen


class Platform(Frozen):
    """A distribution with an OCaml, an architecture and an opam: the peer's *variant*.

    Attributes:
        distribution: Distribution and release as opam-repo-ci names it, such as `debian-13`.
        ocaml: OCaml release, `MAJOR.MINOR`.
        arch: opam's name of the architecture.
        pool: Name of the pool whose workers can build for it; its task queue is
            `build-{pool}`.
        compiler: Package that provides OCaml in a fresh switch.
        lower_bounds: Whether lower-bounds jobs run here.
        revdeps: Whether reverse dependencies are built here.
    """

    distribution: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    ocaml: str = Field(pattern=r"^\d+\.\d+$")
    arch: str = Field(pattern=r"^[a-z0-9_]+$")
    pool: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    compiler: str = "ocaml-system"
    lower_bounds: bool = False
    revdeps: bool = False

    @property
    def name(self) -> str:
        """Such as `debian-13-ocaml-5.3/amd64`."""
        return f"{self.distribution}-ocaml-{self.ocaml}/{self.arch}"


EMBEDDED = Platform(distribution="debian-13", ocaml="5.3", arch="amd64", pool="linux-amd64")
"""What the root-file-system runner offers without any set-up: Debian 13's own OCaml."""
