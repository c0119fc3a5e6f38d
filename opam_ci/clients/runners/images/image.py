"""The clean root file system: Debian with opam and a compiler, made once a machine.

Builds never see the machine's own /usr: one Debian OCaml library installed there was
enough to make four good packages fail.
"""

import asyncio
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.sandbox.bubblewrap import USER, Rights
from opam_ci.clients.runners.sandbox.locks import (
    HALF_MADE,
    made_on_demand,
    own_directory,
    remove_tree,
    remove_unlocked,
    remove_unused,
)
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

M = TypeVar("M", bound=Frozen)

RECIPE_VERSION = 2
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
    "ocaml-nox",
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
"""Programs that opam and its packages may rely on, as in opam's own Docker images."""

NO_DAEMONS = (
    'file="$1/usr/sbin/policy-rc.d"; test -e "$file" || '
    '{ printf \'#!/bin/sh\\nexit 101\\n\' > "$file" && chmod 0755 "$file"; }'
)
"""Forbids Debian's maintainer scripts to start daemons, in the root `$1`: see invoke-rc.d(8)."""

_KEPT_UNUSED = 7 * 86_400.0
"""Seconds for which an image of another recipe is kept unused: another version's worker may use it.
Each job renews its time, and takes hours at most."""

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
        packages: Version of every Debian package.
        made_at: When its package lists were fetched.
    """

    digest: str
    suite: str
    packages: dict[str, str]
    made_at: datetime

    @property
    def ocaml(self) -> str:
        """OCaml release of the image, `MAJOR.MINOR`."""
        version = self.packages.get("ocaml-nox", self.packages.get("ocaml", ""))
        return ".".join(version.split("-")[0].split(".")[:2])


class Image(Frozen):
    """A complete image on this machine."""

    root: Path
    manifest: ImageManifest


def recipe(suite: str) -> tuple[str, ...]:  # noqa: ARG001 - all suites have one list so far
    """Returns mmdebstrap's options for what is in a root: they make the same one anywhere."""
    return (
        "--variant=apt",
        "--include=" + ",".join(PACKAGES),
        f"--customize-hook={_ADD_USER}",
    )


def recipe_digest(suite: str, sources: tuple[str, ...]) -> str:
    """Returns the key of an image: a digest of all that it is made from."""
    recipe = {
        "version": RECIPE_VERSION,
        "suite": suite,
        "sources": sources,
        "packages": PACKAGES,
        "hooks": (_ADD_USER, *_HOOKS),
        "machine": platform.machine(),
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

    def find(self, suite: str, archives: Archives) -> Image | None:
        """Returns the image if it is complete, else None."""
        directory = self._home / recipe_digest(suite, archives.sources(suite))
        manifest = read_manifest(directory / "manifest.json", ImageManifest)
        return Image(root=directory / "rootfs", manifest=manifest) if manifest is not None else None

    async def ensure(self, suite: str, archives: Archives, show: Callable[[str], None]) -> Image:
        """Returns the image, making it first if need be (about 40 s).

        Args:
            suite: Debian suite, such as `trixie`.
            archives: Where Debian's packages come from.
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: Cause `image`: it cannot be made.
        """
        if (image := self.find(suite, archives)) is not None:
            return image
        name = recipe_digest(suite, archives.sources(suite))

        async def find() -> Image | None:
            return self.find(suite, archives)

        async def make() -> None:
            await self.sweep(suite, archives)
            await self._make(suite, archives, self._home / name, show)

        async with made_on_demand(
            self._home / f"{name}.lock",
            find,
            make,
            waiting=lambda: show("waiting for another worker to make the root file system"),
        ) as made:
            return made

    async def _make(
        self, suite: str, archives: Archives, target: Path, show: Callable[[str], None]
    ) -> None:
        show(f"making a clean Debian {suite} root file system from {archives.main}")
        lines: list[str] = []

        def output(data: bytes) -> None:
            for line in data.decode(errors="replace").splitlines():
                if line.startswith(("I: ", "E: ", "W: ")):
                    show(line)
                lines.append(line)
                del lines[:-30]

        async with own_directory(self._home, HALF_MADE, self._rights) as half_made:
            ended = await run_process(
                self._command(suite, archives, half_made / "rootfs"),
                output=output,
                time_limit=_MAKE_TIMEOUT,
            )
            if not ended.ok:
                raise InfrastructureError(
                    f"the root file system could not be made from {archives.main}: mmdebstrap "
                    f"failed ({ended.how}): " + " | ".join(lines[-5:]),
                    cause=Cause.IMAGE,
                )
            # Without a manifest it is the rest of a killed removal.
            await remove_tree(target, self._rights)
            packages = await asyncio.to_thread(_complete, half_made, suite, target)
        show(f"root file system ready: {len(packages)} Debian packages")

    def _command(self, suite: str, archives: Archives, root: Path) -> list[str]:
        keyrings = [f"--keyring={path}" for path in _KEYRINGS if path.exists()]
        if not keyrings:
            raise InfrastructureError(
                "this machine lacks Debian's keys: apt-get install debian-archive-keyring",
                cause=Cause.IMAGE,
            )
        return [
            *self._rights.making_images,
            "mmdebstrap",
            *recipe(suite),
            "--mode=root",
            "--format=directory",
            *(("--skip=output/mknod,output/dev",) if self._rights.making_images else ()),
            "--skip=cleanup/apt",
            # Else mmdebstrap removes it in the end.
            *("--skip=chroot/policy-rc.d", f"--extract-hook={NO_DAEMONS}"),
            keyrings[0],
            # In the root only while it is made: they may contain the proxy of this site.
            *(f'--aptopt={key} "{value}"' for key, value in archives.options),
            *(f"--customize-hook={hook}" for hook in _HOOKS),
            suite,
            str(root),
            *archives.sources(suite),
        ]

    async def sweep(self, suite: str, archives: Archives) -> None:
        """Removes unfinished images of killed workers, and images of earlier recipes.

        Args:
            suite: Of the image that stays however long it is unused.
            archives: As for `ensure`.
        """
        await remove_unlocked(self._home, HALF_MADE, self._rights)
        await remove_unused(
            self._home,
            self._rights,
            used_before=time.time() - _KEPT_UNUSED,
            sparing=recipe_digest(suite, archives.sources(suite)),
        )


def _complete(half_made: Path, suite: str, target: Path) -> dict[str, str]:
    """Writes an image's manifest and renames the image, in this order; returns its packages."""
    root = half_made / "rootfs"
    packages = installed_packages((root / "var/lib/dpkg/status").read_text())
    if not any((root / "var/lib/apt/lists").glob("*Packages*")):
        # Without lists, every system package is unavailable to opam.
        raise InfrastructureError(
            "the root file system has no apt package lists", cause=Cause.IMAGE
        )
    described = json.dumps([target.name, packages]).encode()
    manifest = ImageManifest(
        digest=hashlib.sha256(described).hexdigest(),
        suite=suite,
        packages=packages,
        made_at=datetime.now(UTC),
    )
    (half_made / "manifest.json").write_text(manifest.model_dump_json(indent=1))
    os.sync()
    half_made.rename(target)
    return packages
