"""The states of a job: one table of transitions by state and event.

An event that is not in the table is a bug of its sender: nothing is guessed. Events that arrive
late or twice are not bugs; `table.py` recognises them by round and attempt and drops them
before they get here.
"""

from enum import StrEnum

from opam_ci.core.errors import OpamCiError
from opam_ci.core.jobs.summary import JobState


class JobEvent(StrEnum):
    """An event in the life of a job."""

    START = "start"
    """Its activity is scheduled: the first attempt of a round."""
    FAULT = "fault"
    """The last attempt of the round met an infrastructure fault; its verdict follows."""
    RETRY = "retry"
    """An attempt met an infrastructure fault; another one follows after its backoff."""
    ATTEMPT = "attempt"
    """A further attempt has begun."""
    DECIDE = "decide"
    """It has an outcome: its own, or one that follows from another job's, or a cancellation."""
    JUDGE_AGAIN = "judge again"
    """Its outcome is revised in the light of other jobs' outcomes."""
    RESTART = "restart"
    """It is to run again, in a new round."""


class IllegalEvent(OpamCiError):  # noqa: N818  the term of h11's state machine
    """The event is illegal in the job's state: a bug of ours."""


TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.QUEUED, JobEvent.START): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.DECIDE): JobState.DECIDED,
    (JobState.RUNNING, JobEvent.FAULT): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.RETRY): JobState.RETRYING,
    (JobState.RUNNING, JobEvent.ATTEMPT): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.DECIDE): JobState.DECIDED,
    # The workflow has not yet been notified that the first attempt failed.
    (JobState.RUNNING, JobEvent.RESTART): JobState.QUEUED,
    (JobState.RETRYING, JobEvent.FAULT): JobState.RUNNING,
    (JobState.RETRYING, JobEvent.RETRY): JobState.RETRYING,
    (JobState.RETRYING, JobEvent.ATTEMPT): JobState.RUNNING,
    (JobState.RETRYING, JobEvent.DECIDE): JobState.DECIDED,
    (JobState.RETRYING, JobEvent.RESTART): JobState.QUEUED,
    (JobState.DECIDED, JobEvent.JUDGE_AGAIN): JobState.DECIDED,
    (JobState.DECIDED, JobEvent.RESTART): JobState.QUEUED,
}


def after(state: JobState, event: JobEvent) -> JobState:
    """Returns the state of a job after an event.

    Raises:
        IllegalEvent: The event is illegal in that state.
    """
    if (following := TRANSITIONS.get((state, event))) is None:
        raise IllegalEvent(f"a {state} job cannot {event}")
    return following
