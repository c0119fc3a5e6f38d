"""Running one process tree: streams its output, reports how it ended, kills all of it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any

from opam_ci.clients import programs
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_CHUNK = 1 << 16
_DEATH_TIMEOUT = 60.0
"""Seconds that the kernel may take to end thousands of processes with much memory each."""

_SIGNAL_BASE = 128
_STATUS_LIMIT = 1 << 16
_STATUS_SHOWN = 400

_READY_TIMEOUT = 30.0
"""Seconds for a program that takes some 10 ms on an idle machine."""


@dataclass(frozen=True)
class ProcessResult:
    """How a command ended.

    Attributes:
        exit_code: Its exit code, None if a signal ended it.
        signal: The signal that ended it. A sandbox reports only a shell-like `128 + n`; no
            command that we run exits above 128 by itself.
        timed_out: Whether it was killed at its time limit.
        started: Whether the sandbox started the command; always true without a sandbox.
        duration: Wall time in seconds.
        stopped: Whether it was killed by its guard.
        sandbox_killed: Whether the sandbox's own process, outside of its PID namespace, was
            ended by a signal that we did not send.
        refused: Internal addresses to which its network refused connections.
        budget: What its guard watches.
    """

    exit_code: int | None = 0
    signal: int | None = None
    timed_out: bool = False
    started: bool = True
    duration: float = 0.0
    stopped: bool = False
    sandbox_killed: bool = False
    refused: tuple[str, ...] = ()
    budget: str = "disk"

    @property
    def ok(self) -> bool:
        """Whether the command ran to its end and succeeded."""
        return self.started and self.exit_code == 0 and not self.timed_out and not self.stopped

    @property
    def how(self) -> str:
        """How it ended, for logs and messages: `exit 3`, `signal 9`, `time limit`."""
        if self.timed_out:
            return "time limit"
        if self.stopped:
            return f"{self.budget} budget"
        return f"exit {self.exit_code}" if self.signal is None else f"signal {self.signal}"


class LastOutput:
    """Keeps the end of a command's output, however much there is of it."""

    def __init__(self, limit: int = 4096) -> None:
        """Keeps nothing yet; `limit` is in bytes."""
        self._limit = limit
        self._kept = bytearray()

    def __call__(self, data: bytes) -> None:
        """Takes output."""
        self._kept += data[-self._limit :]
        del self._kept[: -self._limit]

    @property
    def text(self) -> str:
        """The end of the output, without white space around it."""
        return self._kept.decode(errors="replace").strip()


class Inherited:
    """Descriptors that a sandbox inherits, besides its standard streams.

    Attributes:
        status: To which bubblewrap writes its status.
        all: All of them, each open until the command was started.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        self.all = [status]

    def file(self, data: bytes) -> int:
        """Returns a descriptor from which the sandbox reads some bytes."""
        descriptor = os.memfd_create("opam-ci")
        self.all.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def close(self) -> None:
        """Closes the worker's ends."""
        for descriptor in self.all:
            os.close(descriptor)


Command = Callable[[Inherited], Sequence[str]] | Sequence[str]
"""A command line; of a sandbox, a function from what it inherits to the command line."""


class _Status:
    """Reads bubblewrap's status descriptor: the sandbox's first process.

    Its pidfd is opened as soon as it is reported. When that becomes readable, the kernel has
    ended every process of the PID namespace.
    """

    def __init__(self) -> None:
        self._read_end, write_end = os.pipe()
        self.inherited = Inherited(write_end)
        os.set_blocking(self._read_end, False)
        self._buffer = b""
        self._pidfd: int | None = None
        self.started = False
        asyncio.get_running_loop().add_reader(self._read_end, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._read_end, _STATUS_LIMIT)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._read_end)
            return
        self._buffer = (self._buffer + data)[:_STATUS_LIMIT]
        if self._pidfd is None and b"\n" in self._buffer and not self.started:
            self.started = True
            with contextlib.suppress(ValueError, KeyError, ProcessLookupError):
                first = json.loads(self._buffer.split(b"\n", 1)[0])
                self._pidfd = os.pidfd_open(int(first["child-pid"]))

    def kill(self) -> None:
        """Kills the first process of the namespace, and with it all others."""
        if self._pidfd is not None:
            # No permission if the sandbox runs as another user; then it dies with its parent.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait_dead(self) -> None:
        """Waits until no process of the namespace is left.

        Raises:
            InfrastructureError: Cause `sandbox`: some are after `_DEATH_TIMEOUT`.
        """
        if self._pidfd is None:
            return
        dead = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, dead.set)
        try:
            async with asyncio.timeout(_DEATH_TIMEOUT):
                await dead.wait()
        except TimeoutError:
            raise InfrastructureError(
                f"processes of a build do not end within {_DEATH_TIMEOUT:g} s: look for stuck "
                "disks, or restart the machine",
                cause=Cause.SANDBOX,
            ) from None
        finally:
            asyncio.get_running_loop().remove_reader(self._pidfd)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        if self._pidfd is not None:
            os.close(self._pidfd)


async def run_process(  # noqa: PLR0913 - how a process runs, most of it named
    argv: Command,
    *,
    output: Callable[[bytes], None],
    time_limit: float | None = None,
    stdin: IO[bytes] | None = None,
    guard: Callable[[], Awaitable[None]] | None = None,
    stop: signal.Signals = signal.SIGKILL,
) -> ProcessResult:
    """Runs a command to its end, or to its time limit.

    Args:
        argv: The command.
        output: Receives standard output and standard error, in order, as they come.
        time_limit: Seconds after which everything is killed.
        stdin: A file to read from; nothing by default.
        guard: Runs beside the command; when it returns, everything is killed.
        stop: Signal that ends the command early, for one that kills its own processes then.

    Returns:
        How it ended. No process of the command is alive any more.

    Raises:
        asyncio.CancelledError: The caller was cancelled; no process of the command is
            alive any more.
        InfrastructureError: Cause `sandbox`: processes of the command do not end.
    """
    begin = time.monotonic()
    status = _Status() if callable(argv) else None
    try:
        try:
            command = argv(status.inherited) if callable(argv) and status is not None else argv
            assert not callable(command)  # noqa: S101 - for mypy: one of the two cases above
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if status is None else status.inherited.all,
                # The unprivileged user of a build root reads what root makes there.
                umask=0o022,
                env=programs.environment(),
            )
        finally:
            if status is not None:
                status.inherited.close()
        timed_out = stopped = False
        try:
            async with asyncio.timeout(time_limit):
                stopped = await _follow_guarded(process, output, guard)
        except TimeoutError:
            timed_out = True
        finally:
            await _bury(process, status, stop)
    finally:
        if status is not None:
            status.close()
    code = process.returncode
    assert code is not None  # noqa: S101 - for mypy: _bury() waited for it
    ended_by = -code if code < 0 else code - _SIGNAL_BASE if code > _SIGNAL_BASE else None
    return ProcessResult(
        exit_code=code if ended_by is None else None,
        signal=ended_by,
        timed_out=timed_out,
        started=status is None or status.started,
        duration=time.monotonic() - begin,
        stopped=stopped,
        sandbox_killed=code < 0 and status is not None and not (timed_out or stopped),
    )


async def _follow_guarded(
    process: asyncio.subprocess.Process,
    output: Callable[[bytes], None],
    guard: Callable[[], Awaitable[None]] | None,
) -> bool:
    """Follows a command until it ends or its guard returns; returns whether it was the guard."""
    if guard is None:
        await _follow(process, output)
        return False
    following = asyncio.ensure_future(_follow(process, output))
    guarding = asyncio.ensure_future(guard())
    try:
        await asyncio.wait({following, guarding}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
            return False
        guarding.result()
        return True
    finally:
        following.cancel()
        guarding.cancel()
        await asyncio.gather(following, guarding, return_exceptions=True)


async def _follow(process: asyncio.subprocess.Process, output: Callable[[bytes], None]) -> None:
    assert process.stdout is not None  # noqa: S101 - for mypy: PIPE above
    # Ends when the last process that holds the pipe is gone; does not wait for a process that
    # outlives the command without the pipe.
    while data := await process.stdout.read(_CHUNK):
        output(data)
    await process.wait()


async def _bury(
    process: asyncio.subprocess.Process, status: _Status | None, stop: signal.Signals
) -> None:
    """Ends the whole process tree, also when cancelled again."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            # With its children, which no sandbox may end; it leads a group of its own.
            os.killpg(process.pid, stop)
        if status is not None:
            status.kill()
    await uninterrupted(_wait_dead(process, status))


HOLD = ("sh", "-c", "echo ready; exec cat")
"""A program for `ready_process` that lives as long as its standard input, so no longer than this
worker, however that ends."""


@asynccontextmanager
async def ready_process(
    argv: Sequence[str],
    failed: Callable[[str], InfrastructureError],
    *,
    stdin: int | IO[bytes] = subprocess.PIPE,
) -> AsyncIterator[int]:
    """Runs a program of this machine beside a block, which begins when it has printed a line.

    Args:
        argv: The program.
        failed: Returns the error if it prints none, from what it says on standard error.
        stdin: As in `subprocess`.

    Yields:
        Its process id.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=programs.environment(),
    )
    assert process.stdout is not None  # noqa: S101 - for mypy: PIPE above
    assert process.stderr is not None  # noqa: S101 - the same
    try:
        errors = f"nothing within {_READY_TIMEOUT:g} s".encode()
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_TIMEOUT):
                if not (line := await process.stdout.readline()):
                    errors = await process.stderr.read()
        if not line:
            raise failed(errors.decode(errors="replace").strip()[-_STATUS_SHOWN:])
        yield process.pid
    finally:
        await uninterrupted(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def uninterrupted(cleanup: Coroutine[Any, Any, None]) -> None:
    """Runs a clean-up to its end, also when cancelled meanwhile, any number of times.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the clean-up is done.
    """
    running = asyncio.ensure_future(cleanup)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError as error:
            cancelled = error
    running.result()
    if cancelled is not None:
        raise cancelled


async def _wait_dead(process: asyncio.subprocess.Process, status: _Status | None) -> None:
    await process.wait()
    if status is not None:
        await status.wait_dead()
