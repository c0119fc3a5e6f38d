"""Signals between workflows, and from activities to the workflow of their job."""

from datetime import datetime

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.messages import JobHeartbeat
from opam_ci.core.jobs.outcome import CancelledBy
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.selector import JobSelector, RestartSelector
from opam_ci.core.jobs.summary import Fault, PlatformStanding
from opam_ci.core.model import Frozen
from opam_ci.core.platforms.model import Platform


class AttemptFaulted(Frozen):
    """Signal: an attempt met an infrastructure fault.

    Attributes:
        job: Id of the job; of the first one where an attempt does several, as lint does.
        round: Of which round.
        fault: What happened.
        next_attempt_at: When the next attempt comes, None if this was the last.
    """

    job: str
    round: int
    fault: Fault
    next_attempt_at: datetime | None = None


class AttemptStarted(Frozen):
    """Signal: an attempt after the first has begun.

    Attributes:
        job: As in `AttemptFaulted`.
        round: Of which round.
        attempt: Its number.
        worker: Who runs it.
        at: When.
        previous: Last heartbeat of the attempts before. Where no fault is known for the
            attempt before this one, its worker was lost.
    """

    job: str
    round: int
    attempt: int
    worker: str
    at: datetime
    previous: JobHeartbeat | None = None


class StopJobs(Frozen):
    """Signal to a PlatformWorkflow: cancel jobs under way.

    Attributes:
        selector: Which; nothing selects all.
        by: Who cancels.
        final: Whether it is to end and take no further jobs.
        number: See `PlatformProgress.handled`.
    """

    selector: JobSelector = JobSelector()
    by: CancelledBy = "request"
    final: bool = False
    number: int = 0


class RestartJobs(Frozen):
    """Signal to a PlatformWorkflow: jobs were queued again in the index.

    Attributes:
        selector: Which were; those of them that wait for their retry start at once.
        round: Their round.
        number: See `PlatformProgress.handled`.
    """

    selector: RestartSelector
    round: int
    number: int


class PlatformProgress(Frozen):
    """Signal from a PlatformWorkflow to its parent: the standing of its jobs.

    Attributes:
        key: The testing; late signals about a superseded one are ignored.
        workflow_id: The sender.
        standing: Standing of the platform's jobs.
        handled: Number of the newest signal of its parent that it has handled: with a newer one on
            its way it has not ended, although it may report so.
        written: Number of the newest request to record everything that it has fulfilled.
        stopped: Whether none of its jobs runs any more, though not all may be recorded.
        done: Whether it sends no further progress.
        platform: The platform with its image by digest, once it was looked up: later jobs of
            the head use the same one.
        notice: Message to users about the image.
        hold: Why queued jobs are not run yet, None if none wait for an approval.
        listed: Messages to users about listings of reverse dependencies.
    """

    key: RevisionKey
    workflow_id: str
    standing: PlatformStanding
    handled: int = 0
    written: int = 0
    stopped: bool = False
    done: bool = False
    platform: Platform | None = None
    notice: str | None = None
    hold: Hold | None = None
    listed: tuple[str, ...] = ()
