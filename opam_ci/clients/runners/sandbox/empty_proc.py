"""An empty /proc, which opam's nested sandbox needs to mount one of its own.

The kernel allows that only where some mount of that kind is wholly visible; engines mask parts of a
container's, and bubblewrap covers parts of the one that it makes for root. This one belongs to a
PID namespace that has ended, and would show nothing but processes.
"""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from opam_ci.clients.runners.sandbox.process import run_process

INSIDE = "/mnt"
"""Where a container shows it: a directory of every distribution, and of no package."""

MOUNT = ("unshare", "--pid", "--fork", "--", "mount", "-t", "proc", "-o", "subset=pid", "proc")
"""The command that mounts it, without its last argument, the directory (Linux 5.8 or later)."""


@asynccontextmanager
async def empty_proc() -> AsyncIterator[Path | None]:
    """Mounts one on the host during a block; a container that was started keeps it.

    Yields:
        The directory, or None if this worker may not mount.
    """
    if os.geteuid() != 0:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="opam-ci-proc-") as directory:
        ended = await run_process([*MOUNT, directory], output=lambda _: None)
        try:
            yield Path(directory) if ended.ok else None
        finally:
            if ended.ok:
                # A millisecond; not awaited, so that no cancellation leaves it behind.
                subprocess.run(["umount", "--lazy", directory], check=True)  # noqa: ASYNC221, S603, S607 - see above
