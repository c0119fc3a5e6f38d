"""Finding the image of a platform before its jobs start: its registry's trouble is its own."""

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.activities.images import ImageActivities
    from opam_ci.core.images import is_pinned
    from opam_ci.core.job_table import JobTable
    from opam_ci.core.messages import (
        AttemptFaulted,
        AttemptStarted,
        ImageReport,
        ImageTask,
        JobContext,
        PlatformInput,
        RestartWaiting,
    )
    from opam_ci.core.platforms import Platform
    from opam_ci.core.requests import RestartAsker
    from opam_ci.core.text import image_summary
    from opam_ci.workflows import options
    from opam_ci.workflows.reports import report_after


class PlatformImage:
    """Looks up the image of a platform; until it is found, its faults are those of all jobs.

    Attributes:
        platform: The platform; once it was found, with its image by digest.
        notice: What people should know of the image.
    """

    def __init__(self, given: PlatformInput, table: JobTable) -> None:
        self._given = given
        self._table = table
        self._handle: ActivityHandle[ImageReport] | None = None
        self._again: RestartAsker | None = None
        self.platform = given.platform
        self.notice: str | None = None

    @property
    def found(self) -> Platform | None:
        """The platform, if its image was looked up by digest here."""
        return self.platform if self.platform != self._given.platform else None

    @property
    def is_sought(self) -> bool:
        """Whether the search is under way."""
        return self._handle is not None

    @property
    def is_needed(self) -> bool:
        """Whether there is something to look up."""
        return not is_pinned(self.platform)

    def attempt_faulted(self, said: AttemptFaulted) -> None:
        """Notes that an attempt did not find the image."""
        for row in self._table.rows:
            self._table.fault(row.job.id, said.model_copy(update={"round": row.round}))

    def attempt_started(self, said: AttemptStarted) -> None:
        """Notes a further attempt."""
        for row in self._table.rows:
            self._table.started(row.job.id, said.model_copy(update={"round": row.round}))

    def restart_waiting(self, said: RestartWaiting) -> None:
        """Tries again at once."""
        if self._handle is not None:
            self._again = said.asker
            self._handle.cancel()

    async def find(self) -> bool:
        """Looks the image up; returns False if that failed, and all jobs with it."""
        while True:
            self._handle = self._start()
            try:
                answer = await self._handle
            except ActivityError as error:
                if self._again is not None and boundary.is_cancelled(error):
                    self._queue_again(self._again)
                    continue
                for row in self._table.rows:
                    self._table.decide(row.job.id, report_after(error, row, workflow.now()))
                return False
            finally:
                self._handle = self._again = None
            self.notice = answer.notice
            if answer.image is not None:
                changed = self.platform.model_dump() | {"image": answer.image}
                self.platform = Platform.model_validate(changed)
            # Attempts of the jobs are counted from one again.
            self._queue_again()
            return True

    def _queue_again(self, asker: RestartAsker | None = None) -> None:
        for row in self._table.rows:
            if row.faults:
                self._table.queue(row.job, asker)

    def _start(self) -> ActivityHandle[ImageReport]:
        given = self._given
        return workflow.start_activity_method(
            ImageActivities.pin_image,
            ImageTask(
                context=JobContext(
                    pull_request=given.pull_request,
                    head=given.head,
                    opened_at=given.opened_at,
                    round=1,
                    retry=given.options.retry,
                    notify=given.parent is not None,
                ),
                image=self.platform.image or "",
            ),
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=image_summary(self.platform.name),
            **options.image_activity(given.pull_request, given.options),
        )
