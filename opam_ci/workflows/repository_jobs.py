"""The jobs of one head on the repository itself: its analysis and its lint."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.repository import RepositoryActivities
    from opam_ci.core.analysis_result import Analysis, ChangedPackage
    from opam_ci.core.build import RepositoryRef
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AnalysisReport,
        AttemptFaulted,
        AttemptStarted,
        JobContext,
        LintReport,
        PlatformProgress,
        RepositoryTask,
    )
    from opam_ci.core.plan import ANALYSIS, lint_job
    from opam_ci.core.platforms import Platform
    from opam_ci.core.requests import PullRequestRef, Revision
    from opam_ci.core.summary import JobStatus
    from opam_ci.core.text import activity_summary
    from opam_ci.workflows import options
    from opam_ci.workflows.reports import lost_verdict, report_after


_NOTICES = 20
"""How many notices of images a summary shows."""


class RepositoryJobs:
    """Runs analysis and lint, and keeps what the analysis found.

    Attributes:
        revision: The head, with the base that the analysis found where it looks for one.
        packages: What the head changes.
        merge_tree: The merged tree.
        repository: The merged repository in the store.
        platforms: Those to build on, with their images by digest where they were found.
        notices: What people should know of these.
    """

    def __init__(
        self,
        pull_request: PullRequestRef,
        revision: Revision,
        opened_at: datetime,
        table: JobTable,
    ) -> None:
        self._pull_request = pull_request
        self.revision = revision
        self._opened_at = opened_at
        self._table = table
        self.packages: tuple[ChangedPackage, ...] = ()
        self.merge_tree: str | None = None
        self.repository: RepositoryRef | None = None
        self.platforms: tuple[Platform, ...] = revision.options.platforms
        self.notices: tuple[str, ...] = ()

    def attempt_faulted(self, said: AttemptFaulted) -> None:
        """Notes a faulted attempt of analysis or lint."""
        for row in self._rows_of(said.job):
            self._table.fault(row.job.id, said.model_copy(update={"round": row.round}))

    def attempt_started(self, said: AttemptStarted) -> None:
        """Notes a further attempt of analysis or lint."""
        for row in self._rows_of(said.job):
            self._table.started(row.job.id, said.model_copy(update={"round": row.round}))

    def image_found(self, said: PlatformProgress) -> None:
        """Takes over what a PlatformWorkflow found of its image: later jobs use the same one."""
        found = said.platform
        if found is not None:
            self.platforms = tuple(
                found if found.name == known.name else known for known in self.platforms
            )
        if said.notice is not None and said.notice not in self.notices:
            self.notices = (*self.notices, said.notice)[:_NOTICES]

    async def analyse(self) -> Analysis | None:
        """Analyses the head; None if there is nothing to go on with."""
        self._table.start(ANALYSIS.id, workflow.now())
        try:
            answer: AnalysisReport = await self._activity(
                RepositoryActivities.analyse, ANALYSIS, ()
            )
        except ActivityError as error:
            self._decide(ANALYSIS.id, error)
            return None
        if answer.base is not None:
            self.revision = self.revision.model_copy(update={"base": answer.base})
        self.merge_tree = answer.analysis.merge_tree
        self.packages = answer.analysis.packages
        self.repository = answer.repository
        self.platforms = answer.platforms or self.revision.options.platforms
        self.notices = answer.notices
        self._table.decide(ANALYSIS.id, answer.report)
        return answer.analysis

    async def lint(self, names: list[str]) -> None:
        """Lints packages by one activity and decides their jobs."""
        job_ids = {name: lint_job(name).id for name in names}
        for job_id in job_ids.values():
            self._table.start(job_id, workflow.now())
        packages = tuple(changed for changed in self.packages if changed.package in job_ids)
        try:
            answer: LintReport = await self._activity(
                RepositoryActivities.lint,
                Job(platform="", package="", kind=JobKind.LINT),
                packages,
            )
        except ActivityError as error:
            for job_id in job_ids.values():
                self._decide(job_id, error)
            return
        verdicts = {verdict.package: verdict.outcome for verdict in answer.verdicts}
        for name, job_id in job_ids.items():
            outcome = verdicts.get(name) or lost_verdict("lint said nothing about the package")
            self._table.decide(job_id, answer.report.model_copy(update={"outcome": outcome}))

    async def _activity(
        self,
        method: Callable[[Any, RepositoryTask], Coroutine[Any, Any, Any]],
        job: Job,
        packages: tuple[ChangedPackage, ...],
    ) -> Any:
        revision = self.revision
        context = JobContext(
            pull_request=self._pull_request,
            head=revision.head,
            opened_at=self._opened_at,
            round=max((row.round for row in self._rows_of(job.id)), default=1),
            retry=revision.options.retry,
        )
        return await workflow.execute_activity_method(
            method,
            RepositoryTask(
                context=context,
                revision=revision,
                packages=packages,
                merge_tree=self.merge_tree,
            ),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=activity_summary(job.kind, job.title),
            **options.repository_activity(job.kind, self._pull_request, revision.options),
        )

    def _decide(self, job_id: str, error: ActivityError) -> None:
        self._table.decide(job_id, report_after(error, self._table[job_id], workflow.now()))

    def _rows_of(self, job_id: str) -> list[JobStatus]:
        """Returns the rows for which an activity stands: one attempt of lint is all of lint."""
        if job_id == JobKind.LINT.value:
            return [row for row in self._table.rows if row.job.kind is JobKind.LINT]
        return [self._table[job_id]] if job_id in self._table else []
