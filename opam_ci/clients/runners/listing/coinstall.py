"""Listing reverse dependencies from one description of all packages, instead of three queries.

opam describes its packages once; `core/coinstall` computes the result. Where that cannot be
proved to be opam's, the three queries of `listing` run.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from pathlib import Path

from opam_ci.clients.runners.listing import coinstall_process
from opam_ci.clients.runners.listing import revdeps as listing
from opam_ci.clients.runners.listing.coinstall_process import ExitCode
from opam_ci.clients.runners.listing.revdeps import Query
from opam_ci.clients.runners.phases.executor import READ_LIMIT, Output, Read, RunStep
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.core.coinstall.answer import Answers, Dumps
from opam_ci.core.coinstall.post import SEPARATOR
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause

DESCRIPTION = "home/opam/.opam-ci-universe"

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
    ("sh", "-c", _SCRIPT, "sh", f"/{DESCRIPTION}"),
    shown="opam config pef-universe, without and with tests",
)
"""Writes opam's description of its packages to files, one a field of `Dumps`."""


async def run(
    spec: BuildSpec, run_step: RunStep, read: Read, phase_log: PhaseLog
) -> tuple[ProcessResult, tuple[str, ...] | None]:
    """Lists the reverse dependencies of a job's package.

    Args:
        spec: The job.
        run_step: Runs a command in the build root.
        read: Reads files of the build root.
        phase_log: The job's log and the time limit of its phase.

    Returns:
        How the last command ended, and the packages found if there is a result.

    Raises:
        InfrastructureError: The computation did not end in time, ran out of memory, or failed.
    """
    ended = await run_step(DESCRIBE, bytearray())
    if ended.timed_out or ended.stopped:
        return ended, None
    if ended.ok:
        paths = {field.name: f"{DESCRIPTION}/{field.name}" for field in fields(Dumps)}
        # The real repository's largest file of these has 9 MB.
        files = await read(*paths.values(), limit=READ_LIMIT)
        described = {name: files[path] for name, path in paths.items() if path in files}
        if len(described) == len(paths):
            answers = await decide(
                spec.job.package,
                described,
                output=phase_log.transcript.output,
                time_limit=phase_log.time_left,
            )
            if answers is not None:
                by_query = {
                    Query.DIRECT: frozenset(answers.direct),
                    Query.RECURSIVE: frozenset(answers.recursive),
                    Query.TESTING: frozenset(answers.testing),
                }
                return ended, listing.merged(spec, by_query, answers.dependents)
    phase_log.transcript.note("falling back to `opam list`")
    return await listing.run(spec, run_step)


async def decide(
    package: str,
    described: Mapping[str, bytes],
    *,
    output: Output,
    time_limit: float,
    start: Callable[..., Awaitable[ProcessResult]] = run_process,
) -> Answers | None:
    """Computes the results of the queries in a process of its own.

    Args:
        package: The package whose reverse dependencies are listed.
        described: opam's description, by field of `Dumps`.
        output: Receives the lines about progress.
        time_limit: Seconds.
        start: Starts the process.

    Returns:
        The results; None if they cannot be proved to be opam's, or the description is invalid.

    Raises:
        InfrastructureError: The process did not end in time, ran out of memory, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="opam-ci-") as name:
        directory = Path(name)
        await asyncio.to_thread(_write, directory, described)
        ended = await start(
            [sys.executable, "-P", "-m", coinstall_process.__name__, package, name],
            output=output,
            time_limit=time_limit,
        )
        if ended.timed_out:
            raise InfrastructureError(
                f"packages installable with {package} were not computed within {time_limit:.0f} s",
                cause=Cause.SOLVER_TIMEOUT,
                phase=Phase.SOLVE,
            )
        if ended.exit_code in {ExitCode.UNPROVEN, ExitCode.INVALID}:
            return None
        if not ended.ok:
            out_of_memory = ended.exit_code == ExitCode.OUT_OF_MEMORY
            raise InfrastructureError(
                f"packages installable with {package} could not be computed ({ended.how})",
                cause=Cause.OUT_OF_MEMORY if out_of_memory else Cause.OPAM_INTERNAL,
                phase=Phase.SOLVE,
            )
        text = await asyncio.to_thread((directory / coinstall_process.ANSWER).read_text, "utf-8")
        return Answers.model_validate_json(text)


def _write(directory: Path, described: Mapping[str, bytes]) -> None:
    for name, data in described.items():
        (directory / name).write_bytes(data)
