"""The activities of a canary besides its builds: exporting its repository, reporting its end."""

from collections.abc import Callable

from pydantic import AwareDatetime
from temporalio import activity

from opam_ci.clients import canary
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import Platform
from opam_ci.core.workers.health import Finding


class CanaryResult(Frozen):
    """The result of a pool's canary.

    Attributes:
        pool: The pool.
        finding: What is wrong with the pool, None if both verdicts were right.
        started_at: When it began.
        ended_at: When it ended.
    """

    pool: str
    finding: Finding | None
    started_at: AwareDatetime
    ended_at: AwareDatetime


class CanaryActivities:
    """Activities of the orchestration worker for canaries.

    Args:
        store: For the repository.
        on_result: Called with each result; must neither block nor raise.
    """

    def __init__(self, store: ArtifactStore, on_result: Callable[[CanaryResult], None]) -> None:
        self._store = store
        self._on_result = on_result

    @activity.defn
    async def export_canary(self, platform: Platform) -> RepositoryRef:
        """Puts the canary's repository into the store.

        Raises:
            InfrastructureError: The store cannot be written.
        """
        return await canary.export(self._store, platform)

    @activity.defn
    async def report_canary(self, result: CanaryResult) -> None:
        """Reports a canary's result in the metrics and the log of this worker."""
        if result.finding is not None:
            activity.logger.warning(
                "canary of pool %s: %s: %s",
                result.pool,
                result.finding.cause,
                result.finding.detail,
            )
        self._on_result(result)
