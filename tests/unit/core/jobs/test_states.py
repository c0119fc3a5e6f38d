"""How a job moves."""

import pytest

from opam_ci.core.jobs.states import IllegalEvent, JobEvent, after
from opam_ci.core.jobs.summary import JobState

ENDS = {JobEvent.DECIDE, JobEvent.JUDGE_AGAIN}


@pytest.mark.parametrize(
    "events",
    [
        "start decide",
        "decide",
        "start retry attempt retry attempt decide judge-again",
        "start retry retry attempt fault decide",
        "start decide restart start decide restart decide",
        "start retry restart decide",
        "start fault restart start decide",
    ],
)
def test_lives_of_a_job(events: str) -> None:
    state = JobState.QUEUED
    for name in events.split():
        state = after(state, JobEvent(name.replace("-", " ")))
    assert state is JobState.DECIDED


def test_only_a_verdict_decides_and_only_a_restart_takes_it_back() -> None:
    for state in JobState:
        for event in JobEvent:
            try:
                following = after(state, event)
            except IllegalEvent:
                continue
            assert (following is JobState.DECIDED) == (event in ENDS)
            assert (following is JobState.QUEUED) == (event is JobEvent.RESTART)


def test_what_is_decided_cannot_be_decided_or_started() -> None:
    for event in set(JobEvent) - {JobEvent.JUDGE_AGAIN, JobEvent.RESTART}:
        with pytest.raises(IllegalEvent, match=f"a decided job cannot {event}"):
            after(JobState.DECIDED, event)
