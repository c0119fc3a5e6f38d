"""Running git: one-off commands, and long-lived processes that answer many questions.

Everything git writes goes to a scratch object directory that has the clone's own objects
as an alternate, so the clone may be read-only and is never written. No name reaches a
shell; names that users give are checked before they come here (`git_names.py`).
"""

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

# What a user's or a host's configuration may not change about our answers, as the peer's
# `git diff` and `git merge` have it by default.
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


def environment(objects: Path, scratch: Path) -> dict[str, str]:
    """The environment in which git reads `objects` and writes `scratch`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LC_"))
    }
    settings = {
        variable: value
        for number, (key, setting) in enumerate(_SETTINGS.items())
        for variable, value in (
            (f"GIT_CONFIG_KEY_{number}", key),
            (f"GIT_CONFIG_VALUE_{number}", setting),
        )
    }
    return {
        **kept,
        **settings,
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        "GIT_OBJECT_DIRECTORY": str(scratch),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects),
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ATTR_NOSYSTEM": "1",
        "LC_ALL": "C",
    }


class Git:
    """One-off git commands on one repository."""

    def __init__(self, directory: Path, *, scratch: Path) -> None:
        """See `Repository.open`, which finds `directory` and owns `scratch`."""
        self.directory = directory
        self._cwd = scratch
        self.environment = environment(directory / "objects", scratch)

    def command(self, *arguments: str) -> list[str]:
        """The words of a git command on this repository."""
        return ["git", f"--git-dir={self.directory}", *arguments]

    def run(
        self, *arguments: str, accept: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end.

        Raises:
            InfrastructureError: Git is missing, takes too long, or exits with a code that
                is not in `accept`.
        """
        try:
            done = subprocess.run(  # noqa: S603 -- a list of words, never a shell
                self.command(*arguments),
                cwd=self._cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise git_fault(f"git {arguments[0]} took over {COMMAND_TIMEOUT:.0f} s") from error
        except OSError as error:
            raise git_fault(f"git cannot be started: {error}") from error
        if done.returncode not in accept:
            raise git_fault(
                f"git {arguments[0]} exited with code {done.returncode}: {_last_line(done.stderr)}"
            )
        return done

    def stream(self, *arguments: str) -> "LineProcess":
        """Start a long-lived command that answers on its standard output."""
        return LineProcess(self.command(*arguments), cwd=self._cwd, env=self.environment)


def git_fault(message: str) -> InfrastructureError:
    """A failure of git itself."""
    return InfrastructureError(message, cause=Cause.GIT)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(no message)"


class LineProcess:
    """A long-lived git process that is asked in lines; threads take turns.

    It starts at the first question, and again after it was lost.
    """

    def __init__(self, command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
        """Nothing runs before the first question."""
        self.lock = threading.Lock()
        self._command = command
        self._cwd = cwd
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def ask(self, question: bytes) -> IO[bytes]:
        """Send lines, and return the stream of the answer. The caller holds `lock`.

        Raises:
            InfrastructureError: The process cannot be started or is gone.
        """
        process = self._process or self._start()
        if process.stdin is None or process.stdout is None:
            raise git_fault("git was started without pipes")
        try:
            process.stdin.write(question)
            process.stdin.flush()
        except OSError as error:
            raise self.lost() from error
        return process.stdout

    def lost(self) -> InfrastructureError:
        """Forget the process, which answered with an end of file, and say why it ended."""
        said = b""
        if self._errors is not None:
            self._errors.seek(0)
            said = self._errors.read()
        self.close()
        return git_fault(f"{' '.join(self._command[2:4])} ended: {_last_line(said)}")

    def close(self) -> None:
        """End the process, if one runs. May be called twice."""
        process, self._process = self._process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        # The process is gone with questions unread, and we want it gone.
                        continue
            process.kill()
            process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        try:
            self._process = subprocess.Popen(  # noqa: S603 -- a list of words, never a shell
                self._command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            raise git_fault(f"git cannot be started: {error}") from error
        return self._process


class ObjectReader:
    """Objects by name, through one `git cat-file --batch-command`."""

    def __init__(self, git: Git) -> None:
        """The process starts at the first question."""
        self._process = git.stream("cat-file", "--batch-command")

    def info(self, name: str) -> tuple[str, str] | None:
        """The id and type of an object, None when there is none of that name."""
        with self._process.lock:
            answer = self._process.ask(b"info " + _one_line(name) + b"\n")
            return self._header(answer, name)[:2] or None  # type: ignore[return-value]  # two or none

    def read(self, name: str) -> bytes | None:
        """The content of an object, None when there is none of that name."""
        return next(self.read_many([name]))

    def read_many(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """The content of each object, in order, None for one that does not exist."""
        for batch in _fitting(names):
            with self._process.lock:
                question = b"".join(b"contents " + _one_line(name) + b"\n" for name in batch)
                answer = self._process.ask(question)
                contents = [self._content(answer, name) for name in batch]
            yield from contents

    def sizes(self, names: Sequence[str]) -> Iterator[int | None]:
        """The bytes of each object, in order, None for one that does not exist."""
        for batch in _fitting(names):
            with self._process.lock:
                question = b"".join(b"info " + _one_line(name) + b"\n" for name in batch)
                answer = self._process.ask(question)
                headers = [self._header(answer, name) for name in batch]
            yield from (int(header[2]) if header else None for header in headers)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _content(self, answer: IO[bytes], name: str) -> bytes | None:
        header = self._header(answer, name)
        if not header:
            return None
        size = int(header[2])
        content = answer.read(size + 1)
        if len(content) != size + 1:
            raise self._process.lost()
        return content[:-1]

    def _header(self, answer: IO[bytes], name: str) -> tuple[str, ...]:
        line = answer.readline()
        if not line.endswith(b"\n"):
            raise self._process.lost()
        words = line.decode("utf-8", "surrogateescape").rstrip("\n")
        if words.endswith((" missing", " ambiguous")) and words.startswith(name):
            return ()
        found = tuple(words.rsplit(" ", 2))
        if len(found) != 3 or not found[2].isdigit():  # noqa: PLR2004 -- id, type, size
            raise git_fault(f"git cat-file says: {words}")
        return found


# A pipe holds 64 KiB; fewer bytes of questions than that, and neither side waits for the
# other while answers are still to be read. Answers of so few objects fit into memory.
_MAX_QUESTION: Final = 32_768
_MAX_IN_FLIGHT: Final = 128


def _fitting(names: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        if batch and (size + len(name) > _MAX_QUESTION // 4 or len(batch) == _MAX_IN_FLIGHT):
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += len(name)
    if batch:
        yield batch


def _one_line(name: str) -> bytes:
    if "\n" in name or "\0" in name:
        raise git_fault("a name with a line end cannot be asked for")
    return name.encode("utf-8", "surrogateescape")
