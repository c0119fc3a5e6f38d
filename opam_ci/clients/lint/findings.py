"""Lint's findings in the store: verdicts have a few lines of them, annotations need all."""

import asyncio
from collections.abc import Iterable, Sequence

from pydantic import TypeAdapter

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RevisionKey, log_key
from opam_ci.core.lint.finding import LintFinding

_FINDINGS: TypeAdapter[tuple[LintFinding, ...]] = TypeAdapter(tuple[LintFinding, ...])


def _keys(revision: RevisionKey, package: str) -> tuple[str, str]:
    """Returns the folder of a testing's findings, and the key of a package's.

    The layout is that of the logs, below a root of its own.
    """
    job = Job(platform="", package=package, kind=JobKind.LINT)
    parts = log_key(revision, job, run="any", round_=1, attempt=1).split("/")[1:-1]
    return "/".join(["findings", *parts[:-1]]), "/".join(["findings", *parts])


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
            store.put(_keys(revision, package)[1], _FINDINGS.dump_json(tuple(found)))
            for package, found in by_package.items()
        )
    )


async def load_findings(store: ArtifactStore, revision: RevisionKey) -> tuple[LintFinding, ...]:
    """Returns all findings about a head, in the order of its packages' names.

    Raises:
        InfrastructureError: The store cannot be read.
    """
    folder, _ = _keys(revision, "")
    objects = await store.list(folder)
    contents = await asyncio.gather(*(store.get(each.key) for each in objects))
    return tuple(finding for content in contents for finding in _FINDINGS.validate_json(content))
