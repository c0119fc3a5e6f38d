"""The testing of one head inside a PullRequestWorkflow: its analysis, and who runs its jobs."""

from collections.abc import Callable, Iterable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError, WorkflowAlreadyStartedError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities.jobs import JobActivities
    from opam_ci.core.installable import may_be_installable_nowhere
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AnalysisReport,
        ChangeJobs,
        ConcludeJobs,
        CountJobs,
        PlanJobs,
        PlatformStandings,
        SettleJobs,
        revision_key,
    )
    from opam_ci.core.model import Frozen
    from opam_ci.core.outcome import Cancelled, CancelledBy
    from opam_ci.core.plan import ANALYSIS
    from opam_ci.core.platforms import Platform
    from opam_ci.core.records import RevisionKey
    from opam_ci.core.requests import PullRequestRef, Revision
    from opam_ci.core.selector import TAKEN_SHOWN, JobSelector, RestartAsker, RestartSelector, Taken
    from opam_ci.core.signals import PlatformProgress, RestartJobs, StopJobs
    from opam_ci.core.summary import JobState, JobStatus, PlatformStanding, Standing, total
    from opam_ci.core.tally import counts_of_rows, settled
    from opam_ci.workflows import options
    from opam_ci.workflows.base import Records, Tasks, ask, told
    from opam_ci.workflows.jobs import JobRunner, lost_verdict, reports_of
    from opam_ci.workflows.pause import came_true
    from opam_ci.workflows.platform import PlatformWorkflow
    from opam_ci.workflows.states import PlatformState, TestingState

_NOTICES = 20
"""How many notices of images a summary shows."""


class Testing:
    """Analyses one head, has its jobs put into the index, and one workflow a platform run them.

    Args:
        pull_request: Whose head.
        state: What is known of it.
        records: What is to be written to the index.
        is_called_away: Whether a newer head or the end of the pull request makes waiting for
            the index pointless.

    Attributes:
        is_changed: Whether there is something new to tell of.
    """

    def __init__(
        self,
        pull_request: PullRequestRef,
        state: TestingState,
        records: Records,
        is_called_away: Callable[[], bool],
    ) -> None:
        self.state = state
        self.tasks = Tasks()
        self.is_changed = True
        self._pull_request = pull_request
        self._records = records
        self._is_called_away = is_called_away
        self._table = JobTable([state.analysis])
        self._setting = self._platform_state("", None)
        self._jobs = JobRunner(self._setting, self._table, in_flight=1)
        self._written: dict[str, int] = {}
        self._started_here: set[str] = set()
        self._executing: set[str] = set()
        self._stopping: CancelledBy | None = None

    @property
    def key(self) -> RevisionKey:
        """The testing's name in the index."""
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
        """Whether there is something new to tell of."""
        return self.is_changed or self._table.is_dirty

    @property
    def standings(self) -> Iterable[PlatformStanding]:
        """How all jobs stand, the analysis first."""
        return (
            PlatformStanding(
                platform="", counts=counts_of_rows([self.analysis]), shown=(self.analysis,)
            ),
            *self.state.standings.values(),
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.state.children and self.only_children_run and not self._stopping

    @property
    def only_children_run(self) -> bool:
        """Whether all that is under way would survive a continue-as-new."""
        return self.analysis.outcome is not None and self.state.planned

    @property
    def is_given_up(self) -> bool:
        """Whether its jobs were not planned, since a newer head came."""
        return self.analysis.outcome == Cancelled(by="superseded")

    @property
    def needs_conclusion(self) -> bool:
        """Whether all platforms together have something to decide now."""
        return self.is_idle and not self.state.concluded

    @property
    def is_restartable(self) -> bool:
        """Whether a restart could mend something."""
        lost = {Standing.ERRORED, Standing.CANCELLED}
        return any(each.standing in lost for standing in self.standings for each in standing.counts)

    @property
    def has_adopted(self) -> bool:
        """Whether workflows run that an earlier run of this one started."""
        return any(child not in self._started_here for child in self.state.children.values())

    @property
    def attempts(self) -> JobRunner:
        """Who is told of attempts of the analysis."""
        return self._jobs

    # What is asked of it; one at a time.

    def begin(self, asker: RestartAsker | None = None) -> None:
        """Starts the testing from its beginning.

        Args:
            asker: Who asked for that, if it is a restart.
        """
        if self.analysis.state is JobState.DECIDED:
            self.state.round += 1
            automatic = 0 if asker is None else asker.charged(self.analysis.automatic)
            self._table.restart(ANALYSIS.id, round_=self.state.round, automatic=automatic)
        else:
            self._table.put(JobStatus(job=ANALYSIS, round=self.state.round))
        self.state.planned = False
        self.state.concluded = True
        self.tasks.spawn("check", self._check(asker))

    async def stop(self, by: CancelledBy) -> None:
        """Ends all that is under way; returns when the builds are really gone."""
        self._stopping = by
        self._setting.stopping = by
        self._jobs.cancel(ANALYSIS.id, by)
        while self.state.children or not self.only_children_run:
            for child in list(self.state.children.values()):
                if not await told(child, "stop_jobs", StopJobs(by=by, final=True)):
                    self._remove(child)
            # Asked again: one that an operator terminated never says that it is done.
            await came_true(
                lambda: not self.state.children and self.only_children_run,
                limit=options.ORPHAN_CHECK_INTERVAL,
            )
        cancelled = Cancelled(by=by)
        self._records.add(SettleJobs(key=self.key, outcome=cancelled))
        self.state.standings = {
            name: settled(standing, cancelled) for name, standing in self.state.standings.items()
        }
        self.is_changed = True
        self._stopping = self._setting.stopping = None
        if by == "request":
            self.tasks.spawn("numbers after a stop", self._count_again())

    async def restart(self, selector: RestartSelector, *, preview: bool) -> Taken:
        """Starts the selected jobs again, or says which that would be."""
        analysis = self.analysis
        if analysis.outcome is None or not self.state.planned:
            return Taken(
                refusal="the analysis is under way: all jobs are about to be started anyway"
            )
        if selector.takes_decided(analysis):
            if not preview:
                await self.stop("request")
                self.begin(selector.asker)
            return Taken(jobs=1, by_platform={"": 1}, first=(ANALYSIS.id,))
        round_ = self.state.round + 1
        taken = await self._change(
            JobActivities.restart_jobs,
            ChangeJobs(key=self.key, selector=selector, round=round_, preview=preview),
            "restart jobs",
        )
        if taken is None:
            # It may have been done all the same: that round is spent.
            self.state.round = round_
            return _OVERTAKEN
        if preview or not taken.jobs:
            return taken
        self.state.round = round_
        self.state.automatic = selector.asker.charged(self.state.automatic, taken.jobs)
        await self._wake(
            taken.by_platform, lambda n: RestartJobs(selector=selector, round=round_, number=n)
        )
        return taken

    async def cancel(self, selector: JobSelector, *, preview: bool) -> Taken:
        """Cancels the selected jobs, or says which that would be."""
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
            return Taken(refusal="the analysis is under way: only all jobs can be cancelled yet")
        taken = await self._change(
            JobActivities.cancel_jobs,
            ChangeJobs(key=self.key, selector=selector, preview=preview),
            "cancel jobs",
        )
        if taken is None:
            return _OVERTAKEN
        if taken.jobs and not preview:
            for name in taken.by_platform:
                child = self.state.children.get(name)
                if child is not None:
                    await self._tell(
                        child, "stop_jobs", lambda n: StopJobs(selector=selector, number=n)
                    )
            await self.count([name for name in taken.by_platform if name not in self._running()])
        return taken

    async def recount(self) -> None:
        """Looks at the index anew: it was changed by others."""
        for child in list(self.state.children.values()):
            await self._tell(child, "recount", lambda n: n)
        idle = [name for name in self.state.standings if name not in self._running()]
        if await self.count(idle):
            # Queued by what was given up halfway.
            self._start(name for name in idle if _undecided(self.state.standings[name]))

    async def conclude(self) -> None:
        """Decides what only all platforms together can decide."""
        changed = await ask(
            self.tasks,
            JobActivities.conclude_jobs,
            ConcludeJobs(key=self.key, unavailable=self.revision.options.unavailable),
            self._is_called_away,
            options.index_activity("conclude jobs", changes=True),
        )
        if changed is None:
            return
        if changed:
            await self.count(self.state.standings)
        self.state.concluded = True
        self.is_changed = True

    async def count(self, names: Iterable[str], still: Callable[[], bool] = lambda: True) -> bool:
        """Takes over from the index how the jobs of platforms stand.

        Args:
            names: Of the platforms.
            still: Whether the answer counts when it comes.

        Returns:
            False if that was overtaken.
        """
        wanted = tuple(names)
        if not wanted:
            return True
        found: PlatformStandings | None = await ask(
            self.tasks,
            JobActivities.count_jobs,
            CountJobs(key=self.key, platforms=wanted),
            self._is_called_away,
        )
        if found is None or not still():
            return False
        for standing in found.platforms:
            self._take_over(standing)
        return True

    async def look_for_adopted(self) -> None:
        """Asks the children of earlier runs for a sign of life; settles the jobs of lost ones."""
        for name, child in list(self.state.children.items()):
            if child not in self._started_here and not await self._tell(
                child, "recount", lambda n: n
            ):
                await self._lost(name, child)

    def progress(self, said: PlatformProgress) -> None:
        """Takes over what a PlatformWorkflow reports."""
        name = said.standing.platform
        if said.key != self.key or self.state.children.get(name) != said.workflow_id:
            return
        self._written[said.workflow_id] = said.written
        self._take_over(said.standing)
        if said.platform is not None:
            self.state.platforms = tuple(
                said.platform if known.name == name else known for known in self.state.platforms
            )
        if said.notice is not None and said.notice not in self.state.notices:
            self.state.notices = (*self.state.notices, said.notice)[:_NOTICES]
        # One that heard something after these words goes on.
        if (said.stopped or said.done) and said.heard >= self.state.woken.get(said.workflow_id, 0):
            self._remove(said.workflow_id)

    # What follows runs in tasks of its own, or serves what is above.

    async def _check(self, asker: RestartAsker | None) -> None:
        answer: AnalysisReport | None = await self._jobs.run(ANALYSIS)
        state = self.state
        if answer is None:
            state.planned = True
            return
        if answer.base is not None:
            state.revision = state.revision.model_copy(update={"base": answer.base})
        state.merge_tree = answer.analysis.merge_tree
        state.packages = answer.analysis.packages
        state.repository = answer.repository
        state.platforms = state.revision.options.platforms
        lint_only = state.revision.options.lint_only or state.repository is None
        platforms = () if lint_only else state.platforms
        # Decided once the jobs are known: an analysis that passed and no jobs would look green.
        if await self._plan(asker, platforms):
            self._table.decide(ANALYSIS.id, reports_of(answer, (ANALYSIS,))[ANALYSIS.id])
            self._start(name for name, each in state.standings.items() if _undecided(each))
        else:
            cancelled = Cancelled(by=self._stopping or "superseded")
            self._table.settle(ANALYSIS.id, cancelled, workflow.now())
        state.planned = True

    async def _plan(self, asker: RestartAsker | None, platforms: tuple[Platform, ...]) -> bool:
        """Puts all jobs into the index; False if that is overtaken."""
        # What a stop left undecided is settled first: it must not be what is planned now.
        await self.tasks.until(lambda: self._records.is_empty or self._is_overtaken())
        if self._is_overtaken():
            return False
        await ask(
            self.tasks,
            JobActivities.plan_jobs,
            PlanJobs(
                key=self.key,
                packages=self.state.packages,
                platforms=platforms,
                round=self.state.round,
                asker=asker,
            ),
            self._is_overtaken,
            options.plan_activity(),
        )
        return not self._is_overtaken() and await self.count(
            ["", *(platform.name for platform in platforms)]
        )

    def _is_overtaken(self) -> bool:
        return self._stopping is not None or self._is_called_away()

    def _running(self) -> set[str]:
        return set(self.state.children)

    async def _change(self, method: Any, change: ChangeJobs, summary: str) -> Taken | None:
        """Changes jobs in the index once all that is decided is there; None if overtaken."""
        if not await self._write_down():
            return None
        how = options.index_activity(summary, changes=True)
        taken: Taken | None = await ask(self.tasks, method, change, self._is_called_away, how)
        return taken

    async def _write_down(self) -> bool:
        """Waits until all that is decided is in the index; False if that is overtaken."""
        self.state.asked += 1
        number = self.state.asked
        for child in list(self.state.children.values()):
            await told(child, "write_down", number)
        await self.tasks.until(
            lambda: (
                self._is_called_away()
                or (
                    self._records.is_empty
                    and all(
                        self._written.get(child, 0) >= number
                        for child in self.state.children.values()
                    )
                )
            )
        )
        return not self._is_called_away()

    async def _tell(self, child: str, signal: str, say: Callable[[int], Frozen | int]) -> bool:
        """Sends a child a signal after which it looks at the index again; False if it has ended.

        It may have said that it is done before it hears this.
        """
        self.state.asked += 1
        self.state.woken[child] = self.state.asked
        if await told(child, signal, say(self.state.asked)):
            return True
        self.state.woken.pop(child, None)
        return False

    async def _wake(self, names: Iterable[str], say: Callable[[int], RestartJobs]) -> None:
        """Has jobs run that were queued again."""
        idle = []
        for name in names:
            child = self.state.children.get(name)
            if child is not None:
                if await self._tell(child, "restart_jobs", say):
                    continue
                self._remove(child)
            idle.append(name)
        if await self.count(idle):
            self._start(idle)

    def _start(self, names: Iterable[str]) -> None:
        state = self.state
        state.batch += 1
        for name in list(names):
            # With the time: an operator may have ended a parent whose children go on.
            child = f"{self._pull_request.workflow_id}/{state.revision.head[:12]}"
            child += f"@{state.opened_at:%Y%m%dT%H%M%S.%f}/{name.replace('/', '-') or 'lint'}"
            child += f"/{state.batch}"
            state.children[name] = child
            self._started_here.add(child)
            self.tasks.spawn(f"child {child}", self._run_child(name, child))

    async def _run_child(self, name: str, child: str) -> None:
        platform = next((each for each in self.state.platforms if each.name == name), None)
        given = self._platform_state(name, platform)
        given.standing = self.state.standings.get(name)
        given.heard = self.state.asked
        self._executing.add(child)
        try:
            await workflow.execute_child_workflow(
                PlatformWorkflow.run,
                given,
                id=child,
                parent_close_policy=ParentClosePolicy.ABANDON,
                cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"{name or 'lint'}: jobs of {self._pull_request.title}",
            )
        except (ChildWorkflowError, WorkflowAlreadyStartedError) as error:
            workflow.logger.warning("%s ended: %s", child, error.__cause__ or error)
        self._executing.discard(child)
        await self._lost(name, child)

    async def _count_again(self) -> None:
        """Takes over what came of a stop in the end.

        The last verdicts, and jobs that were just being planned, are known to the index alone.
        """
        await self.tasks.until(
            lambda: (self._records.is_empty and not self._executing) or self._is_overtaken()
        )
        batch = self.state.batch
        if not self._is_overtaken() and not self.state.children:
            names = ("", *(platform.name for platform in self.state.platforms))
            await self.count(names, lambda: self.state.batch == batch)

    async def _lost(self, name: str, child: str) -> None:
        """Settles what a workflow left undecided that ended without its last words."""
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
            packages=state.packages if uses_packages else (),
            merge_tree=state.merge_tree,
        )

    def _take_over(self, standing: PlatformStanding) -> None:
        before = self.state.standings.get(standing.platform)
        self.state.standings[standing.platform] = standing
        self.is_changed = True
        if before != standing and may_be_installable_nowhere(standing):
            self.state.concluded = False

    def _remove(self, child: str) -> None:
        self.state.woken.pop(child, None)
        for name in [name for name, each in self.state.children.items() if each == child]:
            del self.state.children[name]
        self.is_changed = True


_OVERTAKEN = Taken(refusal="a newer head came, or the pull request was closed, before it was done")


def _undecided(standing: PlatformStanding) -> int:
    return total(standing.counts).undecided
