"""URLs as opam reads them: the program that fetches them, the protocol, the place."""

import re
from typing import Final, NamedTuple, Self

from opam_ci.core.opam.errors import OcamlException

_VERSION_CONTROL: Final = ("git", "hg", "darcs")
_BACKENDS: Final = {
    **dict.fromkeys(("http", "https", "ftp", "wget", "curl"), "http"),
    **dict.fromkeys(("file", "path", "local", "rsync", "ssh", "scp", "sftp"), "rsync"),
    **{name: name for name in _VERSION_CONTROL},
}
# [backend+]protocol://rest, where a backend may be set apart by :// too.
_SCHEME: Final = re.compile(r"(?:(?P<backend>[^+:]*)(?:\+|://))?(?P<protocol>[^:]*)://")
# host:path, as in ssh and git; one letter before the colon is a drive.
_SSH_PATH: Final = re.compile(
    r"(?P<host>[^/:]{2,}):/?(?P<path>(?:[^0-9]|[0-9]*[^0-9/]).*)?", re.DOTALL
)


class Url(NamedTuple):
    """A URL.

    Attributes:
        backend: The program that fetches it: `http`, `rsync`, `git`, `hg` or `darcs`.
        transport: The protocol.
        path: Host and path.
        fragment: The part after the first `#`, such as a git branch; None without one.
    """

    backend: str
    transport: str
    path: str
    fragment: str | None

    @classmethod
    def parse(cls, text: str, *, backend: str | None = None) -> Self:
        """Read a URL.

        Args:
            text: The URL.
            backend: The backend, if the field determines it.

        Raises:
            OcamlException: opam does not know the protocol.
        """
        scheme = _SCHEME.match(text)
        named, transport = (scheme["backend"], scheme["protocol"]) if scheme else (None, None)
        path, hash_mark, fragment = text[scheme.end() if scheme else 0 :].partition("#")
        backend = backend or _backend(named or None, transport or None)
        ssh = _SSH_PATH.fullmatch(path)
        transport = transport or None
        if backend == "http" and transport is None:
            transport = "http"
        elif ssh and (transport is None or transport in _VERSION_CONTROL):
            transport, path = "ssh", ssh["host"] + (f"/{ssh['path']}" if ssh["path"] else "")
        elif transport is None or transport in ("hg", "darcs"):
            transport = "file"
        return cls(backend, transport, path, fragment if hash_mark else None)

    def __str__(self) -> str:
        """The URL without its fragment."""
        is_named = self.backend in _VERSION_CONTROL and self.backend != self.transport
        vcs = f"{self.backend}+" if is_named else ""
        return f"{vcs}{self.transport}://{self.path}"

    @property
    def basename(self) -> str:
        """The last part of the path, empty if there is none."""
        return self.path.rstrip("/").rpartition("/")[2]


def _backend(named: str | None, transport: str | None) -> str:
    if named is not None:
        if named in _VERSION_CONTROL:
            return named
        raise _parse_error(f"unsupported version control system {named}")
    if transport is None:
        return "rsync"
    if transport in _BACKENDS:
        return _BACKENDS[transport]
    raise _parse_error(f"unsupported protocol {transport}")


def _parse_error(message: str) -> OcamlException:
    return OcamlException(f'OpamUrl.Parse_error("{message}")')
