"""Lint's findings in the store: verdicts have a few lines of them, annotations need all."""

import asyncio
from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RevisionKey, log_key, revision_folder
from opam_ci.core.lint.finding import LintFinding

_FINDINGS: TypeAdapter[tuple[LintFinding, ...]] = TypeAdapter(tuple[LintFinding, ...])


def findings_folder(revision: RevisionKey) -> str:
    """Returns the folder of a testing's findings; the layout is that of the logs."""
    return f"findings/{revision_folder(revision)}"


def _key(revision: RevisionKey, package: str) -> str:
    job = Job(platform="", package=package, kind=JobKind.LINT)
    name = log_key(revision, job, run="any", round_=1, attempt=1).split("/")[-2]
    return f"{findings_folder(revision)}/{name}"


async def store_findings(
    store: ArtifactStore,
    revision: RevisionKey,
    packages: Sequence[str],
    findings: Iterable[LintFinding],
) -> None:
    """Stores lint's findings about packages, in place of earlier ones.

    Raises:
        InfrastructureError: The store cannot be written.
    """
    by_package: dict[str, list[LintFinding]] = {package: [] for package in packages}
    for finding in findings:
        by_package.setdefault(finding.package, []).append(finding)
    await asyncio.gather(
        *(
            store.put(_key(revision, package), _FINDINGS.dump_json(tuple(found)))
            for package, found in by_package.items()
        )
    )


async def load_findings(store: ArtifactStore, revision: RevisionKey) -> tuple[LintFinding, ...]:
    """Returns all findings about a head, in the order of its packages' names.

    Raises:
        InfrastructureError: The store cannot be read.
    """
    objects = await store.list(findings_folder(revision))
    contents = await asyncio.gather(*(store.get(each.key) for each in objects))
    return tuple(finding for content in contents for finding in _read(content))


def _read(content: bytes) -> tuple[LintFinding, ...]:
    try:
        return _FINDINGS.validate_json(content)
    except ValidationError:
        # Torn by a power cut: the verdict has the first lines, and statuses must be posted.
        return ()
