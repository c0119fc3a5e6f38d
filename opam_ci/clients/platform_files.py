"""Loading the file of platforms: a user's own, or the one in this package."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.file import InvalidPlatformFile, parse_platforms
from opam_ci.core.platforms.model import PlatformTable

_LARGEST: Final = 1_000_000
"""Bytes; the default file has 4,000. A larger file is something else."""


def load_platforms(path: Path | None) -> PlatformTable:
    """Returns the platforms of a file.

    Args:
        path: The file; None for the one in this package.

    Raises:
        UsageError: The file does not exist or cannot be read.
        InvalidPlatformFile: Its content is invalid; `problems` lists everything that is wrong.
    """
    if path is None:
        return parse_platforms(files("opam_ci").joinpath("platforms.toml").read_text("utf-8"))
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"platforms: {path}: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise InvalidPlatformFile([f"{path}: over 1 MB, so not a file of platforms"])
    try:
        return parse_platforms(content.decode())
    except UnicodeDecodeError:
        raise InvalidPlatformFile([f"{path}: not UTF-8 text"]) from None
    except InvalidPlatformFile as error:
        raise InvalidPlatformFile(f"{path}: {problem}" for problem in error.problems) from None
