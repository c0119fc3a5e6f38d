"""Activities on the repository itself: analysis and lint."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from temporalio import activity

from opam_ci.activities.attempt import Attempt, run_attempt
from opam_ci.activities.heartbeats import heartbeating
from opam_ci.clients.git.effects import find_effect
from opam_ci.clients.git.exported import Exporter, Prepared
from opam_ci.clients.git.healing import Recovery
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.tree import GitTree
from opam_ci.clients.git.upstream import Upstream, upstream_in
from opam_ci.clients.lint.findings import store_findings
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.run import lint_packages
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.threads import GIT
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.messages import (
    AnalysisReport,
    HeadTask,
    LintReport,
    LintVerdict,
    RepositoryTask,
)
from opam_ci.core.jobs.moved_base import BaseLook
from opam_ci.core.jobs.outcome import Cause, Evidence, FailureReason, Outcome, Passed
from opam_ci.core.jobs.requests import CheckOptions, Origin
from opam_ci.core.lint.finding import LintRequest
from opam_ci.core.lint.outcome import outcome_of
from opam_ci.core.platforms.model import releases
from opam_ci.core.submission.admission import CHANGE_REFUSED, DEFAULT_LIMITS, ChangeLimits
from opam_ci.core.submission.analysis import CONFLICT
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.result import Analysis, ChangeKind


class RepositoryActivities:
    """Activities on a clone of the repository.

    Args:
        store: For exports and findings.
        opam: The opam that lints.
        clones: Directory of this worker's clones of GitHub's repositories; None for a worker
            without GitHub.
        limits: How much a head may add and modify.
        on_recovery: Called when such a clone was repaired; must neither block nor raise.
    """

    def __init__(
        self,
        store: ArtifactStore,
        opam: OpamLint,
        clones: Path | None = None,
        *,
        limits: ChangeLimits = DEFAULT_LIMITS,
        on_recovery: Callable[[Recovery], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._opam = opam
        self._exporter = Exporter(store, limits)
        self._upstreams = clones
        self._on_recovery = on_recovery
        self._deciding = asyncio.Semaphore(1)

    @activity.defn
    async def analyse(self, task: RepositoryTask) -> AnalysisReport:
        """Merges head into base, analyses the change, and exports the merged repository.

        Raises:
            ApplicationError: See `run_attempt`.
        """
        found = Prepared(analysis=Analysis())
        base = task.revision.base

        async def work(attempt: Attempt) -> Outcome:
            nonlocal found, base
            attempt.progress(Phase.CHECKOUT, 0)
            if task.revision.origin is not None:
                base = await self._fetch(task, task.revision.origin)
            revision = task.revision.model_copy(update={"base": base})
            found = await self._analyse(task.model_copy(update={"revision": revision}))
            return attempt.passed("analysed", f"{len(found.analysis.packages)} packages changed")

        report = await run_attempt(task.context, task.job, work)
        return AnalysisReport(
            analysis=found.analysis,
            repository=found.merged,
            base_repository=found.base_alone,
            report=report,
            base=None if task.revision.origin is None else base,
            inputs=found.inputs,
        )

    @activity.defn
    async def look_at_base(self, look: HeadTask) -> BaseLook:
        """Merges a decided head into a base that moved, and analyses it, for nothing else.

        A clone that has both commits is not fetched: hundreds of heads are looked at for each move.

        Args:
            look: Which head, and which base; a newer one is as good.

        Raises:
            InfrastructureError: GitHub or git fails.
        """
        task, revision = look.on, look.on.revision
        if revision.origin is None:
            raise RuntimeError("a head of a local clone follows no base")
        with heartbeating(activity.heartbeat):
            base = await GIT.run(
                self._upstream(task, revision.origin).newest,
                revision.origin.branch,
                revision.base,
                revision.head,
            )
            try:
                if base is None:
                    base = await self._fetch(task, revision.origin)
            except SubmissionError as error:
                return BaseLook(base=revision.base, failure=str(error))
            with self._suspecting(task):
                found = await self._exporter.prepare(
                    self._path(task),
                    task.context.revision,
                    base,
                    revision.head,
                    export=False,
                    reach=_needs_reach(revision.options),
                )
        return BaseLook(base=base, failure=found.analysis.failure, inputs=found.inputs)

    @activity.defn
    async def lint(self, task: RepositoryTask) -> LintReport:
        """Lints the changed packages of the merged tree.

        Raises:
            ApplicationError: See `run_attempt`.
        """
        verdicts: list[LintVerdict] = []

        async def work(attempt: Attempt) -> Outcome:
            verdicts.clear()
            verdicts.extend(await self._lint(task))
            return Passed(
                evidence=Evidence(rule="linted", worker=attempt.worker, attempt=attempt.number)
            )

        report = await run_attempt(task.context, task.job, work)
        return LintReport(verdicts=tuple(verdicts), report=report)

    @activity.defn
    async def find_effect(self, message: HeadTask) -> Effect:
        """Decides what the head does to packages that it does not touch.

        One at a time, since each takes some hundred megabytes, and nothing waits for it.

        Returns:
            The effect, with the first packages alone.

        Raises:
            UsageError: The head does not merge any more.
            InfrastructureError: Git or the store fails, or a limit was reached.
        """
        task, revision = message.on, message.on.revision
        with heartbeating(activity.heartbeat):
            async with self._deciding:
                await self._fetch_missing(task)
                with self._suspecting(task):
                    found = await find_effect(
                        self._store,
                        self._path(task),
                        revision.base,
                        revision.head,
                        releases(revision.options.platforms),
                    )
        return found.first()

    async def _analyse(self, task: RepositoryTask) -> Prepared:
        revision = task.revision
        with self._suspecting(task):
            prepared = await self._exporter.prepare(
                self._path(task),
                task.context.revision,
                revision.base,
                revision.head,
                export=not revision.options.lint_only,
                base_alone=True,
                reach=_needs_reach(revision.options),
                popular=revision.options.popular,
            )
        if prepared.analysis.failure is not None:
            raise refusal(prepared.analysis.failure)
        if prepared.analysis.merge_tree is None:
            raise InfrastructureError("the analysis made no merged tree", cause=Cause.GIT)
        return prepared

    async def _lint(self, task: RepositoryTask) -> list[LintVerdict]:
        revision = task.revision
        await self._fetch_missing(task)
        async with self._clone(task) as clone:
            # The merged tree is in the scratch objects of the analysis, so this merges again.
            merged = await GIT.run(clone.merge, revision.base, revision.head)
            if merged.tree is None or merged.tree != task.merge_tree:
                raise InfrastructureError(
                    f"merging again gives {merged.tree} instead of {task.merge_tree}",
                    cause=Cause.GIT,
                )
            linted = await lint_packages(
                GitTree(clone, merged.tree),
                [
                    LintRequest(package=changed.package, new=changed.kind is ChangeKind.NEW_PACKAGE)
                    for changed in task.packages
                ],
                opam=self._opam,
            )
        await store_findings(
            self._store,
            task.context.revision,
            [changed.package for changed in task.packages],
            linted.findings,
        )
        return [
            LintVerdict(package=changed.package, outcome=outcome_of(changed.package, linted))
            for changed in task.packages
        ]

    async def _fetch_missing(self, task: RepositoryTask) -> None:
        """Fetches the commits of a task if another worker made the analysis, in its own clone."""
        revision = task.revision
        if revision.origin is not None:
            upstream = self._upstream(task, revision.origin)
            if not await GIT.run(upstream.has, revision.base, revision.head):
                await self._fetch(task, revision.origin)

    def _path(self, task: RepositoryTask) -> Path:
        origin = task.revision.origin
        if origin is None:
            return Path(task.revision.repository)
        return self._upstream(task, origin).directory

    def _upstream(self, task: RepositoryTask, origin: Origin) -> Upstream:
        if self._upstreams is None:
            raise InfrastructureError(
                "this worker keeps no clones of GitHub", cause=Cause.REPOSITORY_STATE
            )
        ref = task.context.pull_request
        return upstream_in(
            self._upstreams, ref.owner, ref.repo, origin.clone_url, self._on_recovery
        )

    async def _fetch(self, task: RepositoryTask, origin: Origin) -> str:
        number = task.context.pull_request.number
        upstream = self._upstream(task, origin)
        if number is None:
            # The base itself, at the commit that was its newest when the check was requested.
            await upstream.in_turn(upstream.refresh, origin.branch)
            return task.revision.base
        return await upstream.in_turn(upstream.fetch, origin.branch, number, task.revision.head)

    @asynccontextmanager
    async def _clone(self, task: RepositoryTask) -> AsyncIterator[Repository]:
        """Opens the clone that has a task's commits; at the end its git processes are killed."""
        with tempfile.TemporaryDirectory(prefix="opam-ci-objects-") as scratch:
            try:
                clone = await GIT.run(Repository.open, self._path(task), scratch=Path(scratch))
            except UsageError as error:
                # The path was checked when the check was requested: it is missing here.
                raise InfrastructureError(str(error), cause=Cause.REPOSITORY_STATE) from error
            with clone, self._suspecting(task):
                yield clone

    @contextmanager
    def _suspecting(self, task: RepositoryTask) -> Iterator[None]:
        """Has the CI's own clone of a task checked if git fails on it."""
        try:
            yield
        except InfrastructureError as error:
            if error.cause is Cause.GIT and task.revision.origin is not None:
                self._upstream(task, task.revision.origin).suspect()
            raise


def _needs_reach(checks: CheckOptions) -> bool:
    """Whether jobs have plan keys."""
    return checks.reuse is not None and not checks.lint_only


def refusal(failure: str) -> SubmissionError:
    """Returns the error of a head that the analysis refuses."""
    conflict = failure == CONFLICT
    return SubmissionError(
        failure,
        reason=FailureReason.MERGE_CONFLICT if conflict else FailureReason.ANALYSIS,
        evidence=Evidence(
            rule="merge-conflict" if conflict else CHANGE_REFUSED,
            phase=Phase.CHECKOUT,
            detail=failure,
        ),
    )
