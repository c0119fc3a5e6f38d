"""Names of packages, and opam's way to quote text in messages."""

from typing import Final, NamedTuple, Self

from opam_ci.core.opam import version as versions
from opam_ci.core.opam.errors import OcamlFailure

_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME_CHARS: Final = _LETTERS | frozenset("0123456789-_+")
_VERSION_CHARS: Final = _NAME_CHARS | frozenset(".~")
_ESCAPES: Final = {
    '"': '\\"',
    "'": "\\'",
    "\\": "\\\\",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\b": "\\b",
}
_PRINTABLE: Final = range(0x20, 0x7F)


class Package(NamedTuple):
    """A package: its name and version."""

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `name.version`.

        Raises:
            OcamlFailure: It is invalid; the message is opam's.
        """
        found = cls.find(text)
        if found is None:
            raise OcamlFailure("OpamPackage.of_string")
        return found

    @classmethod
    def find(cls, text: str) -> Self | None:
        """Parse `name.version`; None if it is invalid."""
        name, dot, version = text.partition(".")
        if not dot or " " in text or "\n" in text:
            return None
        try:
            return cls(check_name(name), check_version(version))
        except OcamlFailure:
            return None

    def __str__(self) -> str:
        """`name.version`."""
        return f"{self.name}.{self.version}"

    @property
    def identity(self) -> tuple[str, object]:
        """A value that is equal for packages that opam considers the same."""
        return self.name, versions.canonical(self.version)

    @property
    def sort_key(self) -> tuple[object, object]:
        """A sort key: opam's order of packages."""
        return name_order(self.name), versions.key(self.version)


def name_order(name: str) -> tuple[tuple[str, str], ...]:
    """A sort key for names: by letter, upper case before lower case of the same letter."""
    return tuple((char.lower() if char.isascii() else char, char) for char in name)


def check_name(name: str) -> str:
    """The name, if opam accepts it as a package's name.

    Raises:
        OcamlFailure: It is invalid; the message is opam's.
    """
    for char in name:
        if char not in _NAME_CHARS:
            raise OcamlFailure(f"Invalid character '{_escape(char)}' in package name {quote(name)}")
    if not _LETTERS.intersection(name):
        raise OcamlFailure(f"Package name {quote(name)} should contain at least one letter")
    return name


def check_version(version: str) -> str:
    """The version, if opam accepts it as a package's version.

    Raises:
        OcamlFailure: It is invalid; the message is opam's.
    """
    if not version:
        raise OcamlFailure("Package version can't be empty")
    for char in version:
        if char not in _VERSION_CHARS:
            raise OcamlFailure(
                f"Invalid character '{_escape(char)}' in package version {quote(version)}"
            )
    return version


def quote(text: str) -> str:
    """The text as OCaml's `%S` prints it: bytes that are not printable as decimal escapes."""
    return '"' + "".join("'" if char == "'" else _escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    # A character beyond ASCII is several bytes to OCaml, which escapes each.
    if char in _ESCAPES:
        return _ESCAPES[char]
    if ord(char) in _PRINTABLE:
        return char
    return "".join(f"\\{byte:03d}" for byte in char.encode("utf-8", "surrogateescape"))
