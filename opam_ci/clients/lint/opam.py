"""Run the real `opam lint` on many opam files at once.

`opam lint` takes 20 ms to start and 0.3 ms a file, so files go to it in batches, on disk,
under names that are numbers: from a name that is not a package opam takes nothing, which is
how opam-repo-ci calls the same code. Nothing here reads an opam root, a switch or, without
`check_upstream`, the network.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from opam_ci.clients.lint.program import FILES, LintProgram, new_scratch
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.process import LastOutput, ProcessResult, run_process
from opam_ci.clients.threads import LINT
from opam_ci.core.batched import batched
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.lint.opam_codes import OPAM_VERSION
from opam_ci.core.lint.subject import OpamMessage

# Well under the kernel's limit on arguments, and enough that the start costs nothing.
_BATCH_SIZE: Final = 1000
# Bytes of a batch; that many real files have 1.4 MB.
_BATCH_BYTES: Final = 2 << 20
# A download may take a minute, and all of a batch must fit into the timeout.
_DOWNLOADING_BATCH_SIZE: Final = 10
# opam's exit codes: 0 nothing found, 1 errors found (opam's `False`).
_EXIT_CODES: Final = frozenset({0, 1})
# 53 compares `extra-files:` with a directory `files/` beside the file, which does not exist
# here; opam-repo-ci leaves it out, too.
_WARNINGS: Final = "--warnings=-53"
_RESULT: Final = "lint.json"
# Sixteen times a batch, of which messages may quote all, and JSON escapes bytes by six.
_RESULT_LIMIT: Final = 32 << 20
_OUTPUT_KEPT: Final = 400


class OpamLint:
    """`opam lint`, of the one version that authors are judged by.

    Args:
        program: The opam.
        timeout: How long one batch may take before it counts as hung.
        check_upstream: Let opam download each archive and compare its checksums (code 60).

    Attributes:
        program: The same.
        check_upstream: The same.
    """

    def __init__(
        self,
        program: LintProgram,
        *,
        timeout: timedelta = timedelta(minutes=10),
        check_upstream: bool = False,
    ) -> None:
        self.program = program
        self._timeout = timeout
        self.check_upstream = check_upstream

    async def lint(self, files: Sequence[bytes]) -> list[tuple[OpamMessage, ...]]:
        """The messages of opam about each file, in the order of `files`.

        Raises:
            InfrastructureError: opam cannot run, is of another version, hangs, crashes or
                leaves a file out.
        """
        messages: list[tuple[OpamMessage, ...]] = []
        size = _DOWNLOADING_BATCH_SIZE if self.check_upstream else _BATCH_SIZE
        for batch in batched(files, size, weight=len, most=_BATCH_BYTES):
            messages += await self._batch(batch)
        return messages

    async def _batch(self, files: Sequence[bytes]) -> list[tuple[OpamMessage, ...]]:
        scratch = await LINT.run(new_scratch)
        try:
            await LINT.run(_write, scratch, files)
            output = await self._run(scratch, len(files))
            return await LINT.run(_read, scratch, len(files), output)
        finally:
            await LINT.run(shutil.rmtree, scratch)

    async def _run(self, scratch: Path, count: int) -> str:
        """Runs opam on files; returns the end of what it wrote."""
        upstream = ["--check-upstream"] if self.check_upstream else []
        files = (str(index) for index in range(count))
        command = await self.program.command(
            scratch,
            ["lint", f"--json=../{_RESULT}", _WARNINGS, *upstream, *files],
            network=self.check_upstream,
        )
        output = LastOutput(_OUTPUT_KEPT)
        ended = await run_process(command, output=output, time_limit=self._timeout.total_seconds())
        end = output.text
        if not ended.started:
            raise InfrastructureError(
                f"the sandbox of lint did not start: {end}", cause=Cause.SANDBOX
            )
        if ended.timed_out:
            raise InfrastructureError(
                f"opam lint took longer than {self._timeout} for {count} files",
                cause=Cause.OPAM_INTERNAL,
            )
        if ended.exit_code not in _EXIT_CODES:
            raise InfrastructureError(
                f"opam lint ended with {_how(ended)}: {end}", cause=Cause.OPAM_INTERNAL
            )
        return end


def _how(ended: ProcessResult) -> str:
    return f"exit code {ended.exit_code}" if ended.signal is None else f"signal {ended.signal}"


def _write(scratch: Path, files: Sequence[bytes]) -> None:
    for index, content in enumerate(files):
        (scratch / FILES / str(index)).write_bytes(content)


def _read(scratch: Path, count: int, output: str) -> list[tuple[OpamMessage, ...]]:
    # Its content depends on an author's files: it is not trusted.
    data = beneath.read(scratch, _RESULT, limit=_RESULT_LIMIT)
    try:
        # opam copies bytes that are not UTF-8.
        result = json.loads((data or b"").decode(errors="replace"))
        _require_version(result["opam-version"])
        found = {int(Path(each["file"]).name): _messages(each) for each in result["lint"]}
    except (ValueError, KeyError, TypeError) as unusable:
        raise InfrastructureError(
            f"opam lint wrote no usable result ({unusable}): {output}", cause=Cause.OPAM_INTERNAL
        ) from unusable
    missing = [index for index in range(count) if index not in found]
    if missing:
        raise InfrastructureError(
            f"opam lint wrote no result for {len(missing)} of {count} files",
            cause=Cause.OPAM_INTERNAL,
        )
    return [found[index] for index in range(count)]


def _require_version(version: object) -> None:
    if version != OPAM_VERSION:
        raise InfrastructureError(
            f"this worker lints with opam {str(version)[:80]}, and authors are judged by the lint"
            f" of opam {OPAM_VERSION}",
            cause=Cause.IMAGE,
        )


def _messages(result: Mapping[str, Any]) -> tuple[OpamMessage, ...]:
    messages = [
        OpamMessage(code=int(entry["id"]), level=level, text=entry["message"])
        for level, key in (("error", "errors"), ("warning", "warnings"))
        for entry in result[key]
    ]
    return tuple(sorted(messages, key=lambda message: message.code))
