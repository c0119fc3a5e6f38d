"""Listing reverse dependencies from one description of all packages, instead of three queries.

opam says once what it has; `core/coinstall` answers. Where that answer cannot be shown to be
opam's, opam is asked itself: see `listing`.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from opam_ci.clients.runners import coinstall_process, listing
from opam_ci.clients.runners.coinstall_process import ExitCode
from opam_ci.clients.runners.listing import Query, RunStep
from opam_ci.clients.runners.steps import Step
from opam_ci.clients.runners.supervise import Ended, supervise
from opam_ci.core.build import BuildSpec, Revdep
from opam_ci.core.coinstall.answer import Answers, Said
from opam_ci.core.coinstall.post import SEPARATOR
from opam_ci.core.job import Phase
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause

SAID = "home/opam/.opam-ci-universe"
_SAID_LIMIT = 100 << 20
"""Bytes of one of opam's answers; the real repository's biggest has 9 MB."""

_SCRIPT = f"""
set -e
mkdir -p "$1"
opam config pef-universe "$1/universe"
OPAMWITHTEST=1 opam config pef-universe "$1/universe_with_tests"
opam list --all --all-versions --field-match=depends:post --normalise \
    --columns=package,depends: --separator='{SEPARATOR}' > "$1/post"
opam switch invariant > "$1/invariant"
opam var > "$1/variables"
"""
DESCRIBE = Step(
    ("sh", "-c", _SCRIPT, "sh", f"/{SAID}"),
    shown="opam config pef-universe, without and with tests",
)
"""Writes what opam says to files; see `Said`."""


class Read(Protocol):
    """Reads files of the build root; see `Executor.read`."""

    async def __call__(self, *paths: str, limit: int) -> dict[str, bytes]:
        """Reads those that are there and not larger."""


@dataclass(frozen=True)
class Surroundings:
    """What a listing needs of its job.

    Attributes:
        run_step: Runs one command in the build root and keeps its output.
        read: Reads files of the build root.
        say: Writes a line to the job's log.
        output: Writes output to the job's log.
        time_left: Seconds until the limit of the phase.
    """

    run_step: RunStep
    read: Read
    say: Callable[[str], None]
    output: Callable[[bytes], None]
    time_left: Callable[[], float]


async def run(spec: BuildSpec, job: Surroundings) -> tuple[Ended, tuple[Revdep, ...] | None]:
    """Lists the reverse dependencies of a job's package.

    Returns:
        How the last command ended, and the answer if there is one.

    Raises:
        InfrastructureError: The computation did not end in time, has not enough memory, or
            failed.
    """
    ended = await job.run_step(DESCRIBE, bytearray())
    if ended.timed_out or ended.stopped:
        return ended, None
    if ended.ok:
        paths = {field.name: f"{SAID}/{field.name}" for field in fields(Said)}
        files = await job.read(*paths.values(), limit=_SAID_LIMIT)
        said = {name: files[path] for name, path in paths.items() if path in files}
        if len(said) == len(paths):
            answers = await decide(
                spec.job.package, said, output=job.output, time_limit=job.time_left()
            )
            if answers is not None:
                by_query = {
                    Query.DIRECT: frozenset(answers.direct),
                    Query.RECURSIVE: frozenset(answers.recursive),
                    Query.TESTING: frozenset(answers.testing),
                }
                return ended, listing.revdeps(spec, by_query)
    job.say("opam is asked itself")
    return await listing.run(spec, job.run_step)


async def decide(
    package: str,
    said: Mapping[str, bytes],
    *,
    output: Callable[[bytes], None],
    time_limit: float,
    start: Callable[..., Awaitable[Ended]] = supervise,
) -> Answers | None:
    """Computes the answers in a process of its own.

    Args:
        package: Whose reverse dependencies.
        said: What opam said, by field of `Said`.
        output: Receives the lines about progress.
        time_limit: Seconds.
        start: Starts the process.

    Returns:
        The answers; None if they cannot be shown to be opam's, or opam said what we do not
        understand.

    Raises:
        InfrastructureError: The process did not end in time, ran out of memory, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="opam-ci-") as name:
        directory = Path(name)
        await asyncio.to_thread(_write, directory, said)
        ended = await start(
            [sys.executable, "-P", "-m", coinstall_process.__name__, package, name],
            output=output,
            time_limit=time_limit,
        )
        if ended.timed_out:
            raise InfrastructureError(
                f"what can be installed with {package} was not computed within {time_limit:.0f} s",
                cause=Cause.SOLVER_TIMEOUT,
                phase=Phase.SOLVE,
            )
        if ended.exit_code in {ExitCode.UNPROVEN, ExitCode.NONSENSE}:
            return None
        if not ended.ok:
            out_of_memory = ended.exit_code == ExitCode.OUT_OF_MEMORY
            raise InfrastructureError(
                f"what can be installed with {package} could not be computed: "
                f"exit code {ended.exit_code}, signal {ended.signal}",
                cause=Cause.OUT_OF_MEMORY if out_of_memory else Cause.OPAM_INTERNAL,
                phase=Phase.SOLVE,
            )
        text = await asyncio.to_thread((directory / coinstall_process.ANSWER).read_text, "utf-8")
        return Answers.model_validate_json(text)


def _write(directory: Path, said: Mapping[str, bytes]) -> None:
    for name, data in said.items():
        (directory / name).write_bytes(data)
