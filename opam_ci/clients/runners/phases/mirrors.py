"""Archive mirrors as builds see them."""

import hashlib
import os
import re
import tarfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from opam_ci.core.jobs.archives import KINDS
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_INSIDE = "/mirrors"
SOURCES = f"{_INSIDE}/sources"
"""Where a job sees archives that this machine has."""
_READABLE = 0o005
_OPAM_FILE = ("packages", "NAME", "NAME.VERSION", "opam")
_OPAM_FILE_LIMIT = 1 << 20
_CHECKSUM = re.compile(rb"\b(md5|sha256|sha512)=([0-9a-fA-F]{32,128})\b")
_CHECKSUMS = re.compile(rb"checksum\s*:\s*(\[[^\]]*\]|\"[^\"]*\")")
_SOURCE = re.compile(rb"^\s*(?:url|extra-source\b[^{]*)\s*\{|^\s*src\s*:", re.MULTILINE)


class Mirrors(Frozen):
    """Archive mirrors of a job.

    Attributes:
        urls: URLs inside a build root: that of a `file://` mirror is a path of the build root,
            so that no path of the host is visible.
        directories: Host directories to show read-only, as (host path, inside path).
    """

    urls: tuple[str, ...] = ()
    directories: tuple[tuple[Path, str], ...] = ()

    @property
    def setting(self) -> str:
        """The line in opam's configuration."""
        quoted = " ".join(f'"{url}"' for url in self.urls)
        return f"archive-mirrors: [{quoted}]"

    @property
    def contents(self) -> str:
        """A key for what depends on the mirrors and on which archives the local ones have now."""
        digest = hashlib.sha256(repr((self.urls, self.directories)).encode())
        for directory, _ in self.directories:
            for kind in KINDS:
                for place, _, names in sorted(os.walk(directory / kind)):
                    if names:
                        digest.update(repr((place, sorted(names))).encode())
        return digest.hexdigest()[:16]

    def with_sources(self, directory: Path) -> "Mirrors":
        """Returns these mirrors, and a directory of archives beside them."""
        return Mirrors(urls=self.urls, directories=(*self.directories, (directory, SOURCES)))


def inside(urls: tuple[str, ...]) -> Mirrors:
    """Translates mirrors for a build root.

    Raises:
        InfrastructureError: Cause `package_mirror`: a `file://` mirror is missing, or a URL
            has characters that an opam setting cannot have.
    """
    shown: list[str] = []
    directories: list[tuple[Path, str]] = []
    for url in urls:
        if re.search(r'["\\\s]', url):
            raise InfrastructureError(
                f"invalid URL of an archive mirror {url!r}: correct the setting",
                cause=Cause.PACKAGE_MIRROR,
            )
        parts = urlsplit(url)
        if parts.scheme != "file":
            shown.append(url)
            continue
        path = Path(unquote(parts.path))
        if not path.is_dir():
            raise InfrastructureError(
                f"the archive mirror {url} is not a directory of this machine: correct the "
                "setting, or make the mirror",
                cause=Cause.PACKAGE_MIRROR,
            )
        if path.stat().st_mode & _READABLE != _READABLE:
            # opam would silently ignore it and fetch from the source's own host.
            raise InfrastructureError(
                f"the archive mirror {url} cannot be read by the user of a build: "
                f"chmod -R a+rX {path}",
                cause=Cause.PACKAGE_MIRROR,
            )
        place = f"{_INSIDE}/{len(directories)}"
        shown.append(f"file://{place}")
        directories.append((path.resolve(), place))
    return Mirrors(urls=tuple(shown), directories=tuple(directories))


def reduce(archive: Path, target: Path, directories: tuple[Path, ...]) -> frozenset[str]:
    """Copies an archive of an opam repository without the packages that no mirror has.

    Args:
        archive: A `.tar.gz`; none of it is unpacked on the host.
        target: Path of the reduced one.
        directories: Mirrors, laid out as `KIND/xx/HASH`.

    Returns:
        The packages that were left out, `name.version`.
    """
    hidden = set[str]()
    with tarfile.open(archive, "r:gz") as source:
        for member in source:
            parts = PurePosixPath(member.name).parts
            if len(parts) != len(_OPAM_FILE) or parts[0] != _OPAM_FILE[0] or parts[3] != "opam":
                continue
            file = source.extractfile(member) if member.isreg() else None
            if file is None or not is_mirrored(file.read(_OPAM_FILE_LIMIT), directories):
                hidden.add(parts[2])
    with (
        tarfile.open(archive, "r:gz") as source,
        tarfile.open(target, "w:gz", compresslevel=1) as kept,
    ):
        for member in source:
            parts = PurePosixPath(member.name).parts
            if len(parts) < len(_OPAM_FILE) - 1 or parts[2] not in hidden:
                kept.addfile(member, source.extractfile(member) if member.isreg() else None)
    return frozenset(hidden)


def is_mirrored(opam: bytes, directories: tuple[Path, ...]) -> bool:
    """Returns whether all sources of an opam file are in local mirrors.

    Args:
        opam: The file's text. Fields are found by pattern: a wrong guess hides a package
            from a worker that has no other sources anyway.
        directories: Mirrors, laid out as `KIND/xx/HASH`.
    """
    text = re.sub(rb"^\s*#.*$", b"", opam, flags=re.MULTILINE)
    if _SOURCE.search(text) is None:
        return True
    groups = _CHECKSUMS.findall(text)
    return bool(groups) and all(
        any(
            (
                directory / kind.decode() / digest[:2].decode().lower() / digest.decode().lower()
            ).exists()
            for kind, digest in _CHECKSUM.findall(group)
            for directory in directories
        )
        for group in groups
    )
