"""The artifact store: keyed blobs in a directory or an object store, behind one interface."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, MemoryStore, from_url

from opam_ci.clients.threads import STORE
from opam_ci.core.batched import batched
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import OBJECT_KEY

_REMOTE_SCHEMES = ("s3", "s3a", "gs", "az")
_RETRY_TIMEOUT = timedelta(seconds=60)
"""The library's default of three minutes is longer than a heartbeat timeout."""

_PART_BYTES = 8 * 1024 * 1024
"""S3 refuses parts below 5 MiB, the last one apart."""
_CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes in memory of an object that is copied to a file."""

TRIALS = "logs/trial"
"""Folder of objects that only show that a process can use the store."""

_INSTANCE_CREDENTIALS = "169.254.169.254"
"""Where the library looks for the credentials of a virtual machine, if no others are given."""

_DELETED_AT_ONCE = 1000
"""Keys in one request of S3's."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_MARKS = tuple(f"(os error {number})" for number in _FULL)
"""How the library prints the operating system's error numbers; it exposes them no other way."""


class MissingKeyError(InfrastructureError):
    """No object has that key.

    Attributes:
        key: The object's key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no {key} in the store", cause=Cause.STORAGE)
        self.key = key


class StoredObject(NamedTuple):
    """An object as a listing shows it.

    Attributes:
        key: Its key.
        size: Its size in bytes.
        modified_at: When it was stored.
        tag: Differs when the content does, None if the store has no such thing.
    """

    key: str
    size: int
    modified_at: datetime
    tag: str | None = None


class ArtifactStore:
    """Blobs by key. An object appears whole or not at all, also when a writer is killed.

    Methods are safe to call concurrently, from one event loop. A failure of the store is
    an InfrastructureError with cause `storage`, or `disk_full` where the file system is full.
    What `put` has stored outlives a power failure. One that a power failure interrupts may leave
    a torn object in a local store; another attempt stores it again.

    The library is called on threads: its own coroutines (version 0.12) leave threads behind
    that aborted a quarter of all short processes at their exit.
    """

    def __init__(self, backend: obstore.store.ObjectStore, url: str) -> None:
        self._backend = backend
        self.url = url

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens a store; the directory of a local one is made where it does not exist.

        Args:
            url: `file:///directory`, `s3://bucket/prefix` (also `gs`, `az`, configured by
                their usual environment variables), or `memory:` for a store that lives as
                long as the returned object.

        Raises:
            UsageError: It is not the URL of a store.
            InfrastructureError: The directory cannot be made or opened.
        """
        parts = urlsplit(url)
        if parts.scheme == "memory":
            return cls(MemoryStore(), url)
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path != "/":
            root = Path(url2pathname(parts.path))
            with _translated(f"open the store {url}"):
                root.mkdir(parents=True, exist_ok=True)
                return cls(LocalStore(root), url)
        if parts.scheme in _REMOTE_SCHEMES and parts.netloc and "@" not in parts.netloc:
            with _translated(f"open the store {url}"):
                return cls(from_url(url, retry_config={"retry_timeout": _RETRY_TIMEOUT}), url)
        raise UsageError(
            "OPAM_CI_STORE is not the URL of a store: give file:///DIRECTORY or s3://BUCKET/PREFIX "
            "(credentials are in variables of their own)"
        )

    async def require(self) -> None:
        """Tries whether objects can be stored, listed, read and deleted: once, before jobs need it.

        Raises:
            UsageError: There is no such bucket, or it refuses the credentials.
            InfrastructureError: The store does not answer.
        """
        # Build workers may write below this folder alone.
        key = f"{TRIALS}/{secrets.token_hex(8)}"
        try:
            await self.put(key, b"")
            await self.list(TRIALS)
            await self.get(key)
            await self.delete(key)
        except InfrastructureError as error:
            cause = error.__cause__
            if isinstance(cause, PermissionDeniedError | UnauthenticatedError) or (
                _INSTANCE_CREDENTIALS in str(cause)
            ):
                raise UsageError(
                    f"the store {self.url} refuses this process: give it credentials that may "
                    "store, list, read and delete there, such as AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY"
                ) from error
            if isinstance(cause, FileNotFoundError):
                raise UsageError(
                    f"the store {self.url} does not exist: create it, or correct OPAM_CI_STORE"
                ) from error
            raise

    async def put(self, key: str, data: bytes | Path) -> None:
        """Stores bytes, or the content of a file, in place of what was there.

        Raises:
            UsageError: The key is not well-formed.
            InfrastructureError: The file cannot be read, or the store cannot be written.
        """
        path = _checked(key)
        if isinstance(data, Path):
            with _translated(f"store {data} as {key}"):
                await STORE.run(
                    obstore.put,
                    self._backend,
                    path,
                    data,
                    chunk_size=_PART_BYTES,
                    max_concurrency=4,
                )
        else:
            with _translated(f"store {key}"):
                await STORE.run(obstore.put, self._backend, path, data, use_multipart=False)
        if isinstance(self._backend, LocalStore):
            with _translated(f"store {key}"):
                await STORE.run(_sync, Path(self._backend.prefix or "/") / path)

    async def get(self, key: str) -> bytes:
        """Returns an object's content, which must fit in memory.

        Raises:
            UsageError: The key is not well-formed.
            MissingKeyError: There is no such object.
            InfrastructureError: The store cannot be read.
        """
        with _translated(f"read {key}", missing=key):
            return await STORE.run(_read, self._backend, _checked(key))

    async def fetch(self, key: str, target: Path) -> None:
        """Copies an object to a file, which appears whole or not at all.

        An existing file is replaced; its directory must exist.

        Raises:
            UsageError: The key is not well-formed.
            MissingKeyError: There is no such object.
            InfrastructureError: The store cannot be read or the file not be written.
        """
        with _translated(f"read {key}", missing=key):
            result = await STORE.run(obstore.get, self._backend, _checked(key))
        part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
        with _translated(f"copy {key} to {target}"):
            try:
                await STORE.run(_write, part, result)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object.

        Raises:
            UsageError: The key is not well-formed.
            InfrastructureError: The store cannot be read.
        """
        return await self.modified_at(key) is not None

    async def modified_at(self, key: str) -> datetime | None:
        """Returns when an object was stored, None if there is none.

        Raises:
            UsageError: The key is not well-formed.
            InfrastructureError: The store cannot be read.
        """
        try:
            with _translated(f"look for {key}", missing=key):
                found = await STORE.run(obstore.head, self._backend, _checked(key))
        except MissingKeyError:
            return None
        return found["last_modified"]

    async def delete(self, *keys: str) -> None:
        """Removes objects, as far as they exist.

        Raises:
            UsageError: A key is not well-formed.
            InfrastructureError: The store cannot be written.
        """
        for some in batched(keys, _DELETED_AT_ONCE):
            paths = [_checked(key) for key in some]
            what = paths[0] if len(paths) == 1 else f"{len(paths)} objects such as {paths[0]}"
            try:
                with _translated(f"delete {what}", missing=paths[0]):
                    await STORE.run(obstore.delete, self._backend, paths)
            except MissingKeyError:
                # A directory stops at the first one that is missing, an object store does not.
                for path in paths if len(paths) > 1 else ():
                    await self.delete(path)

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        """Lists the objects below `prefix/`, sorted by key.

        Args:
            prefix: A key whose parts are directories.
            after: Leave out this key and those before it.

        Raises:
            UsageError: The prefix is not well-formed.
            InfrastructureError: The store cannot be read.
        """
        with _translated(f"list {prefix}"):
            stream = obstore.list(self._backend, _checked(prefix), offset=after, chunk_size=1000)
            found = await STORE.run(stream.collect)
        return sorted(
            StoredObject(each["path"], each["size"], each["last_modified"], each["e_tag"])
            for each in found
        )


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read(backend: obstore.store.ObjectStore, key: str) -> bytes:
    return bytes(obstore.get(backend, key).bytes())


def _write(path: Path, result: "obstore.GetResult") -> None:
    """Writes an object to a new file."""
    size = result.meta["size"]
    with path.open("xb") as file:
        written = sum(file.write(chunk) for chunk in result.stream(_CHUNK_BYTES))
    if written != size:
        raise OSError(errno.EIO, f"only {written} of {size} bytes could be read")


def _checked(key: str) -> str:
    if OBJECT_KEY.fullmatch(key) is None:
        raise UsageError(f"invalid key of a stored object: {key[:100]!r}")
    return key


@contextmanager
def _translated(what: str, *, missing: str | None = None) -> Iterator[None]:
    """Turns the library's and the system's errors into ours.

    Args:
        what: What is tried, for the message.
        missing: Key whose absence is possible here.
    """
    try:
        yield
    except FileNotFoundError as error:
        if missing is not None:
            raise MissingKeyError(missing) from error
        raise _fault(what, error) from error
    except (BaseError, OSError, ValueError) as error:
        raise _fault(what, error) from error


def _fault(what: str, error: Exception) -> InfrastructureError:
    text = str(error).partition("\n")[0]
    full = isinstance(error, OSError) and error.errno in _FULL
    full = full or any(mark in text for mark in _FULL_MARKS)
    return InfrastructureError(
        f"cannot {what}: {text}", cause=Cause.DISK_FULL if full else Cause.STORAGE
    )
