"""The testing of one head inside a PullRequestWorkflow: its analysis and child workflows."""

from collections.abc import Callable, Iterable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ChildWorkflowError, WorkflowAlreadyStartedError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.boundary import reason_of
    from opam_ci.activities.jobs import JobActivities
    from opam_ci.activities.repository import RepositoryActivities
    from opam_ci.core.jobs.baseline import may_be_compared, may_be_fixed, there_before
    from opam_ci.core.jobs.early_stop import is_in_vain
    from opam_ci.core.jobs.installable import may_be_installable_nowhere
    from opam_ci.core.jobs.messages import (
        AnalysisReport,
        ChangeJobs,
        ConcludeJobs,
        CountJobs,
        HeadTask,
        JobContext,
        PlanJobs,
        PlannedPlatforms,
        PlatformStandings,
        RepositoryTask,
        SettleJobs,
        revision_key,
    )
    from opam_ci.core.jobs.moved_base import BaseLook, depends_on_base
    from opam_ci.core.jobs.outcome import Cancelled, CancelledBy
    from opam_ci.core.jobs.plan import ANALYSIS
    from opam_ci.core.jobs.records import RevisionKey
    from opam_ci.core.jobs.requests import PullRequestRef, Revision
    from opam_ci.core.jobs.selector import (
        TAKEN_SHOWN,
        JobSelector,
        RestartOrigin,
        RestartSelector,
        RestartWhich,
        Taken,
    )
    from opam_ci.core.jobs.signals import PlatformProgress, RestartJobs, StopJobs
    from opam_ci.core.jobs.summary import JobState, JobStatus, PlatformStanding, Standing, total
    from opam_ci.core.jobs.table import JobTable
    from opam_ci.core.jobs.tally import counts_of_rows, is_unserved, settled
    from opam_ci.core.model import Frozen
    from opam_ci.core.platforms.model import Platform
    from opam_ci.core.submission.effect import Effect, may_have_effect
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records, Tasks, run_unless, signal_if_running
    from opam_ci.workflows.jobs import JobRunner, lost_verdict
    from opam_ci.workflows.pause import pause, wait_for
    from opam_ci.workflows.platform import PlatformWorkflow
    from opam_ci.workflows.states import PlatformState, TestingState

_NOTICES = 20
"""Maximum number of notices of images and listings in a summary."""


class Testing:
    """Analyses one head, adds its jobs to the index, and runs them in one workflow a platform.

    Args:
        pull_request: The head's pull request.
        state: State of the testing.
        records: Backlog of writes to the index.
        is_interrupted: Whether a newer head or the end of the pull request makes waiting for
            the index pointless.

    Attributes:
        is_changed: Whether there are changes to report.
    """

    def __init__(
        self,
        pull_request: PullRequestRef,
        state: TestingState,
        records: Records,
        is_interrupted: Callable[[], bool],
    ) -> None:
        self.state = state
        self.tasks = Tasks()
        self.is_changed = True
        self._pull_request = pull_request
        self._records = records
        self._is_interrupted = is_interrupted
        self._table = JobTable([state.analysis])
        self._analysis_state = self._platform_state("", None)
        self._jobs = JobRunner(self._analysis_state, self._table, in_flight=1)
        self._written: dict[str, int] = {}
        self._started_here: set[str] = set()
        self._executing: set[str] = set()
        self._finds_effect = False

    @property
    def _stopping(self) -> CancelledBy | None:
        """Why the testing is being stopped, None if it is not."""
        return self._analysis_state.stopping

    @property
    def key(self) -> RevisionKey:
        """The testing's key in the index."""
        return revision_key(self._pull_request, self.state.revision.head, self.state.opened_at)

    @property
    def revision(self) -> Revision:
        """The head under test."""
        return self.state.revision

    @property
    def analysis(self) -> JobStatus:
        """The row of the analysis."""
        return self._table[ANALYSIS.id]

    def take_analysis(self) -> tuple[JobStatus, ...]:
        """Returns the row of the analysis if it changed since it was last taken."""
        rows = self._table.take_changed(1)
        self.state.analysis = self.analysis
        return rows

    @property
    def is_dirty(self) -> bool:
        """Whether there are changes to report."""
        return self.is_changed or self._table.is_dirty

    @property
    def standings(self) -> Iterable[PlatformStanding]:
        """The standing of all jobs, the analysis first."""
        return (
            PlatformStanding(
                platform="", counts=counts_of_rows([self.analysis]), shown=(self.analysis,)
            ),
            *self.state.standings.values(),
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._are_jobs_idle and not self._finds_effect

    @property
    def _are_jobs_idle(self) -> bool:
        """Whether no job is under way, nor about to be."""
        return not self.state.children and self._are_jobs_planned and not self._stopping

    @property
    def only_children_run(self) -> bool:
        """Whether everything under way would survive a continue-as-new."""
        return self._are_jobs_planned and not self._finds_effect

    @property
    def _are_jobs_planned(self) -> bool:
        return self.analysis.outcome is not None and self.state.planned

    @property
    def is_abandoned(self) -> bool:
        """Whether its jobs were not planned because of a newer head."""
        return self.analysis.outcome == Cancelled(by="superseded")

    @property
    def needs_conclusion(self) -> bool:
        """Whether all platforms together have something to decide now."""
        return self._are_jobs_idle and not self.state.concluded

    @property
    def is_restartable(self) -> bool:
        """Whether it has errored or cancelled jobs, which a restart could decide."""
        lost = {Standing.ERRORED, Standing.CANCELLED}
        return any(each.standing in lost for standing in self.standings for each in standing.counts)

    @property
    def may_follow_base(self) -> bool:
        """Whether it is decided, and a move of the base could change how.

        Not if jobs were cancelled: somebody decided that they are not to run.
        """
        return (
            self.revision.origin is not None
            and self.is_idle
            and self.state.concluded
            and depends_on_base(self.analysis.outcome)
            and not any(
                each.standing is Standing.CANCELLED
                for standing in self.standings
                for each in standing.counts
            )
        )

    @property
    def has_adopted(self) -> bool:
        """Whether it has children that an earlier run of its workflow started."""
        return any(child not in self._started_here for child in self.state.children.values())

    @property
    def attempts(self) -> JobRunner:
        """Handler of events of the analysis' attempts."""
        return self._jobs

    # Requests; one at a time.

    def begin(self, origin: RestartOrigin | None = None) -> None:
        """Starts the testing from its beginning.

        Args:
            origin: Origin of the restart, if it is one.
        """
        if self.analysis.state is JobState.DECIDED:
            self.state.round += 1
            restart_budget_used = (
                0 if origin is None else origin.charged(self.analysis.restart_budget_used)
            )
            self._table.restart(
                ANALYSIS.id, round_=self.state.round, restart_budget_used=restart_budget_used
            )
        else:
            self._table.put(JobStatus(job=ANALYSIS, round=self.state.round))
        self.state.planned = False
        self.state.concluded = True
        self.state.effect = None
        self.tasks.spawn("check", self._check(origin))

    async def stop(self, by: CancelledBy) -> None:
        """Ends everything under way; returns once the builds have ended."""
        self._analysis_state.stopping = by
        self._jobs.end(ANALYSIS.id, Cancelled(by=by))
        while self.state.children or not self.only_children_run:
            for child in list(self.state.children.values()):
                if not await signal_if_running(child, "stop_jobs", StopJobs(by=by, final=True)):
                    self._remove(child)
            # Repeated: one that an operator terminated never reports that it is done.
            await wait_for(
                lambda: not self.state.children and self.only_children_run,
                limit=options.ORPHAN_CHECK_INTERVAL,
            )
        cancelled = Cancelled(by=by)
        self._records.add(SettleJobs(key=self.key, outcome=cancelled))
        self.state.standings = {
            name: settled(standing, cancelled) for name, standing in self.state.standings.items()
        }
        self.is_changed = True
        self._analysis_state.stopping = None
        if by == "request":
            self.tasks.spawn("numbers after a stop", self._count_after_stop())

    async def restart(self, selector: RestartSelector, *, preview: bool) -> Taken:
        """Restarts the selected jobs, or returns which that would be."""
        analysis = self.analysis
        if analysis.outcome is None or not self.state.planned:
            return Taken(
                refusal="the analysis is under way: all jobs are about to be started anyway"
            )
        if selector.takes_decided(analysis):
            if not preview:
                await self.stop("request")
                self.begin(selector.origin)
            return Taken(jobs=1, by_platform={"": 1}, first=(ANALYSIS.id,))
        round_ = self.state.round + 1
        taken = await self._change(
            JobActivities.restart_jobs,
            ChangeJobs(key=self.key, selector=selector, round=round_, preview=preview),
            "restart jobs",
        )
        if taken is None:
            # It may have been done all the same: the round is used up.
            self.state.round = round_
            return _INTERRUPTED
        if preview or not taken.jobs:
            return taken
        self.state.round = round_
        self.state.restart_budget_used = selector.origin.charged(
            self.state.restart_budget_used, taken.jobs
        )
        if unserved := tuple(
            one
            for one in self.state.platforms
            if one.name in taken.by_platform and is_unserved(self.state.standings.get(one.name))
        ):
            await self._plan(selector.origin, unserved, lint=False)
        still = {one.name for one in unserved if is_unserved(self.state.standings.get(one.name))}
        await self._wake(
            [name for name in taken.by_platform if name not in still],
            lambda n: RestartJobs(selector=selector, round=round_, number=n),
        )
        return taken

    async def cancel(self, selector: JobSelector, *, preview: bool) -> Taken:
        """Cancels the selected jobs, or returns which that would be."""
        if selector == JobSelector(head=selector.head):
            undecided = {
                standing.platform: number
                for standing in self.standings
                if (number := _undecided(standing))
            }
            if not undecided and self.is_idle:
                return Taken(refusal="no job is under way: there is nothing to cancel")
            if not preview:
                await self.stop("request")
            first = [
                row.job.id
                for standing in self.standings
                for row in standing.shown
                if preview and row.outcome is None
            ]
            return Taken(
                jobs=sum(undecided.values()),
                by_platform=undecided,
                first=tuple(first[:TAKEN_SHOWN]),
            )
        if not self.state.planned:
            return Taken(
                refusal="the analysis is under way: until it ends only all jobs can be cancelled"
            )
        taken = await self._change(
            JobActivities.cancel_jobs,
            ChangeJobs(key=self.key, selector=selector, preview=preview),
            "cancel jobs",
        )
        if taken is None:
            return _INTERRUPTED
        if taken.jobs and not preview:
            for name in taken.by_platform:
                child = self.state.children.get(name)
                if child is not None:
                    await self._signal(
                        child, "stop_jobs", lambda n: StopJobs(selector=selector, number=n)
                    )
            await self.count(
                [name for name in taken.by_platform if name not in self.state.children]
            )
        return taken

    async def approve(self) -> None:
        """Lifts the limits of the author: jobs that wait for that are run."""
        self.state.approved, self.is_changed = True, True
        self.state.holds.clear()
        for child in list(self.state.children.values()):
            # One that was only just started may not be there yet.
            while (
                not await self._signal(child, "approve", lambda n: n)
                and child in self._executing
                and not self._is_interrupted()
            ):
                await pause(options.CHILD_START_PAUSE, until=self._is_interrupted)

    async def recount(self) -> None:
        """Counts the jobs in the index anew after it was changed by others."""
        for child in list(self.state.children.values()):
            await self._signal(child, "recount", lambda n: n)
        idle = [name for name in self.state.standings if name not in self.state.children]
        if await self.count(idle):
            # Queued by a request that was abandoned halfway.
            self._start(name for name in idle if _undecided(self.state.standings[name]))

    async def conclude(self) -> None:
        """Decides jobs that depend on all platforms together."""
        changed = await run_unless(
            self._is_interrupted,
            self.tasks,
            JobActivities.conclude_jobs,
            ConcludeJobs(
                key=self.key,
                unavailable=self.revision.options.unavailable,
                round=self.state.round,
                there=there_before(self.state.packages),
                platforms=self.state.platforms if self.state.base_repository is not None else (),
                reuse=self.revision.options.reuse,
            ),
            options.index_activity("conclude jobs", changes=True),
        )
        if changed is None:
            return
        is_counted = changed and await self.count(self.state.standings)
        is_counted |= await self._run_the_rest()
        self.state.concluded = True
        # Jobs on the base, which tell what a failure is due to.
        waiting = [name for name, each in self.state.standings.items() if _undecided(each)]
        if is_counted and waiting:
            self._start(waiting)
        self.is_changed = True

    async def _run_the_rest(self) -> bool:
        """Queues what was not run because of failures that do not count; returns whether it did."""
        in_vain = [name for name, each in self.state.standings.items() if is_in_vain(each)]
        for name in in_vain:
            round_ = self.state.round + 1
            selector = RestartSelector(which=RestartWhich.STOPPED, platform=name)
            await self._change(
                JobActivities.restart_jobs,
                ChangeJobs(key=self.key, selector=selector, round=round_),
                "run the rest",
            )
            # Also if it was interrupted: it may have been done.
            self.state.round = round_
        return bool(in_vain) and await self.count(in_vain)

    async def look_at_base(self, base: str, is_abandoned: Callable[[], bool]) -> BaseLook | None:
        """Merges the head into a base that moved, and analyses it, for nothing else.

        Args:
            base: A commit of the base branch.
            is_abandoned: Whether the result is no longer wanted.

        Returns:
            What was found, None if it was abandoned.
        """
        revision = self.revision.model_copy(update={"base": base})
        return await run_unless(
            is_abandoned,
            self.tasks,
            RepositoryActivities.look_at_base,
            self._head_task(revision),
            options.base_activity(self._pull_request),
        )

    async def count(
        self, names: Iterable[str], is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Reads the standing of the jobs of platforms from the index.

        Args:
            names: Of the platforms.
            is_wanted: Whether the result is still wanted when it arrives.

        Returns:
            False if the result was not used.
        """
        wanted = tuple(names)
        if not wanted:
            return True
        found: PlatformStandings | None = await run_unless(
            self._is_interrupted,
            self.tasks,
            JobActivities.count_jobs,
            CountJobs(key=self.key, platforms=wanted),
        )
        if found is None or not is_wanted():
            return False
        for standing in found.platforms:
            self._set_standing(standing)
        return True

    async def check_adopted(self) -> None:
        """Checks that the children of earlier runs are running; settles the jobs of lost ones."""
        for name, child in list(self.state.children.items()):
            if child not in self._started_here and not await self._signal(
                child, "recount", lambda n: n
            ):
                await self._lost(name, child)

    def progress(self, report: PlatformProgress) -> None:
        """Handles a report of a PlatformWorkflow."""
        name, child = report.standing.platform, report.workflow_id
        if report.key != self.key or self.state.children.get(name) != child:
            return
        self._written[child] = report.written
        self._set_standing(report.standing)
        if report.platform is not None:
            self.state.platforms = tuple(
                report.platform if known.name == name else known for known in self.state.platforms
            )
        self.state.holds.pop(name, None)
        if report.hold is not None:
            self.state.holds[name] = report.hold
        self._notice((report.notice, *report.listed))
        # A child that was sent another signal since continues.
        if (report.stopped or report.done) and report.handled >= self.state.awaited.get(child, 0):
            self._remove(child)

    # Tasks, and helpers of the above.

    async def _check(self, origin: RestartOrigin | None) -> None:
        result: AnalysisReport | None = await self._jobs.run(ANALYSIS)
        state = self.state
        if result is None:
            state.planned = True
            return
        if result.base is not None:
            state.revision = state.revision.model_copy(update={"base": result.base})
        state.merge_tree = result.analysis.merge_tree
        state.inputs = result.inputs
        state.packages = result.analysis.packages
        state.repository = result.repository
        state.base_repository = result.base_repository
        state.platforms = state.revision.options.platforms
        if self._may_have_effect() and workflow.patched("effect on other packages"):
            self._finds_effect = True
            self.tasks.spawn("effect", self._find_effect())
        lint_only = state.revision.options.lint_only or state.repository is None
        platforms = () if lint_only else state.platforms
        # Decided once the jobs are known: an analysis that passed and no jobs would look green.
        lint = not state.revision.options.popular
        if await self._plan(origin, platforms, lint=lint):
            self._table.decide(ANALYSIS.id, result.report)
            self._start(name for name, each in state.standings.items() if _undecided(each))
        else:
            cancelled = Cancelled(by=self._stopping or "superseded")
            self._table.settle(ANALYSIS.id, cancelled, workflow.now())
        state.planned = True

    def _may_have_effect(self) -> bool:
        kinds = frozenset(changed.kind for changed in self.state.packages)
        return not self.revision.options.lint_only and may_have_effect(kinds)

    async def _find_effect(self) -> None:
        """Has the effect on other packages decided, beside all jobs; none of them waits for it."""
        try:
            self.state.effect = await run_unless(
                self._is_overtaken,
                self.tasks,
                RepositoryActivities.find_effect,
                self._head_task(self.revision),
                options.effect_activity(self._pull_request),
            )
        except ActivityError as error:
            # Advisory: a fault of the CI is no answer, and changes no verdict.
            self.state.effect = Effect(unknown=reason_of(error))
        self._finds_effect = False
        self.is_changed = True

    def _head_task(self, revision: Revision) -> HeadTask:
        context = JobContext(
            pull_request=self._pull_request,
            head=revision.head,
            opened_at=self.state.opened_at,
            round=self.state.round,
            retry=revision.options.retry,
        )
        return HeadTask(on=RepositoryTask(context=context, revision=revision))

    async def _plan(
        self, origin: RestartOrigin | None, platforms: tuple[Platform, ...], *, lint: bool
    ) -> bool:
        """Adds all jobs of platforms to the index; False if the testing is stopped before."""
        # What a stop left undecided is settled first, so that the new jobs are not.
        await self.tasks.until(lambda: self._records.is_empty or self._is_overtaken())
        if self._is_overtaken():
            return False
        planned: PlannedPlatforms | None = await run_unless(
            self._is_overtaken,
            self.tasks,
            JobActivities.plan_jobs,
            PlanJobs(
                key=self.key,
                packages=self.state.packages,
                platforms=platforms,
                round=self.state.round,
                origin=origin,
                lint=lint,
                reuse=self.state.revision.options.reuse,
            ),
            options.plan_activity(),
        )
        # None also if a worker of an older version planned them.
        if planned is not None:
            chosen = {one.name: one for one in planned.platforms}
            self.state.platforms = tuple(chosen.get(one.name, one) for one in self.state.platforms)
            self._notice(planned.notices)
        return not self._is_overtaken() and await self.count(
            ["", *(platform.name for platform in platforms)]
        )

    def _is_overtaken(self) -> bool:
        return self._stopping is not None or self._is_interrupted()

    async def _change(self, method: Any, change: ChangeJobs, summary: str) -> Taken | None:
        """Changes jobs in the index once all decided ones are recorded; None if interrupted."""
        if not await self._record_all():
            return None
        how = options.index_activity(summary, changes=True)
        taken: Taken | None = await run_unless(
            self._is_interrupted, self.tasks, method, change, how
        )
        return taken

    async def _record_all(self) -> bool:
        """Waits until all decided jobs are recorded in the index; False if interrupted."""
        self.state.signals_sent += 1
        number = self.state.signals_sent
        for child in list(self.state.children.values()):
            await signal_if_running(child, "write_down", number)
        await self.tasks.until(
            lambda: (
                self._is_interrupted()
                or (
                    self._records.is_empty
                    and all(
                        self._written.get(child, 0) >= number
                        for child in self.state.children.values()
                    )
                )
            )
        )
        return not self._is_interrupted()

    async def _signal(
        self, child: str, signal: str, message: Callable[[int], Frozen | int]
    ) -> bool:
        """Sends a child a numbered signal, after which it recounts; False if it has ended.

        It may have reported that it is done before it receives the signal.
        """
        self.state.signals_sent += 1
        self.state.awaited[child] = self.state.signals_sent
        if await signal_if_running(child, signal, message(self.state.signals_sent)):
            return True
        self.state.awaited.pop(child, None)
        return False

    async def _wake(self, names: Iterable[str], message: Callable[[int], RestartJobs]) -> None:
        """Runs jobs that were queued again."""
        idle = []
        for name in names:
            child = self.state.children.get(name)
            if child is not None:
                if await self._signal(child, "restart_jobs", message):
                    continue
                self._remove(child)
            idle.append(name)
        if await self.count(idle):
            self._start(idle)

    def _start(self, names: Iterable[str]) -> None:
        state = self.state
        state.batch += 1
        for name in list(names):
            # With the time: an operator may have ended a parent whose children continue.
            child = f"{self._pull_request.workflow_id}/{state.revision.head[:12]}"
            child += f"@{state.opened_at:%Y%m%dT%H%M%S.%f}/{name.replace('/', '-') or 'lint'}"
            child += f"/{state.batch}"
            state.children[name] = child
            self._started_here.add(child)
            self.tasks.spawn(f"child {child}", self._run_child(name, child))

    async def _run_child(self, name: str, child: str) -> None:
        platform = next((each for each in self.state.platforms if each.name == name), None)
        state = self._platform_state(name, platform)
        state.standing = self.state.standings.get(name)
        state.handled = self.state.signals_sent
        self._executing.add(child)
        try:
            await workflow.execute_child_workflow(
                PlatformWorkflow.run,
                state,
                id=child,
                parent_close_policy=ParentClosePolicy.ABANDON,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"{name or 'lint'}: jobs of {self._pull_request.title}",
            )
        except (ChildWorkflowError, WorkflowAlreadyStartedError) as error:
            workflow.logger.warning("%s ended: %s", child, error.__cause__ or error)
        self._executing.discard(child)
        await self._lost(name, child)

    async def _count_after_stop(self) -> None:
        """Reads the final numbers after a stop.

        The last verdicts, and jobs that were just being planned, are in the index only.
        """
        await self.tasks.until(
            lambda: (self._records.is_empty and not self._executing) or self._is_overtaken()
        )
        batch = self.state.batch
        if not self._is_overtaken() and not self.state.children:
            names = ("", *(platform.name for platform in self.state.platforms))
            await self.count(names, lambda: self.state.batch == batch)

    async def _lost(self, name: str, child: str) -> None:
        """Settles the jobs of a child that ended without a final report."""
        if self.state.children.get(name) != child:
            return
        if self._stopping is None:
            outcome = lost_verdict("the platform's workflow ended without a verdict")
            self._records.add(SettleJobs(key=self.key, outcome=outcome, platforms=(name,)))
            await self.tasks.until(lambda: self._records.is_empty or self._is_overtaken())
            await self.count([name])
        self._remove(child)

    def _platform_state(self, name: str, platform: Platform | None) -> PlatformState:
        state = self.state
        # Of thousands each copy takes megabytes: only who uses them has one.
        uses_packages = platform is None or platform.revdeps
        return PlatformState(
            pull_request=self._pull_request,
            parent=workflow.info().workflow_id,
            revision=state.revision,
            opened_at=state.opened_at,
            name=name,
            platform=platform,
            repository=state.repository,
            base_repository=state.base_repository,
            packages=state.packages if uses_packages else (),
            merge_tree=state.merge_tree,
            approved=state.approved,
        )

    def _notice(self, notices: Iterable[str | None]) -> None:
        known = dict.fromkeys((*self.state.notices, *notices))
        self.state.notices = tuple(filter(None, known))[:_NOTICES]

    def _set_standing(self, standing: PlatformStanding) -> None:
        before = self.state.standings.get(standing.platform)
        self.state.standings[standing.platform] = standing
        self.is_changed = True
        compares = self.state.base_repository is not None and may_be_compared(standing)
        depends = (
            compares
            or may_be_installable_nowhere(standing)
            or is_in_vain(standing)
            or self._may_be_fixed(standing)
        )
        if before != standing and depends:
            self.state.concluded = False

    def _may_be_fixed(self, standing: PlatformStanding) -> bool:
        return (
            self.state.base_repository is not None
            and self.revision.options.reuse is not None
            and may_be_fixed(standing, there_before(self.state.packages))
            and workflow.patched("fixed")
        )

    def _remove(self, child: str) -> None:
        self.state.awaited.pop(child, None)
        for name in [name for name, each in self.state.children.items() if each == child]:
            del self.state.children[name]
            self.state.holds.pop(name, None)
        self.is_changed = True


_INTERRUPTED = Taken(refusal="superseded by a newer head, or closed, before it was done")


def _undecided(standing: PlatformStanding) -> int:
    return total(standing.counts).undecided
