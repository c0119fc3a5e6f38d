"""How a job moves: state and event give the next state, in one table.

Whatever is not in the table is a bug of whoever sent the event: nothing is guessed. Events that
come late or twice are no bug; `job_table.py` tells them by round and attempt and leaves them out
before they come here.
"""

from enum import StrEnum

from opam_ci.core.errors import OpamCiError
from opam_ci.core.summary import JobState


class JobEvent(StrEnum):
    """What happens to a job."""

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
    """Other jobs throw another light on its outcome."""
    RESTART = "restart"
    """It is to run again, in a new round."""


class IllegalEvent(OpamCiError):  # noqa: N818  named after what it is
    """A job cannot do that where it stands: a bug of ours."""


TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (JobState.QUEUED, JobEvent.START): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.DECIDE): JobState.DECIDED,
    (JobState.RUNNING, JobEvent.FAULT): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.RETRY): JobState.RETRYING,
    (JobState.RUNNING, JobEvent.ATTEMPT): JobState.RUNNING,
    (JobState.RUNNING, JobEvent.DECIDE): JobState.DECIDED,
    # Its first attempt is under way as far as the workflow knows, and has just failed.
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
        IllegalEvent: The event cannot happen in that state.
    """
    if (following := TRANSITIONS.get((state, event))) is None:
        raise IllegalEvent(f"a {state} job cannot {event}")
    return following
