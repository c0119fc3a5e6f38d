"""Building the canary on this worker, and exporting its repository to the store."""

import hashlib
import io
from collections.abc import Mapping

from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.clients.runners.base import Runner
from opam_ci.clients.tar_gz import add, tar_gz
from opam_ci.core.classify import judge
from opam_ci.core.jobs.build import BuildSpec, PhaseTimeouts, RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.platforms.model import Platform
from opam_ci.core.workers import canary
from opam_ci.core.workers.health import Finding


async def export(store: ArtifactStore, platform: Platform) -> RepositoryRef:
    """Exports the canary's repository to the store, unless it is there.

    Raises:
        InfrastructureError: The store cannot be written.
    """
    base = await _put(store, canary.base_files(platform))
    return RepositoryRef(
        # Not a commit of any clone: a digest of the content, of the same length.
        base_commit=hashlib.sha256(base.encode()).hexdigest()[:40],
        base_archive=base,
        overlay_archive=await _put(store, canary.submission_files(platform)),
        overlay_packages=2,
        package_count=3,
    )


def spec(package: str, platform: Platform, repository: RepositoryRef) -> BuildSpec:
    """Returns the job that builds one of the canary's packages."""
    return BuildSpec(
        job=Job(platform=platform.name, package=package, kind=JobKind.BUILD),
        platform=platform,
        repository=repository,
        timeouts=PhaseTimeouts(),
    )


class _Discarded:
    """A log that is not stored: the report has what is needed."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)


async def build_good(runner: Runner, store: ArtifactStore, platform: Platform) -> Finding | None:
    """Builds the good package on this worker at once, without a task queue.

    Returns:
        A finding about this worker, None if the package was built and installed.
    """
    try:
        repository = await export(store, platform)
        report = await runner.run(
            spec(canary.GOOD, platform, repository), _Discarded(), lambda _: None
        )
    except InfrastructureError as error:
        return Finding(cause=error.cause, detail=f"canary build: {error}"[:300])
    outcome = judge(report.facts, report.logs, worker="", attempt=1)
    return canary.finding(canary.GOOD, outcome)


async def _put(store: ArtifactStore, files: Mapping[str, str]) -> str:
    packed = io.BytesIO()
    with tar_gz(packed) as archive:
        for path, text in sorted(files.items()):
            add(archive, path, text.encode())
    content = packed.getvalue()
    key = f"repositories/canary/{hashlib.sha256(content).hexdigest()}.tar.gz"
    try:
        stored = await store.get(key)
    except MissingKeyError:
        stored = b""
    if stored != content:
        # Or torn by a power cut: then every canary would fail.
        await store.put(key, content)
    return key
