"""Platforms that packages are built on, and the pools of workers that build for them."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from opam_ci.core.model import Frozen
from opam_ci.core.platforms.limits import PhaseLimits

DISTRIBUTION: Final = r"^[a-z0-9][a-z0-9.-]{0,63}$"
OCAML: Final = r"^[0-9]{1,2}\.[0-9]{1,2}(~(alpha|beta|rc)[0-9]{1,2})?$"
VARIANT: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"
OPAM: Final = r"^(system|dev|[0-9]{1,2}\.[0-9]{1,2})$"
POOL: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$"
COMPILER: Final = r"^[A-Za-z0-9_.+~-]{0,100}$"
IMAGE: Final = (
    r"^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5}/[a-z0-9][a-z0-9._-]*)?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)
"""`[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, so that none is mistaken for an option or a file."""


class Runner(StrEnum):
    """How a platform's jobs are isolated on a worker.

    `ROOTFS` is the root file system that a worker makes from Debian's packages;
    `CONTAINER` runs an image with podman or docker; `NATIVE` runs jobs on the machine itself, as
    users of their own, for systems that have neither (macOS, FreeBSD).
    """

    ROOTFS = "rootfs"
    CONTAINER = "container"
    NATIVE = "native"


class Architecture(NamedTuple):
    """A processor architecture.

    Attributes:
        bits: Of its addresses; 32 means that a 64-bit machine builds for it under `linux32`.
        oci: Its name in the manifest of a container image.
        variant: The OCI variant, if the name alone is ambiguous.
    """

    bits: Literal[32, 64]
    oci: str
    variant: str = ""

    @property
    def system(self) -> str:
        """The argument of an engine's `--platform`."""
        return "/".join(("linux", self.oci, *filter(None, (self.variant,))))


ARCHITECTURES: Final = {
    "amd64": Architecture(64, "amd64"),
    "arm64": Architecture(64, "arm64"),
    "arm32v7": Architecture(32, "arm", "v7"),
    "i386": Architecture(32, "386"),
    "ppc64le": Architecture(64, "ppc64le"),
    "riscv64": Architecture(64, "riscv64"),
    "s390x": Architecture(64, "s390x"),
}
"""By opam-repo-ci's names (source: `string_of_arch` of ocaml-version)."""

_INTEL: Final = ("amd64", "i386")
_ARM: Final = ("arm64", "arm32v7")
_MACHINES: Final = {
    # Linux and macOS, FreeBSD.
    **dict.fromkeys(("x86_64", "amd64"), _INTEL),
    # Linux, macOS and FreeBSD.
    **dict.fromkeys(("aarch64", "arm64"), _ARM),
    "armv7l": ("arm32v7",),
    "i686": ("i386",),
    **{name: (name,) for name in ("ppc64le", "riscv64", "s390x")},
}
"""Architectures that a machine runs, its own first, by its name in `uname -m`."""


def architectures(machine: str) -> tuple[str, ...]:
    """Return the architectures that a machine runs, its own first; none if it is unknown.

    Args:
        machine: What `uname -m` prints there.
    """
    return _MACHINES.get(machine, ())


class Platform(Frozen):
    """A distribution with an OCaml, an architecture and an opam: opam-repo-ci's *variant*.

    Attributes:
        distribution: Distribution and release, such as `debian-13`.
        ocaml: OCaml release, `MAJOR.MINOR`, or that with `~beta1` and the like.
        variant: How that OCaml is configured, such as `flambda`; None for the plain one.
        arch: Architecture, one of `ARCHITECTURES`.
        opam: Version of opam: `2.4`, `dev` for its main branch, `system` for the
            distribution's own.
        pool: Name of the pool whose workers can build for it; its task queue is
            `build-{pool}`.
        runner: How its jobs are isolated: the runner of its pool.
        image: Container image, by tag, or by digest once it is pinned for a run.
        compiler: Package that provides OCaml in a fresh switch; empty if the image has a switch
            with its compiler.
        personality: Program under which every command runs: `linux32` makes a 64-bit
            kernel look like a 32-bit one to a build.
        timeouts: Time limits that differ from those of the check.
        lower_bounds: Whether lower-bounds jobs run here.
        revdeps: Whether reverse dependencies are built here.
        otherwise: The same platform in other pools, by preference, for when no worker serves this
            one.
        only_direct_revdeps: Whether only those that need a package directly are built, and not
            those that need it over others.
        revdep_tests: Whether the tests of reverse dependencies run too.
    """

    distribution: str = Field(pattern=DISTRIBUTION)
    ocaml: str = Field(pattern=OCAML)
    variant: str | None = Field(default=None, pattern=VARIANT, max_length=64)
    arch: str = Field(pattern=r"^[a-z0-9_]+$")
    opam: str = Field(default="system", pattern=OPAM)
    pool: str = Field(pattern=POOL)
    runner: Runner = Runner.ROOTFS
    image: str | None = Field(default=None, pattern=IMAGE, max_length=400)
    compiler: str = Field(default="ocaml-system", pattern=COMPILER)
    personality: Literal["linux32"] | None = None
    timeouts: PhaseLimits = PhaseLimits()
    lower_bounds: bool = False
    revdeps: bool = False
    otherwise: tuple["Platform", ...] = ()
    only_direct_revdeps: bool = False
    revdep_tests: bool = True

    @model_validator(mode="after")
    def _image_only_for_containers(self) -> Self:
        if (self.image is not None) != (self.runner is Runner.CONTAINER):
            raise ValueError("a platform has an image exactly if its runner is container")
        return self

    @property
    def release(self) -> str:
        """OCaml and variant as in tags of images, such as `5.4-flambda`, `5.5-beta1`."""
        release = self.ocaml if self.variant is None else f"{self.ocaml}-{self.variant}"
        return release.replace("~", "-")

    @property
    def name(self) -> str:
        """The name, such as `debian-13-ocaml-5.3/amd64`, `debian-13-ocaml-5.4-opam-2.1/amd64`."""
        opam = "" if self.opam in {"system", "dev"} else f"-opam-{self.opam}"
        return f"{self.distribution}-ocaml-{self.release}{opam}/{self.arch}"

    @property
    def choices(self) -> tuple["Platform", ...]:
        """This platform in each of its pools, by preference."""
        return (self.model_copy(update={"otherwise": ()}), *self.otherwise)


def releases(platforms: Iterable[Platform]) -> tuple[str, ...]:
    """Return the OCaml releases of platforms, each once, in their order."""
    return tuple(dict.fromkeys(one.ocaml for one in platforms))


class Pool(Frozen):
    """Interchangeable workers: each can build for every platform of the pool.

    Attributes:
        name: Its task queue is `build-{name}`.
        os: `linux`, `macos` or `freebsd`.
        arch: Architectures that its machines build for, their own first.
        runner: How they isolate jobs; a pool has exactly one runner (ADR 0025).
        description: A description of its machines.
    """

    name: str = Field(pattern=POOL)
    os: Literal["linux", "macos", "freebsd"] = "linux"
    arch: tuple[str, ...]
    runner: Runner = Runner.ROOTFS
    description: str = ""


class PlatformTable(Frozen):
    """All platforms, in the order in which they are planned, and their pools."""

    pools: tuple[Pool, ...]
    platforms: tuple[Platform, ...]


EMBEDDED = Platform(
    distribution="debian-13",
    ocaml="5.3",
    arch="amd64",
    pool="linux-amd64",
)
"""The platform that the root-file-system runner has without any set-up: Debian 13's own OCaml.

It has builds and tests alone, so that a person gets results soon. In the matrix it has lower
bounds too.
"""
