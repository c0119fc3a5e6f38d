"""Threads by purpose, so that what waits for one service cannot hold up the others.

asyncio's own threads (`asyncio.to_thread`) are `cores + 4`, and resolve host names too: they are
for short work on local files. What may wait for somebody else has threads here, which are bounded
and started when needed.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Children:
    """The process groups that a call has started, which end when its caller is cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._cancelled = False

    def add(self, group: int) -> None:
        with self._lock:
            self._running.add(group)
            if self._cancelled:
                _kill(group)

    def discard(self, group: int) -> None:
        with self._lock:
            self._running.discard(group)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            for group in self._running:
                _kill(group)


_CHILDREN: ContextVar[_Children | None] = ContextVar("_CHILDREN", default=None)


class Threads:
    """Threads for one purpose.

    Args:
        name: Of the purpose.
        number: At most so many; further calls wait.
    """

    def __init__(self, name: str, number: int) -> None:
        self._executor = ThreadPoolExecutor(number, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function on a thread, as `asyncio.to_thread` does.

        Raises:
            asyncio.CancelledError: The caller was cancelled. A thread cannot be stopped, but the
                commands that it runs (`run_command`) are killed.
        """
        children = _Children()
        context = copy_context()
        context.run(_CHILDREN.set, children)
        call = partial(context.run, partial(function, *args, **kwargs))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except asyncio.CancelledError:
            children.cancel()
            raise


GIT = Threads("git", 8)
"""Local commands and queries; and fetches, of which one at a time waits for a remote."""

STORE = Threads("store", 32)
"""Requests to the object store, which are retried for a minute."""

INDEX = Threads("index", 8)
"""The database of the index and of webhooks: SQLAlchemy's pool has connections for fifteen."""

LINT = Threads("lint", 2)
"""Reading and judging opam files, which takes processor time."""

COMPARISON = Threads("comparison", 1)
"""Comparing logs for pages, which takes processor time."""


def run_command(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float, text: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end. Blocks; called by `Threads.run`, it is killed with its caller.

    Args:
        command: The command and its arguments.
        cwd: A directory that exists.
        env: Its whole environment.
        timeout: Seconds.
        text: Its standard input.

    Raises:
        subprocess.TimeoutExpired: It took longer, and was killed with all that it had started.
        OSError: It cannot be started.
    """
    with subprocess.Popen(  # noqa: S603 -- a list of arguments, never a shell
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # git's transport is a child of git's: a killed parent would leave it with the pipes.
        # Of its own session, since in a mere group it would hang where it wants the terminal.
        start_new_session=True,
    ) as process:
        children = _CHILDREN.get() or _Children()
        children.add(process.pid)
        try:
            output, errors = process.communicate(text.encode(), timeout=timeout)
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            children.discard(process.pid)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
