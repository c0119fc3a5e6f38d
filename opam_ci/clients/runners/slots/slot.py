"""Slots: the users that jobs run as, and the directory of each.

A slot's directory is always the same path, since compilers and opam's switches have their own path
in their files.
"""

import asyncio
import os
import pwd
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.locks import remove_tree, try_lock
from opam_ci.clients.runners.sandbox.process import run_process
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_POLL = 0.2
_NOTIFY_EVERY = 60.0
_OWN = "own"
_SHARED = tuple(
    path
    for path in ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are cleaned, not used
    if Path(path).is_dir()
)
"""Directories of a system in which every user may write."""

_TIMEOUT = 60.0


@dataclass(frozen=True)
class User:
    """A user of this machine."""

    name: str
    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> "User | None":
        """Returns a user, None if there is none of that name."""
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return cls(name, found.pw_uid, found.pw_gid)

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before a command that run it as this user, on Linux."""
        return ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--")


@dataclass(frozen=True)
class Slot:
    """What one job at a time has.

    Attributes:
        directory: Its directory, in which only the worker writes.
        user: Its user; None for the worker's own.
    """

    directory: Path
    user: User | None

    @property
    def home(self) -> Path:
        """Where the job writes."""
        return self.directory / "home"

    @property
    def lock(self) -> Path:
        """The file whose lock the job holds."""
        return self.directory.with_name(f"{self.directory.name}.lock")

    async def renew(self) -> None:
        """Makes `home` empty.

        Raises:
            InfrastructureError: Cause `storage`: what is in it cannot be removed.
        """
        await self.clear()
        self.home.mkdir(mode=0o700)
        (self.home / "tmp").mkdir()
        await self.own(self.home)

    async def clear(self) -> None:
        """Removes what the job wrote.

        Raises:
            InfrastructureError: Cause `storage`: it cannot be removed.
        """
        if self.user is None:
            # Root needs no permission to remove what is in a directory, others do.
            await _call("chmod", "-R", "u+rwX", str(self.home))
        await remove_tree(self.home, ROOT)
        if self.user is not None:
            await _call("find", *_SHARED, "-xdev", "-user", self.user.name, "-delete")

    async def own(self, path: Path) -> None:
        """Gives a tree to the slot's user.

        Raises:
            InfrastructureError: Cause `storage`: it cannot be given.
        """
        if self.user is None:
            return
        owner = f"{self.user.uid}:{self.user.gid}"
        if not await _call("chown", "-R", "-h", owner, str(path)):
            raise InfrastructureError(
                f"{path} cannot be given to {self.user.name}", cause=Cause.STORAGE
            )


async def _call(*argv: str) -> bool:
    ended = await run_process(argv, output=lambda _: None, time_limit=_TIMEOUT)
    return ended.ok


class Slots:
    """The slots of a machine, of which a lock file says which are in use.

    Args:
        home: Their directory.
        users: A user for each; None for the worker's own.
    """

    def __init__(self, home: Path, users: tuple[User | None, ...]) -> None:
        self._home = home
        self.all = tuple(Slot(home / (_OWN if user is None else user.name), user) for user in users)

    @asynccontextmanager
    async def take(self, waiting: Callable[[], None]) -> AsyncIterator[Slot]:
        """Holds a slot that is free, and empty.

        Args:
            waiting: Called when all are in use, at once and then every minute; what it raises
                ends the waiting.

        Raises:
            InfrastructureError: Cause `storage`: it cannot be made, or emptied.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        notified_at = -_NOTIFY_EVERY
        while (taken := self._free()) is None:
            if (now := asyncio.get_running_loop().time()) - notified_at >= _NOTIFY_EVERY:
                notified_at = now
                waiting()
            await asyncio.sleep(_POLL)
        slot, descriptor = taken
        try:
            slot.directory.mkdir(exist_ok=True)
            # bubblewrap, in opam's sandbox, opens what is above a directory that it shows.
            slot.directory.chmod(0o755)
            await slot.renew()
            yield slot
        finally:
            try:
                await slot.clear()
            finally:
                os.close(descriptor)

    def _free(self) -> tuple[Slot, int] | None:
        for slot in self.all:
            if (descriptor := try_lock(slot.lock)) is not None:
                return slot, descriptor
        return None

    async def left_by_the_dead(self) -> AsyncIterator[Slot]:
        """Yields slots that nobody holds and that have files of a job, each locked meanwhile."""
        for slot in self.all:
            if not slot.home.exists():
                continue
            if (descriptor := try_lock(slot.lock)) is None:
                continue
            try:
                yield slot
            finally:
                os.close(descriptor)
