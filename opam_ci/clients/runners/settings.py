"""Settings of the runners."""

import os
import re
from contextlib import suppress
from pathlib import Path
from platform import machine
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from platformdirs import user_cache_path
from pydantic import ByteSize, Field, field_validator

from opam_ci.clients.host import HostNeeds
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.debian import embedded_platform
from opam_ci.core.platforms.model import Platform

_GIB = 1 << 30
_SMALLEST_SHARE = 2 * _GIB
"""The compilers of large packages take more than 1 GiB."""

BUILD_CACHE_BYTES = ByteSize(10 * _GIB)
"""Default size of the cache of compiled dependencies: some hundred packages at 5 to 50 MB each,
several times over."""

SOURCE_STORE_BYTES = ByteSize(10 * _GIB)
"""Default size of the store of archives of sources: some thousand, most of which have 1 MB."""

_PORTS: Final = {"http": 80, "https": 443, "ftp": 21}


def default_home() -> Path:
    """Returns the per-user cache directory: `$XDG_CACHE_HOME/opam-ci` or `~/.cache/opam-ci`."""
    return user_cache_path("opam-ci")


class Endpoint(NamedTuple):
    """A host, and one TCP port of it or all.

    Attributes:
        host: Name or address.
        port: The port; None for all of them.
    """

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `HOST`, `HOST:PORT`, or `[ADDRESS]:PORT` for IPv6.

        Raises:
            ValueError: It has another form.
        """
        parts = urlsplit(f"//{text}")
        port: int | None = 0
        with suppress(ValueError):
            port = parts.port
        if not parts.hostname or parts.netloc != text or "@" in text or port == 0:
            raise ValueError(
                f"invalid endpoint {text!r}: HOST, HOST:PORT, or [ADDRESS]:PORT for IPv6"
            )
        return cls(parts.hostname, port)

    @classmethod
    def of_url(cls, url: str) -> Self | None:
        """Returns the endpoint of a URL, None if it has none; HTTP is the default protocol."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError:
            return None
        return cls(parts.hostname, port) if parts.hostname and port else None


class JobLimits(Frozen):
    """What one job may use of its machine.

    Attributes:
        memory_bytes: Memory and page cache together; by default the machine's memory, less a
            tenth, divided by the jobs that run at once.
        pids: Processes and threads. A `make -j` of a large package takes some hundred.
        cpus: CPU time per time, such as 1.5; by default no limit: the kernel shares CPUs
            among the jobs.
        disk_bytes: Bytes that it may write.
        disk_inodes: Files that it may make.
        required: Whether a machine that cannot limit memory and processes must not build.
    """

    memory_bytes: int | None = Field(default=None, ge=32 << 20)
    pids: int | None = Field(default=4096, ge=16)
    cpus: float | None = Field(default=None, ge=0.01)
    disk_bytes: int = Field(default=16 * _GIB, ge=1 << 20)
    disk_inodes: int = Field(default=1_000_000, ge=1000)
    required: bool = False

    def on_this_machine(self, slots: int) -> "JobLimits":
        """Returns the limits with the default of memory filled in.

        Args:
            slots: How many jobs run at once.
        """
        if self.memory_bytes is not None:
            return self
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        share = max(_SMALLEST_SHARE, int(memory * 0.9) // slots)
        return self.model_copy(update={"memory_bytes": share})


class MachineSettings(Frozen):
    """How a machine builds, with any runner.

    Attributes:
        home: Directory of what the runner keeps: images, layers, job roots, locks.
        keep_layers: How many base layers (350 MB each) are kept besides those in use.
        min_free_bytes: Free space in `home` below which a preflight fails.
        min_free_inodes: The same for inodes; a layer of the whole repository takes 30,000.
        opam_jobs: Parallel package builds within one job; by default opam's own choice.
        limits: What one job may use.
        slots: How many jobs run at once.
        network_allow: What phases with network may reach besides the internet; the mirrors and
            proxies that this machine is configured with come on top.
        source_store_bytes: Size up to which archives of sources are kept for other jobs; those used
            longest ago are removed. 0 keeps none, nor does the native runner.
    """

    home: Path = Field(default_factory=default_home)
    keep_layers: int = Field(default=4, ge=1)
    min_free_bytes: int = Field(default=4 * _GIB, ge=0)
    min_free_inodes: int = Field(default=100_000, ge=0)
    opam_jobs: int | None = Field(default=None, ge=1)
    limits: JobLimits = JobLimits()
    slots: int = Field(default_factory=lambda: max(1, os.cpu_count() or 1), ge=1)

    network_allow: tuple[Endpoint, ...] = ()
    source_store_bytes: int = Field(default=SOURCE_STORE_BYTES, ge=0)

    @property
    def needs(self) -> HostNeeds:
        """What the machine must have left before it takes jobs."""
        return HostNeeds(
            home=self.home, free_bytes=self.min_free_bytes, free_inodes=self.min_free_inodes
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of every command of a job."""
        return {} if self.opam_jobs is None else {"OPAMJOBS": str(self.opam_jobs)}


class RootfsSettings(MachineSettings):
    """How a machine builds in root file systems.

    Its `home` must be on a file system that overlayfs can write to (ext4, xfs, btrfs, tmpfs;
    not overlay or NFS).

    Attributes:
        platform: The one whose root file system is made, and tried, at the start of a worker.
        mirror: URI of the Debian archive; by default that of the machine's own apt.
        build_cache: Whether compiled dependencies are kept and used again.
        build_cache_bytes: Size up to which they are kept; those used longest ago are removed.
    """

    platform: Platform = Field(default_factory=lambda: embedded_platform(machine()))
    mirror: str | None = None
    build_cache: bool = True
    build_cache_bytes: int = Field(default=BUILD_CACHE_BYTES, ge=0)

    @field_validator("home")
    @classmethod
    def _mountable(cls, home: Path) -> Path:
        home = home.expanduser().absolute()
        # An overlay's options are one comma-separated word, its layers separated by colons.
        if re.search(r"[,:\\\"'\s]", str(home)):
            raise ValueError(
                f"invalid directory {home}: remove commas, colons, quotes, backslashes and spaces"
            )
        return home


class ContainerSettings(MachineSettings):
    """How a machine builds in containers.

    Attributes:
        command: `podman` or `docker`, or the path of either.
        runtime: The engine's low-level runtime; see `Engine` for the default.
        image: Image of platforms without one.
        network: The engine's name of a network for the phases that have one, in place of a
            namespace that reaches the internet only.
    """

    command: str = "podman"
    runtime: str | None = None
    image: str | None = None
    network: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")


class NativeSettings(MachineSettings):
    """How a machine without namespaces builds.

    Attributes:
        users: Users that jobs run as, one job at a time each.
        same_user: Whether jobs may run as the worker's own user, one at a time.
    """

    users: tuple[str, ...] = ()
    same_user: bool = False
