"""The process that judges one attempt: `python -m …`, the request on standard input.

A process of its own, since its input is what packages wrote: it has a bound on its processor
time and memory, can be killed, and does not block the worker's event loop. The outcome goes to
standard output.
"""

import resource
import sys
from datetime import timedelta

from opam_ci.core.classify import judge
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import OUTCOME
from opam_ci.core.model import Frozen

MEMORY_LIMIT = 2 << 30
"""Bytes of address space; the worst 320 KiB of a phase, 160,000 lines, take some 200 MB."""


class JudgeRequest(Frozen):
    """An attempt that is to be judged.

    Attributes:
        processor_limit: Processor time after which the kernel ends the process, whole seconds.
    """

    facts: BuildFacts
    logs: dict[Phase, str]
    worker: str | None
    attempt: int | None
    processor_limit: timedelta


def main() -> None:
    """Judges the attempt on standard input."""
    request = JudgeRequest.model_validate_json(sys.stdin.buffer.read())
    seconds = round(request.processor_limit.total_seconds())
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome = judge(request.facts, request.logs, worker=request.worker, attempt=request.attempt)
    sys.stdout.buffer.write(OUTCOME.dump_json(outcome))


if __name__ == "__main__":
    main()
