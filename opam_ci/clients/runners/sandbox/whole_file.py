"""Files that are there as a whole or not at all, also after a power cut."""

import os
import tempfile
from pathlib import Path

from opam_ci.clients.runners.sandbox.locks import HALF_MADE


def write_whole(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Writes a file, in place of what is there; makes its directory.

    It is written beside its place, and renamed when complete: a killed worker can leave what it
    wrote there, with a name that begins with `HALF_MADE`.

    Args:
        path: The file.
        data: Its content.
        mode: Its permissions.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=HALF_MADE, dir=path.parent)
    half_made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, mode)
            file.flush()
            os.fsync(descriptor)
        half_made.replace(path)
    finally:
        half_made.unlink(missing_ok=True)
