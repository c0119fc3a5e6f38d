"""The clean root file system: Debian with opam and a compiler, made once.

Builds never see the machine's own /usr: one Debian OCaml library installed there was
enough to make four good packages fail.
"""

import asyncio
import hashlib
import json
import os
import platform
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from opam_ci.clients.runners.aptsources import Archives
from opam_ci.clients.runners.locks import lock, locked_directory, try_lock
from opam_ci.clients.runners.sandbox import USER, Rights
from opam_ci.clients.runners.supervise import Ended, supervise
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause

RECIPE_VERSION = 1
"""Raised whenever the way of making the image changes without its package list changing."""

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
"""What opam and its packages may take for granted, as opam's own Docker images do."""

HALF_MADE = "half-made-"
"""How names of directories begin in which something is made."""

_MAKE_TIMEOUT = 30 * 60.0
_KEYRINGS = tuple(
    Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("gpg", "pgp")
)

# Run by mmdebstrap with the new root as $1. The host's name, name servers and apt options
# come in only at run time, and only where there is network.
_HOOKS = (
    f'chroot "$1" useradd --uid {USER} --user-group --create-home --shell /bin/bash opam',
    # The sandbox starts there as root without root's power over files.
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
    """What an image holds; written last, so that an image with one is complete.

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


def recipe_digest(suite: str, sources: tuple[str, ...]) -> str:
    """Returns the key of an image: the same words make the same image."""
    recipe = {
        "version": RECIPE_VERSION,
        "suite": suite,
        "sources": sources,
        "packages": PACKAGES,
        "hooks": _HOOKS,
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
        """Returns the image if it is there and complete."""
        directory = self._home / recipe_digest(suite, archives.sources(suite))
        try:
            manifest = ImageManifest.model_validate_json((directory / "manifest.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise InfrastructureError(
                f"{directory / 'manifest.json'} cannot be read: remove {directory}, and the "
                "image is made anew",
                cause=Cause.IMAGE,
            ) from error
        return Image(root=directory / "rootfs", manifest=manifest)

    async def ensure(self, suite: str, archives: Archives, tell: Callable[[str], None]) -> Image:
        """Returns the image, making it first if need be (about 40 s).

        Args:
            suite: Debian suite, such as `trixie`.
            archives: Where Debian's packages come from.
            tell: Receives words that a person watches.

        Raises:
            InfrastructureError: Cause `image`: it cannot be made.
        """
        if (image := self.find(suite, archives)) is not None:
            return image
        self._home.mkdir(parents=True, exist_ok=True)
        name = recipe_digest(suite, archives.sources(suite))
        async with lock(
            self._home / f"{name}.lock",
            waiting=lambda: tell("waiting for another worker to make the root file system"),
        ):
            if (image := self.find(suite, archives)) is None:
                await self.sweep()
                await self._make(suite, archives, self._home / name, tell)
                image = self.find(suite, archives)
        assert image is not None  # noqa: S101 - for mypy: made above or an exception
        return image

    async def _make(
        self, suite: str, archives: Archives, target: Path, tell: Callable[[str], None]
    ) -> None:
        tell(f"making a clean Debian {suite} root file system from {archives.main}")
        half_made, mine = locked_directory(self._home, HALF_MADE)
        try:
            root = half_made / "rootfs"
            lines: list[str] = []

            def output(data: bytes) -> None:
                for line in data.decode(errors="replace").splitlines():
                    if line.startswith(("I: ", "E: ", "W: ")):
                        tell(line)
                    lines.append(line)
                    del lines[:-30]

            ended = await supervise(
                self._command(suite, archives, root), output=output, time_limit=_MAKE_TIMEOUT
            )
            if not ended.ok:
                raise _not_made(archives, ended, lines)  # noqa: TRY301 - one way out
            packages = await asyncio.to_thread(_complete, half_made, suite, target)
            tell(f"root file system ready: {len(packages)} Debian packages")
        except BaseException:
            await remove_tree(half_made, self._rights)
            raise
        finally:
            os.close(mine)

    def _command(self, suite: str, archives: Archives, root: Path) -> list[str]:
        keyrings = [f"--keyring={path}" for path in _KEYRINGS if path.exists()]
        if not keyrings:
            raise InfrastructureError(
                "this machine does not know Debian's keys: apt-get install debian-archive-keyring",
                cause=Cause.IMAGE,
            )
        return [
            *self._rights.making_images,
            "mmdebstrap",
            "--variant=apt",
            "--mode=root",
            "--format=directory",
            *(() if self._rights.prefix == () else ("--skip=output/mknod,output/dev",)),
            "--skip=cleanup/apt",
            "--include=" + ",".join(PACKAGES),
            keyrings[0],
            # In the root only while it is made: they may name the proxy of this site.
            *(f'--aptopt={key} "{value}"' for key, value in archives.options),
            *(f"--customize-hook={hook}" for hook in _HOOKS),
            suite,
            str(root),
            *archives.sources(suite),
        ]

    async def sweep(self) -> None:
        """Removes what workers left that were killed while they made an image."""
        await remove_unlocked(self._home, HALF_MADE, self._rights)


def _not_made(archives: Archives, ended: Ended, lines: list[str]) -> InfrastructureError:
    return InfrastructureError(
        f"the root file system could not be made from {archives.main}: mmdebstrap ended with "
        f"{ended.exit_code if ended.signal is None else f'signal {ended.signal}'}: "
        + " | ".join(lines[-5:]),
        cause=Cause.IMAGE,
    )


def _complete(half_made: Path, suite: str, target: Path) -> dict[str, str]:
    """Describes an image and moves it to its place, in this order."""
    root = half_made / "rootfs"
    packages = installed_packages((root / "var/lib/dpkg/status").read_text())
    if not any((root / "var/lib/apt/lists").glob("*Packages*")):
        # With no lists, opam calls every system package unavailable.
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


_REMOVE_TRIES = 5


async def remove_tree(path: Path, rights: Rights) -> None:
    """Removes a directory tree, whoever owns its files and however deep it is.

    Raises:
        InfrastructureError: Cause `storage`: something is left.
    """
    # Not shutil: it recurses, and a package under test may nest thousands of directories.
    command = [*rights.prefix, "rm", "--recursive", "--force", "--one-file-system", "--", str(path)]
    # A worker that starts looks for the lock in it, and makes one where it is just gone: then
    # the directory was not empty after all, and is the next time.
    for _ in range(_REMOVE_TRIES):
        said = bytearray()
        ended = await supervise(command, output=said.extend)
        if ended.ok:
            return
    raise InfrastructureError(
        f"{path} cannot be removed: {said[-300:].decode(errors='replace')}", cause=Cause.STORAGE
    )


async def _nothing(_: Path) -> None:
    pass


async def remove_unlocked(
    parent: Path,
    prefix: str,
    rights: Rights,
    *,
    first: Callable[[Path], Awaitable[None]] = _nothing,
) -> int:
    """Removes directories of a prefix whose owners are gone.

    Args:
        parent: Where they are.
        prefix: How their names begin.
        rights: How to get at files of other users.
        first: Called with each before it is removed.

    Returns:
        How many there were.
    """
    removed = 0
    for directory in await asyncio.to_thread(lambda: sorted(parent.glob(f"{prefix}*"))):
        try:
            mine = try_lock(directory / "lock")
        except FileNotFoundError:
            continue  # its owner has just removed it
        if mine is not None:
            try:
                await first(directory)
                await remove_tree(directory, rights)
            finally:
                os.close(mine)
            removed += 1
    return removed
