"""Running git: one-off commands, and long-lived processes for many queries.

Everything git writes goes to a scratch object directory that has the clone's own objects
as an alternate, so the clone may be read-only and is never written. No name reaches a
shell; names that users give are checked before they come here (`names.py`).
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import IO, Final, TypeVar

from opam_ci.clients.threads import run_command
from opam_ci.core.batched import batched
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.printable import printable

# What a user's or a host's configuration may not change about our results: the defaults of
# `git diff` and `git merge`, which opam-repo-ci runs.
_SETTINGS: Final = {
    "core.fsync": "none",  # scratch objects need no durability
    "core.quotePath": "true",
    "diff.renames": "true",
    "diff.renameLimit": "1000",
    "merge.renames": "true",
    "merge.renameLimit": "7000",
    "merge.directoryRenames": "conflict",
    "merge.renormalize": "false",
    "gc.auto": "0",
    "advice.defaultBranchName": "false",
}
#: Seconds that a single git command may take. The largest real merge takes 0.1 s; a clone on
#: a slow disk with cold caches was seen to take 20 s.
COMMAND_TIMEOUT: Final = 120.0

T = TypeVar("T")


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The process's own environment without what configures git, and with these settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LC_"))
    }
    configured = {
        variable: value
        for number, (key, setting) in enumerate(settings.items())
        for variable, value in (
            (f"GIT_CONFIG_KEY_{number}", key),
            (f"GIT_CONFIG_VALUE_{number}", setting),
        )
    }
    return {
        **kept,
        **configured,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


Start = Callable[[IO[bytes]], subprocess.Popen[bytes]]
"""Starts a command with pipes, and with a file for its standard error."""


def run_git(  # noqa: PLR0913 - what subprocess.run takes, and the causes
    git_dir: Path,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    accept: Container[int] | None = (0,),
    timeout_cause: Cause = Cause.GIT,
    cause_of: Callable[[str], Cause] = lambda _message: Cause.GIT,
    prefix: Sequence[str] = (),
    text: str = "",
) -> subprocess.CompletedProcess[bytes]:
    """Run a command on a repository to its end.

    Args:
        git_dir: The repository.
        arguments: The command.
        cwd: A directory that exists.
        env: Its whole environment.
        timeout: Seconds.
        accept: Exit codes that are results, None for all.
        timeout_cause: Cause of the fault if it takes longer.
        cause_of: The cause by the last line of git's error output.
        prefix: The command that starts git.
        text: Its standard input.

    Raises:
        InfrastructureError: Git is missing, takes too long, or exits with a code that is not
            in `accept`.
    """
    try:
        done = run_command(
            [*prefix, "git", f"--git-dir={git_dir}", *arguments],
            cwd=cwd,
            env=env,
            timeout=timeout,
            text=text,
        )
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(
            f"git {arguments[0]} took over {timeout:.0f} s", cause=timeout_cause
        ) from error
    except OSError as error:
        raise git_fault(f"git cannot be started: {error}") from error
    if accept is not None and done.returncode not in accept:
        message = last_line(done.stderr)
        raise InfrastructureError(
            f"git {arguments[0]} exited with code {done.returncode}: {message}",
            cause=cause_of(message),
        )
    return done


class Git:
    """Commands on one repository whose new objects go to a scratch directory."""

    def __init__(self, directory: Path, *, scratch: Path) -> None:
        """See `Repository.open`, which finds `directory` and owns `scratch`."""
        self.directory = directory
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] | None = set()
        self._cwd = scratch
        self._env = {
            **clean_environment(_SETTINGS),
            "GIT_OBJECT_DIRECTORY": str(scratch),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(directory / "objects"),
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ATTR_NOSYSTEM": "1",
        }

    def run(
        self, *arguments: str, accept: Container[int] = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; see `run_git`.

        Raises:
            InfrastructureError: Git is missing, takes too long, or exits with a code that
                is not in `accept`.
        """
        if self._running is None:
            raise git_fault("the repository was closed")
        return run_git(
            self.directory,
            *arguments,
            cwd=self._cwd,
            env=self._env,
            timeout=COMMAND_TIMEOUT,
            accept=accept,
        )

    def stream(self, *arguments: str) -> "LineProcess":
        """Prepare a long-lived command that answers on its standard output."""
        command = ["git", f"--git-dir={self.directory}", *arguments]
        return LineProcess(" ".join(arguments[:2]), partial(self._start, command))

    def stop(self) -> None:
        """Kill what answers long-lived, in whatever thread, and let nothing start any more.

        A command that runs to its end is killed with the caller of its thread.
        """
        with self._lock:
            running, self._running = self._running, None
        for process in running or ():
            process.kill()

    def _start(self, command: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._running is None:
                raise git_fault("the repository was closed")
            self._running = {process for process in self._running if process.poll() is None}
            try:
                process = subprocess.Popen(  # noqa: S603 -- a list of arguments, never a shell
                    command,
                    cwd=self._cwd,
                    env=self._env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            except OSError as error:
                raise git_fault(f"git cannot be started: {error}") from error
            self._running.add(process)
        return process


def git_fault(message: str) -> InfrastructureError:
    """A failure of git itself."""
    return InfrastructureError(message, cause=Cause.GIT)


def last_line(text: bytes) -> str:
    """The last line of git's error output, at most 300 characters that can be printed."""
    lines = text.decode(errors="replace").strip().splitlines()
    return printable(lines[-1] if lines else "(no message)")[:300]


def split_nul(output: bytes) -> list[str]:
    """The parts of output of `-z`, none of which is empty."""
    return [part for part in output.decode("utf-8", "surrogateescape").split("\0") if part]


class LineProcess:
    """A long-lived git process that gets queries in lines; threads take turns.

    It starts at the first query, and again after it was lost.
    """

    def __init__(self, name: str, start: Start) -> None:
        """Nothing runs before the first query; `name` is the command's, for messages."""
        self.lock = threading.Lock()
        self._name = name
        self._starter = start
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def query(self, lines: bytes) -> IO[bytes]:
        """Send lines, and return the stream of results. The caller holds `lock`.

        Raises:
            InfrastructureError: The process cannot be started or has ended.
        """
        process = self._process or self._start()
        if process.stdin is None or process.stdout is None:
            raise git_fault("git was started without pipes")
        try:
            process.stdin.write(lines)
            process.stdin.flush()
        except OSError as error:
            raise self.lost() from error
        return process.stdout

    def lost(self) -> InfrastructureError:
        """Forget the process, whose output has ended, and return why it ended."""
        message = b""
        if self._errors is not None:
            self._errors.seek(0)
            message = self._errors.read()
        self.close()
        return git_fault(f"{self._name} ended: {last_line(message)}")

    def close(self) -> None:
        """End the process, if one runs. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            # First, so that a thread that waits for its output ends, and the pipe can be closed.
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # The process may have ended already, without reading its queries.
                    with suppress(BrokenPipeError):
                        pipe.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        self._process = self._starter(self._errors)
        return self._process


class ObjectReader:
    """Objects by name, through one `git cat-file --batch-command`."""

    def __init__(self, git: Git) -> None:
        """The process starts at the first query."""
        self._process = git.stream("cat-file", "--batch-command")

    def info(self, name: str) -> tuple[str, str] | None:
        """The id and type of an object, None if there is no such object."""
        header = next(self._results("info", [name], self._header))
        return header and header[:2]

    def read(self, name: str) -> bytes | None:
        """The content of an object, None if there is no such object."""
        return next(self.read_many([name]))

    def read_many(
        self, names: Sequence[str], sizes: Sequence[int] | None = None
    ) -> Iterator[bytes | None]:
        """The content of each object, in order, None for one that does not exist.

        No more than `_MAX_BYTES`, or one object, are in memory at a time.

        Args:
            names: The objects.
            sizes: Their sizes in bytes; by default git is asked for them.
        """
        if sizes is None:
            # Of one object nothing is to be decided.
            sizes = [size or 0 for size in self.sizes(names)] if len(names) > 1 else [0]
        for part in batched(
            zip(names, sizes, strict=True), _MAX_IN_FLIGHT, weight=itemgetter(1), most=_MAX_BYTES
        ):
            yield from self._results("contents", [name for name, _ in part], self._content)

    def sizes(self, names: Sequence[str]) -> Iterator[int | None]:
        """The bytes of each object, in order, None for one that does not exist."""
        for header in self._results("info", names, self._header):
            yield header and header[2]

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _results(
        self, command: str, names: Sequence[str], read: Callable[[IO[bytes], str], T]
    ) -> Iterator[T]:
        """Read the result of a command for each name, some at a time."""
        for batch in batched(names, _MAX_IN_FLIGHT, weight=len, most=_MAX_QUERY // 4):
            with self._process.lock:
                lines = (f"{command} ".encode() + _one_line(name) + b"\n" for name in batch)
                output = self._process.query(b"".join(lines))
                results = [read(output, name) for name in batch]
            yield from results

    def _content(self, output: IO[bytes], name: str) -> bytes | None:
        header = self._header(output, name)
        if header is None:
            return None
        size = header[2]
        content = output.read(size + 1)
        if len(content) != size + 1:
            raise self._process.lost()
        return content[:-1]

    def _header(self, output: IO[bytes], name: str) -> tuple[str, str, int] | None:
        line = output.readline()
        if not line.endswith(b"\n"):
            raise self._process.lost()
        object_id, _, described = line.partition(b" ")
        kind, _, size = described[:-1].partition(b" ")
        if size.isdigit():
            return object_id.decode(), kind.decode(), int(size)
        text = line.decode("utf-8", "surrogateescape").rstrip("\n")
        if text.endswith((" missing", " ambiguous")) and text.startswith(name):
            return None
        raise git_fault(f"unexpected output of git cat-file: {text}")


# A pipe holds 64 KiB; fewer bytes of queries than that, and neither side waits for the other
# while results are still to be read.
_MAX_QUERY: Final = 32_768
_MAX_IN_FLIGHT: Final = 256
#: Bytes of objects that are read at once; the opam files of 200 real packages have 300 KB.
_MAX_BYTES: Final = 4 << 20


def _one_line(name: str) -> bytes:
    if "\n" in name or "\0" in name:
        raise git_fault("an object's name holds a line end")
    return name.encode("utf-8", "surrogateescape")
