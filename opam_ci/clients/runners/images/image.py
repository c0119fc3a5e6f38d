"""Clean root file systems: Debian with opam and a compiler, made anew each week on a machine.

Builds never see the machine's own /usr: one Debian OCaml library installed there was
enough to make four good packages fail.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.sandbox.bubblewrap import USER, Rights
from opam_ci.clients.runners.sandbox.locks import (
    HALF_MADE,
    made_on_demand,
    own_directory,
    remove_unlocked,
    remove_unused,
    try_lock,
)
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.debian import DebianRoot

M = TypeVar("M", bound=Frozen)

RECIPE_VERSION = 3
"""Incremented when the recipe changes in another way than by its list of packages."""

PACKAGES = (
    "bubblewrap",
    "bzip2",
    "ca-certificates",
    "curl",
    "g++",
    "gcc",
    "git",
    "gzip",
    "libc6-dev",
    "m4",
    "make",
    "ocaml",
    "opam",
    "passwd",
    "patch",
    "pkg-config",
    "procps",
    "rsync",
    "tar",
    "unzip",
    "util-linux",
    "xz-utils",
)
"""Programs that opam and its packages may rely on, as in opam's own Docker images. Each suite has
all of these; where OCaml has no native compiler, `ocaml` is its bytecode one."""

NO_DAEMONS = (
    'file="$1/usr/sbin/policy-rc.d"; test -e "$file" || '
    '{ printf \'#!/bin/sh\\nexit 101\\n\' > "$file" && chmod 0755 "$file"; }'
)
"""Forbids Debian's maintainer scripts to start daemons, in the root `$1`: see invoke-rc.d(8)."""

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""When the package lists of an image without any were fetched."""
FRESH = timedelta(days=7)
"""Age up to which an image is used: for so long are the package lists of `testing` valid, and
superseded packages in the archive."""

_RETRY = 3600.0
"""Seconds after which the making of a fresh image is tried again, while an old one serves."""

_KEPT_UNUSED = 7 * 86_400.0
"""Seconds for which an image is kept unused: one of another platform, or an old one. Each job
renews its time, and takes hours at most."""

_MAKE_TIMEOUT = 30 * 60.0
_KEYRINGS = tuple(
    Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("gpg", "pgp")
)

# Run by mmdebstrap with the new root as $1. The host's name, name servers and apt options are
# shown only at run time, and only in phases with network.
_ADD_USER = f'chroot "$1" useradd --uid {USER} --user-group --create-home --shell /bin/bash opam'
_HOOKS = (
    # The sandbox starts there as root without root's capabilities over files.
    'chmod 0755 "$1/home/opam"',
    'echo opam-ci > "$1/etc/hostname"',
    'echo "127.0.0.1 localhost opam-ci" > "$1/etc/hosts"',
    'rm -f "$1/etc/resolv.conf" && touch "$1/etc/resolv.conf"',
    'mkdir "$1/mirrors"',
    'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1"/var/cache/apt/archives/*.deb',
    # Each opam run asks apt for system packages: 0.1 s with apt's caches, 1.3 s without.
    'chroot "$1" apt-cache gencaches',
)


class ImageManifest(Frozen):
    """Content of an image; written last, so that an image with a manifest is complete.

    Attributes:
        digest: Of the recipe and of every package's version.
        suite: Debian suite.
        architecture: Debian's name of it.
        packages: Version of every Debian package; none of another distribution's, whose package
            manager then decides what is there.
        made_at: When its package lists were fetched; `NEVER` if there are none.
    """

    digest: str
    suite: str
    architecture: str = ""
    packages: dict[str, str]
    made_at: datetime

    @property
    def ocaml(self) -> str:
        """OCaml release of the image, `MAJOR.MINOR`."""
        return self._release("ocaml")

    @property
    def opam(self) -> str:
        """Release of opam in the image, `MAJOR.MINOR`."""
        return self._release("opam")

    def _release(self, package: str) -> str:
        return ".".join(self.packages.get(package, "").split("-")[0].split(".")[:2])


class Image(Frozen):
    """A complete image on this machine."""

    root: Path
    manifest: ImageManifest


def recipe(debian: DebianRoot) -> tuple[str, ...]:
    """Returns mmdebstrap's options for what is in a root: they make the same one anywhere."""
    return (
        "--variant=apt",
        f"--architectures={debian.architecture}",
        "--include=" + ",".join(PACKAGES),
        f"--customize-hook={_ADD_USER}",
    )


def recipe_digest(debian: DebianRoot, sources: tuple[str, ...]) -> str:
    """Returns the key of an image: a digest of all that it is made from."""
    recipe = {
        "version": RECIPE_VERSION,
        "debian": debian.model_dump(),
        "sources": sources,
        "packages": PACKAGES,
        "hooks": (_ADD_USER, *_HOOKS),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def installed_packages(status: str) -> dict[str, str]:
    """Reads names and versions from the text of dpkg's status file."""
    found = {}
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields["Version"]
    return dict(sorted(found.items()))


def read_manifest(path: Path, kind: type[M]) -> M | None:
    """Reads a manifest and renews its time, by which unused things are removed.

    Returns:
        None if it is missing or torn, as after a power cut: then what it describes is missing.
    """
    try:
        manifest = kind.model_validate_json(path.read_bytes())
        os.utime(path)
    except (FileNotFoundError, ValidationError):
        return None
    return manifest


class ImageStore:
    """The images below one directory.

    Args:
        home: The directory.
        rights: How to get the rights that mounts need.
    """

    def __init__(self, home: Path, rights: Rights) -> None:
        self._home = home
        self._rights = rights
        self._retry_at: dict[str, float] = {}

    def find(self, debian: DebianRoot, archives: Archives) -> Image | None:
        """Returns the newest complete image, None if there is none."""
        name = recipe_digest(debian, archives.sources(debian))
        for path in sorted(self._home.glob(f"{name}-*/manifest.json"), reverse=True):
            directory = path.parent
            if (held := try_lock(directory.with_suffix(".lock"), shared=True)) is None:
                continue  # it is being removed
            try:
                manifest = read_manifest(path, ImageManifest)
            finally:
                os.close(held)
            if manifest is not None:
                return Image(root=directory / "rootfs", manifest=manifest)
        return None

    async def ensure(
        self, debian: DebianRoot, archives: Archives, show: Callable[[str], None]
    ) -> Image:
        """Returns the image, making it first if need be (40 s to 3 min).

        One older than `FRESH` is made anew. If that fails, the old one serves.

        Args:
            debian: What to make.
            archives: Where Debian's packages come from.
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: Cause `image`: it cannot be made, and there is no old one.
        """
        name = recipe_digest(debian, archives.sources(debian))
        old = self.find(debian, archives)
        if old is not None and (_is_fresh(old) or time.monotonic() < self._retry_at.get(name, 0)):
            return old

        async def find() -> Image | None:
            found = self.find(debian, archives)
            return found if found is not None and _is_fresh(found) else None

        async def make() -> None:
            await self.sweep(debian, archives)
            await self._make(debian, archives, self._home / f"{name}-{time.time_ns()}", show)

        try:
            async with made_on_demand(
                self._home / f"{name}.lock",
                find,
                make,
                waiting=lambda: show("waiting for another worker to make the root file system"),
            ) as made:
                return made
        except InfrastructureError as error:
            if old is None:
                raise
            self._retry_at[name] = time.monotonic() + _RETRY
            show(f"{error}; the one of {old.manifest.made_at:%Y-%m-%d} is used")
            return old

    async def _make(
        self, debian: DebianRoot, archives: Archives, target: Path, show: Callable[[str], None]
    ) -> None:
        main, *updates = sources = archives.sources(debian)
        try:
            await self._make_from(sources, debian, archives, target, show)
        except InfrastructureError as error:
            if not updates:
                raise
            # A mirror whose suites are out of step has the main one.
            show(f"{error}; trying it without the suites of updates")
            await self._make_from((main,), debian, archives, target, show)

    async def _make_from(
        self,
        sources: tuple[str, ...],
        debian: DebianRoot,
        archives: Archives,
        target: Path,
        show: Callable[[str], None],
    ) -> None:
        show(
            f"making a clean Debian {debian.suite} root file system ({debian.architecture}) from "
            f"{archives.main}"
        )
        lines: list[str] = []

        def output(data: bytes) -> None:
            for line in data.decode(errors="replace").splitlines():
                if line.startswith(("I: ", "E: ", "W: ")):
                    show(line)
                lines.append(line)
                del lines[:-30]

        async with own_directory(self._home, HALF_MADE, self._rights) as half_made:
            ended = await run_process(
                [*self._command(debian, archives, half_made / "rootfs"), *sources],
                output=output,
                time_limit=_MAKE_TIMEOUT,
            )
            if not ended.ok:
                raise InfrastructureError(
                    f"the root file system could not be made from {archives.main}: mmdebstrap "
                    f"failed ({ended.how}): " + " | ".join(lines[-5:]),
                    cause=Cause.IMAGE,
                )
            name = target.name.partition("-")[0]
            packages = await asyncio.to_thread(_complete, half_made, debian, name, target)
        show(f"root file system ready: {len(packages)} Debian packages")

    def _command(self, debian: DebianRoot, archives: Archives, root: Path) -> list[str]:
        keyrings = [f"--keyring={path}" for path in _KEYRINGS if path.exists()]
        if not keyrings:
            raise InfrastructureError(
                "this machine lacks Debian's keys: apt-get install debian-archive-keyring",
                cause=Cause.IMAGE,
            )
        return [
            *self._rights.making_images,
            "mmdebstrap",
            *recipe(debian),
            "--mode=root",
            "--format=directory",
            # The machine is known to run it: no need of arch-test and qemu.
            "--skip=check/qemu",
            *(("--skip=output/mknod,output/dev",) if not self._rights.makes_devices else ()),
            "--skip=cleanup/apt",
            # Else mmdebstrap removes it in the end.
            *("--skip=chroot/policy-rc.d", f"--extract-hook={NO_DAEMONS}"),
            keyrings[0],
            # In the root only while it is made: they may contain the proxy of this site.
            *(f'--aptopt={key} "{value}"' for key, value in archives.options),
            *(f"--customize-hook={hook}" for hook in _HOOKS),
            debian.suite,
            str(root),
        ]

    async def sweep(self, debian: DebianRoot, archives: Archives) -> None:
        """Removes unfinished images of killed workers, and those that are not used any more.

        Args:
            debian: Of the image that stays however long it is unused.
            archives: As for `ensure`.
        """
        newest = self.find(debian, archives)
        await remove_unlocked(self._home, HALF_MADE, self._rights)
        await remove_unused(
            self._home,
            self._rights,
            used_before=time.time() - _KEPT_UNUSED,
            sparing="" if newest is None else newest.root.parent.name,
        )


def _is_fresh(image: Image) -> bool:
    return datetime.now(UTC) - image.manifest.made_at < FRESH


def _complete(half_made: Path, debian: DebianRoot, name: str, target: Path) -> dict[str, str]:
    """Writes an image's manifest and renames the image, in this order; returns its packages."""
    root = half_made / "rootfs"
    packages = installed_packages((root / "var/lib/dpkg/status").read_text())
    if not any((root / "var/lib/apt/lists").glob("*Packages*")):
        # Without lists, every system package is unavailable to opam.
        raise InfrastructureError(
            "the root file system has no apt package lists", cause=Cause.IMAGE
        )
    # Not the time: what was built over the same packages stays of use.
    described = json.dumps([name, packages]).encode()
    manifest = ImageManifest(
        digest=hashlib.sha256(described).hexdigest(),
        suite=debian.suite,
        architecture=debian.architecture,
        packages=packages,
        made_at=datetime.now(UTC),
    )
    (half_made / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    os.sync()
    half_made.rename(target)
    return packages
