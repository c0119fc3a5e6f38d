"""Judging an attempt in a process of its own, so that its log cannot block a worker."""

import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from pydantic import ValidationError

from opam_ci.clients.judge import process as judge_process
from opam_ci.clients.judge.process import JudgeRequest
from opam_ci.clients.runners.sandbox.process import ProcessResult, run_process
from opam_ci.core import classify
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import OUTCOME, Cancelled, Outcome

_log = logging.getLogger(__name__)

PROCESSOR_LIMIT = timedelta(seconds=20)
"""Processor time for one verdict. A usual log takes a tenth of a second; the worst known one
(320 KiB of two-byte lines) takes three."""

TIME_LIMIT = timedelta(minutes=2)
"""Wall clock time for the same, which is longer on a machine that is busy building."""

UNREAD = "the log took too long to read: judged by the facts alone"
"""In the evidence of a verdict for which the log was not read."""

_OUTPUT_LIMIT = 1 << 20
"""Bytes of output: an outcome cites at most five lines."""


async def judge(  # noqa: PLR0913 - the parts of an attempt, and the bounds for tests
    facts: BuildFacts,
    logs: Mapping[Phase, str],
    *,
    worker: str,
    attempt: int,
    processor_limit: timedelta = PROCESSOR_LIMIT,
    start: Callable[..., Awaitable[ProcessResult]] = run_process,
) -> Outcome:
    """Judges an attempt: in this process if that needs no log, else in a process of its own.

    Args:
        facts: The runner's observations.
        logs: Text of each phase.
        worker: Identity of the worker, for the evidence.
        attempt: Number of the attempt, for the evidence.
        processor_limit: Processor time for it, whole seconds.
        start: Starts the process.

    Returns:
        The outcome. If the logs took too long, or the process died, that of the facts alone,
        which says so.
    """
    by_facts = classify.judge(facts, {}, worker=worker, attempt=attempt)
    if by_facts.kind == "passed":
        return by_facts  # a log does not make, or unmake, a success
    request = JudgeRequest(
        facts=facts,
        logs=dict(logs),
        worker=worker,
        attempt=attempt,
        processor_limit=processor_limit,
    )
    output = bytearray()

    def keep(data: bytes) -> None:
        output.extend(data[: _OUTPUT_LIMIT - len(output)])

    try:
        with tempfile.TemporaryFile() as file:
            file.write(request.model_dump_json().encode())
            file.seek(0)
            ended = await start(
                [sys.executable, "-P", "-m", judge_process.__name__],
                output=keep,
                time_limit=TIME_LIMIT.total_seconds(),
                stdin=file,
            )
        if ended.ok:
            return OUTCOME.validate_json(output)
        _log.warning("judging %s by its log failed: %s", facts.job.id, ended.how)
    except (OSError, ValidationError) as error:
        _log.warning("judging %s by its log failed", facts.job.id, exc_info=error)
    return _unread(by_facts)


def _unread(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Cancelled):
        return outcome
    detail = f"{outcome.evidence.detail}; {UNREAD}" if outcome.evidence.detail else UNREAD
    return outcome.model_copy(
        update={"evidence": outcome.evidence.model_copy(update={"detail": detail})}
    )
