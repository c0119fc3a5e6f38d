"""What the canary's workflow needs besides builds: its repository, and somebody who counts."""

from collections.abc import Callable

from pydantic import AwareDatetime
from temporalio import activity

from opam_ci.clients import canary
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.build import RepositoryRef
from opam_ci.core.health import Finding
from opam_ci.core.model import Frozen
from opam_ci.core.platforms import Platform


class CanaryResult(Frozen):
    """How a canary of a pool ended.

    Attributes:
        pool: Which.
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
        store: Where build workers find the repository.
        tell: Is told of each canary that ended; must neither block nor raise.
    """

    def __init__(self, store: ArtifactStore, tell: Callable[[CanaryResult], None]) -> None:
        self._store = store
        self._tell = tell

    @activity.defn
    async def export_canary(self, platform: Platform) -> RepositoryRef:
        """Puts the canary's repository into the store.

        Raises:
            InfrastructureError: The store does not take it.
        """
        return await canary.export(self._store, platform)

    @activity.defn
    async def report_canary(self, result: CanaryResult) -> None:
        """Makes a canary's end known on this worker: in its metrics and its log."""
        if result.finding is not None:
            activity.logger.warning(
                "canary of pool %s: %s: %s",
                result.pool,
                result.finding.cause,
                result.finding.detail,
            )
        self._tell(result)
