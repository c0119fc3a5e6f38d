"""What a change may consist of, so that git, the store and every worker can handle it.

The analysis refuses the rest before anything is merged, exported or built. A path of the base
that breaks the rules is left out of exports, and may be deleted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import ByteSize, Field

from opam_ci.core.model import Frozen
from opam_ci.core.opam.package import Package, quote
from opam_ci.core.opam.url import Url
from opam_ci.core.submission.change import FileChange

CHANGE_REFUSED: Final = "change-refused"
"""Rule of the verdict on a change that the analysis refuses."""

MAX_NAME: Final = 255
"""Bytes of a file's name (source: NAME_MAX of Linux, FreeBSD and macOS)."""
MAX_PATH: Final = 1_000
"""Bytes of a path in the repository. With the directories above it on a worker it stays within
PATH_MAX (4,096 on Linux, 1,024 on FreeBSD and macOS). The longest real one has 110."""
MAX_DEPTH: Final = 100
"""Names in a path. Git stops at 2,048 (`core.maxTreeDepth`); the deepest real path has 4."""
MAX_TREE_BYTES: Final = 32 * 1024 * 1024
"""Bytes of the git trees in which these files are; those of a change of `MAX_PACKAGES`
packages have 3 MB."""
MAX_PACKAGES: Final = 10_000
"""Packages that a change touches."""
MAX_PACKAGE_BYTES: Final = 512 * 1024
"""Bytes of their names: the list has to fit into one payload of Temporal's (2 MB), and twice
into the arguments of one git command (2 MB)."""

_MIB: Final = 1 << 20


class ChangeLimits(Frozen):
    """How much a head may add and modify.

    What git, Temporal or a worker cannot take at all is refused whatever these are.

    The largest file of opam-repository in July 2026 has 24 KB, and all of its files together
    have 26 MB.

    Attributes:
        file_bytes: Bytes of a file below `packages/`.
        package_bytes: Bytes of such files in one package.
        package_files: Number of such files in one package.
        head_bytes: Bytes of all files, also of those elsewhere, which git merges too. The same
            content under many names counts each time.
        head_files: Number of files and folders; by default three times as many as in a change
            of `MAX_PACKAGES` packages with one file each.
    """

    file_bytes: ByteSize = Field(default=ByteSize(_MIB), ge=1)
    package_bytes: ByteSize = Field(default=ByteSize(10 * _MIB), ge=1)
    package_files: int = Field(default=2_000, ge=1)
    head_bytes: ByteSize = Field(default=ByteSize(50 * _MIB), ge=1)
    head_files: int = Field(default=100_000, ge=1)


DEFAULT_LIMITS: Final = ChangeLimits()
"""What a change may have where nothing is configured."""

_REGULAR: Final = frozenset({0o100644, 0o100755})
_TRANSPORTS: Final = frozenset({"http", "https", "ftp"})
_KINDS: Final = {0o120000: "symbolic link", 0o160000: "submodule"}
_EXPECTED: Final = "(expecting regular files of mode 100644 or 100755)"
_INVALID_NAMES: Final = frozenset({"", ".", ".."})
_SHOWN: Final = 100
_PACKAGE_DEPTH: Final = 3


def refusal(path: str, mode: str) -> str | None:
    """Return why a file is refused, None if it is accepted.

    Args:
        path: From the repository's root, as `surrogateescape` decodes it.
        mode: Git's octal mode.
    """
    wrong = _unbounded(path)
    if wrong is None and (path == "packages" or path.startswith("packages/")):
        wrong = _odd_name(path) or _odd_mode(path, int(mode, 8))
    return wrong


def _unbounded(path: str) -> str | None:
    length = len(path.encode("utf-8", "surrogateescape"))
    if path.count("/") >= MAX_DEPTH:
        return f"Path {shown(path)} is too deep (at most {MAX_DEPTH} names)"
    if length > MAX_PATH:
        return f"Path {shown(path)} is too long ({length} bytes, at most {MAX_PATH})"
    return None


def _odd_name(path: str) -> str | None:
    if not is_plain(path):
        return (
            f"Unexpected path {shown(path)} in packages directory "
            "(expecting printable ASCII characters without quotes and backslashes)"
        )
    names = path.split("/")
    if not _INVALID_NAMES.isdisjoint(names):
        return f"Unexpected path {shown(path)} in packages directory"
    longest = max(map(len, names))
    if longest > MAX_NAME:
        return f"Path {shown(path)} has too long a name ({longest} bytes, at most {MAX_NAME})"
    return None


def _odd_mode(path: str, mode: int) -> str | None:
    if mode in _REGULAR:
        return None
    if mode in _KINDS:
        return f"Unexpected {_KINDS[mode]} {shown(path)} in packages directory {_EXPECTED}"
    return f"Unexpected mode {mode:06o} of {shown(path)} in packages directory {_EXPECTED}"


def unfetched(url: Url) -> bool:
    """Whether builds do not fetch a source: anything but HTTP, FTP, and git over HTTPS.

    Other protocols reach files, hosts by remote shells, and programs of the worker. No source in
    opam-repository has one.
    """
    if url.backend == "git":
        return url.transport != "https"
    return url.backend != "http" or url.transport not in _TRANSPORTS


def too_many_entries(entries: int, limits: ChangeLimits) -> str | None:
    """Return why a change has too many files, None if it does not.

    Args:
        entries: How many files and folders it adds or modifies.
        limits: What it may have.
    """
    if entries > limits.head_files:
        return f"Too many changed files and folders (over {limits.head_files})"
    return None


def too_large(sizes: Mapping[str, int], limits: ChangeLimits) -> str | None:
    """Return why a change is too large, None if it is not.

    Args:
        sizes: Bytes of each file that it adds or modifies, by path.
        limits: What it may have.
    """
    count, size = Counter[str](), Counter[str]()
    for path, length in sizes.items():
        parts = path.split("/")
        if parts[0] != "packages":
            continue
        if length > limits.file_bytes:
            return (
                f"File {shown(path)} is too big ({length} bytes, at most {limits.file_bytes}): "
                "move it to the sources of the package"
            )
        package = "/".join(parts[:_PACKAGE_DEPTH])
        count[package] += 1
        size[package] += length
    for package, number in count.items():
        if number > limits.package_files:
            return (
                f"Too many changed files in {shown(package)} "
                f"({number}, at most {limits.package_files})"
            )
        if size[package] > limits.package_bytes:
            return (
                f"Changed files in {shown(package)} are too big "
                f"({size[package]} bytes together, at most {limits.package_bytes})"
            )
    if (total := sum(sizes.values())) > limits.head_bytes:
        return f"Changed files are too big ({total} bytes together, at most {limits.head_bytes})"
    return None


def too_many_packages(changes: Iterable[FileChange]) -> str | None:
    """Return why a change touches too many packages, None if it does not."""
    paths = (change.path.split("/") for change in changes)
    packages = {
        tuple(parts[1:_PACKAGE_DEPTH])
        for parts in paths
        if parts[0] == "packages" and len(parts) > _PACKAGE_DEPTH
    }
    if len(packages) > MAX_PACKAGES:
        return f"Too many changed packages ({len(packages)}, at most {MAX_PACKAGES})"
    size = sum(len(package.encode("utf-8", "surrogateescape")) for _, package in packages)
    if size > MAX_PACKAGE_BYTES:
        return (
            f"Names of the {len(packages)} changed packages are too long "
            f"({size} bytes together, at most {MAX_PACKAGE_BYTES})"
        )
    return None


def is_package(path: str) -> bool:
    """Whether a path is that of a package's opam file, visible to opam and every worker."""
    match path.split("/"):
        case ["packages", _, folder, "opam"]:
            return refusal(path, "100644") is None and Package.find(folder) is not None
        case _:
            return False


def is_plain(path: str) -> bool:
    """Whether git prints the path unchanged: printable ASCII without quotes and backslashes."""
    return path.isascii() and path.isprintable() and '"' not in path and "\\" not in path


def shown(path: str) -> str:
    """Return a path for a message: quoted, on one line, of bounded length."""
    return quote(path if len(path) <= _SHOWN else f"{path[:_SHOWN]}...")
