"""A job from its checkout to its report, the same for every runner."""

import tempfile
from pathlib import Path

from opam_ci.clients.runners.executor import Executor
from opam_ci.clients.runners.jobrun import JobRun
from opam_ci.clients.runners.layer import ArtifactSource
from opam_ci.clients.runners.phasebook import Begun, PhaseBook
from opam_ci.core.build import BuildReport, BuildSpec
from opam_ci.core.facts import BuildFacts
from opam_ci.core.job import Phase
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause


async def perform(  # noqa: PLR0913, PLR0917 - what a job consists of
    spec: BuildSpec,
    executor: Executor,
    job: JobRun,
    book: PhaseBook,
    begun: Begun,
    artifacts: ArtifactSource,
) -> BuildReport:
    """Runs the phases of a job and collects the facts.

    Args:
        spec: What to run.
        executor: Its build root.
        job: The job in it, over its base layer.
        book: Its log and phases.
        begun: The checkout, under way.
        artifacts: Where the submission comes from.

    Raises:
        InfrastructureError: There is nothing to judge.
    """
    await _check_out(spec, job, book, begun, artifacts)
    finished = await job.run()
    transcript = book.transcript
    if finished:
        transcript.finish()
    facts = BuildFacts(
        job=spec.job,
        phases=tuple(book.runs),
        installed=job.installed,
        finished=finished,
        host=await executor.host(),
        probes=job.probes,
        accepts_failure=await job.accepts_failure(),
        hidden=job.hidden,
    )
    return BuildReport(facts=facts, logs=transcript.texts, revdeps=job.revdeps)


async def _check_out(
    spec: BuildSpec, job: JobRun, book: PhaseBook, begun: Begun, artifacts: ArtifactSource
) -> None:
    key = spec.repository.overlay_archive
    with tempfile.TemporaryDirectory(prefix="opam-ci-") as directory:
        archive = Path(directory) / "submission.tar.gz"
        await artifacts.fetch(key, archive)
        with archive.open("rb") as stream:
            ended = await job.unpack_submission(stream)
    if not book.end(begun, ended):
        raise InfrastructureError(
            f"the submission's archive {key} cannot be unpacked",
            cause=Cause.STORAGE,
            phase=Phase.CHECKOUT,
        )
