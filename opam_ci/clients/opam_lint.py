"""Run the real `opam lint` on many opam files at once.

`opam lint` costs 20 ms to start and 0.3 ms a file, so files go to it in batches, on disk,
under names that are numbers: with a name that is no package opam takes nothing from the
path, which is how the peer calls the same code. Nothing here reads an opam root, a switch
or the network.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from opam_ci.core.errors import InfrastructureError
from opam_ci.core.job import Phase
from opam_ci.core.lint.subject import OpamMessage
from opam_ci.core.outcome import Cause

# Well under the kernel's limit on arguments, and enough that the start costs nothing.
_BATCH_SIZE: Final = 1000
# A download may take a minute, and all of a batch must fit into the timeout.
_DOWNLOADING_BATCH_SIZE: Final = 10
# opam's exit codes: 0 nothing found, 1 errors found (opam's `False`).
_EXIT_CODES: Final = frozenset({0, 1})
# 53 compares `extra-files:` with a directory `files/` beside the file, which is not there;
# the peer does not ask for it either.
_WARNINGS: Final = "--warnings=-53"
_STDERR_SHOWN: Final = 400


class OpamLint:
    """The `opam lint` of this machine.

    Args:
        program: Name or path of opam.
        timeout: How long one batch may take before it is taken for hung.
        check_upstream: Let opam download each archive and compare its checksums (code 60).

    Attributes:
        check_upstream: The same.
    """

    def __init__(
        self,
        program: str = "opam",
        *,
        timeout: timedelta = timedelta(minutes=10),
        check_upstream: bool = False,
    ) -> None:
        self._program = program
        self._timeout = timeout
        self.check_upstream = check_upstream

    async def lint(self, files: Sequence[bytes]) -> list[tuple[OpamMessage, ...]]:
        """What opam says of each file, in the order of `files`.

        Raises:
            InfrastructureError: opam is missing, hangs, crashes or leaves a file out.
        """
        messages: list[tuple[OpamMessage, ...]] = []
        size = _DOWNLOADING_BATCH_SIZE if self.check_upstream else _BATCH_SIZE
        for start in range(0, len(files), size):
            messages += await self._batch(files[start : start + size])
        return messages

    async def _batch(self, files: Sequence[bytes]) -> list[tuple[OpamMessage, ...]]:
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="opam-ci-lint-"))
        try:
            await asyncio.to_thread(_write, directory, files)
            await self._run(directory, len(files))
            return await asyncio.to_thread(_read, directory, len(files))
        finally:
            await asyncio.to_thread(shutil.rmtree, directory)

    async def _run(self, directory: Path, count: int) -> None:
        upstream = ["--check-upstream"] if self.check_upstream else []
        arguments = ["lint", "--json=../lint.json", _WARNINGS, *upstream]
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                *(str(index) for index in range(count)),
                cwd=directory / "files",
                env=_environment(directory),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise InfrastructureError(
                f"{self._program} was not found: install opam 2.1 or later (Debian: apt"
                " install opam)",
                cause=Cause.OPAM_INTERNAL,
                phase=Phase.SETUP,
            ) from None
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                _, stderr = await process.communicate()
        except TimeoutError:
            raise InfrastructureError(
                f"opam lint took longer than {self._timeout} for {count} files",
                cause=Cause.OPAM_INTERNAL,
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode not in _EXIT_CODES:
            said = stderr.decode(errors="replace").strip()[-_STDERR_SHOWN:]
            raise InfrastructureError(
                f"opam lint ended with exit code {process.returncode}: {said}",
                cause=Cause.OPAM_INTERNAL,
            )


def _environment(directory: Path) -> dict[str, str]:
    """Little of the caller's: opam's own variables would change its lint."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {
        **proxies,
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(directory),
        "OPAMROOT": str(directory / "root"),
        "OPAMROOTISOK": "1",
        "OPAMCOLOR": "never",
        "OPAMUTF8": "never",
        "OPAMYES": "1",
        "LC_ALL": "C.UTF-8",
    }


def _write(directory: Path, files: Sequence[bytes]) -> None:
    target = directory / "files"
    target.mkdir()
    for index, content in enumerate(files):
        (target / str(index)).write_bytes(content)


def _read(directory: Path, count: int) -> list[tuple[OpamMessage, ...]]:
    try:
        # opam passes on bytes that are no UTF-8 as they are.
        text = (directory / "lint.json").read_text(encoding="utf-8", errors="replace")
        results = json.loads(text)["lint"]
        found = {int(Path(result["file"]).name): _messages(result) for result in results}
    except (OSError, ValueError, KeyError, TypeError) as unusable:
        raise InfrastructureError(
            f"opam lint left no usable answer: {unusable}", cause=Cause.OPAM_INTERNAL
        ) from unusable
    missing = [index for index in range(count) if index not in found]
    if missing:
        raise InfrastructureError(
            f"opam lint gave no answer for {len(missing)} of {count} files",
            cause=Cause.OPAM_INTERNAL,
        )
    return [found[index] for index in range(count)]


def _messages(result: Mapping[str, Any]) -> tuple[OpamMessage, ...]:
    messages = [
        OpamMessage(code=int(entry["id"]), level=level, text=entry["message"])
        for level, key in (("error", "errors"), ("warning", "warnings"))
        for entry in result[key]
    ]
    return tuple(sorted(messages, key=lambda message: message.code))
