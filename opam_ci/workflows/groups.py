"""The jobs on reverse dependencies as a PullRequestWorkflow knows them: in numbers."""

from collections.abc import Iterable

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opam_ci.core.job import Job, JobKind
    from opam_ci.core.messages import RevdepsProgress, RevdepsRestart
    from opam_ci.core.outcome import Cancelled, Outcome
    from opam_ci.core.requests import RestartSelector
    from opam_ci.core.revdeps import cancelled_as, concerns, given_up, number_taken
    from opam_ci.core.summary import JobGroup
    from opam_ci.workflows.signalling import told


def revdeps_workflow(child: str, package: str) -> str:
    """Returns the id of the RevdepsWorkflow that a PlatformWorkflow runs for a package."""
    return f"{child}/revdeps/{package}"


class Groups:
    """Groups by platform and package, and the RevdepsWorkflows that run them.

    Attributes:
        is_changed: Whether anything changed since somebody last set this to False.
    """

    def __init__(self, groups: Iterable[JobGroup] = ()) -> None:
        self._groups = {group.key: group for group in groups}
        self._workflows: dict[tuple[str, str], str] = {}
        self.is_changed = False

    @property
    def all(self) -> tuple[JobGroup, ...]:
        """Every group."""
        return tuple(self._groups.values())

    @property
    def is_restartable(self) -> bool:
        """Whether a restart could mend something."""
        return any(group.counts.errored or group.counts.cancelled for group in self.all)

    def begin(self, group: JobGroup, child: str, stopping: Cancelled | None) -> None:
        """Adds a group that a PlatformWorkflow has just listed."""
        self.run_by(group, child)
        self._take_over(group, stopping)

    def run_by(self, group: JobGroup, child: str) -> None:
        """Notes which PlatformWorkflow has a group's jobs run."""
        self._workflows[group.key] = revdeps_workflow(child, group.package)

    def progress(self, said: RevdepsProgress, stopping: Cancelled | None) -> None:
        """Takes over what a RevdepsWorkflow reports."""
        if said.done:
            self._workflows.pop(said.group.key, None)
        else:
            self._workflows[said.group.key] = said.workflow_id
        self._take_over(said.group, stopping)

    def running(self, job: Job) -> str | None:
        """Returns the workflow that runs a group's jobs, None if none does."""
        return self._workflows.get((job.platform, job.package))

    def forget(self, child: str) -> None:
        """Notes that a PlatformWorkflow is over, and with it those that it started."""
        for key, workflow_id in list(self._workflows.items()):
            if workflow_id.startswith(f"{child}/"):
                del self._workflows[key]

    def settle(self, outcome: Outcome) -> None:
        """Gives the undecided jobs of groups that no workflow runs any more an outcome."""
        for key, group in self._groups.items():
            if key not in self._workflows and group.counts.undecided:
                self._groups[key] = given_up(group, outcome)
                self.is_changed = True

    def blank(self, *keys: tuple[str, str]) -> None:
        """Empties the given groups, or all; their rounds stay, for the index's never go back."""
        for platform, package in keys or tuple(self._groups):
            if (group := self._groups.get((platform, package))) is not None:
                self._groups[group.key] = JobGroup(
                    platform=platform, package=package, round=group.round, listing="", listed=0
                )
                self.is_changed = True

    async def restart(
        self, selector: RestartSelector, jobs: Iterable[Job]
    ) -> tuple[int, list[RevdepsRestart]]:
        """Restarts what a selector takes of the groups whose workflow runs.

        Args:
            selector: What to restart.
            jobs: Jobs that are about to run again: a new listing makes a new group.

        Returns:
            How many jobs start again, as far as numbers tell, and what is left for new
            workflows to do.
        """
        listed = [job for job in jobs if job.kind is JobKind.LIST_REVDEPS]
        if listed:
            self.blank(*((job.platform, job.package) for job in listed))
        number, again = 0, list[RevdepsRestart]()
        for group in self.all:
            if not concerns(selector, group):
                continue
            taken = number_taken(selector, group)
            running = self._workflows.get(group.key)
            if running is not None and await told(running, "restart", selector):
                # What waits for its retry, which the numbers do not tell, starts too.
                number += max(taken, 1)
            elif taken:
                again.append(RevdepsRestart(group=group, selector=selector))
                number += taken
        return number, again

    def _take_over(self, group: JobGroup, stopping: Cancelled | None) -> None:
        known = self._groups.get(group.key)
        if known is None or (known.round, known.version) < (group.round, group.version):
            self._groups[group.key] = cancelled_as(group, stopping) if stopping else group
            self.is_changed = True
