"""A simulated fleet: real workflows on the time-skipping server, faults chosen by a seed.

What a seed chooses does not depend on the order of events: each choice is made from the seed and
the name of its subject. So a seed that fails can be repeated, although the tasks of one process
run in another order each time.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from temporalio import activity
from temporalio.client import Client, OutboundInterceptor, SignalWorkflowInput
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from opam_ci.activities.attempt import Attempt
from opam_ci.app.github_service import github_worker
from opam_ci.core.github.debounce import Debounce
from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import (
    Cause,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from tests.support.fakes.github import FakeGitHub, InjectedFault
from tests.support.fakes.github_stage import Stage, policy_for
from tests.support.fakes.world import Script, workers

PLATFORMS = tuple(
    EMBEDDED.model_copy(update={"ocaml": ocaml, "revdeps": revdeps, "lower_bounds": not revdeps})
    for ocaml, revdeps in (("5.3", True), ("5.4", False))
)
RETRY = RetrySettings(
    initial_interval=timedelta(seconds=30), backoff_coefficient=2, maximum_attempts=3
)

HITS: Counter[str] = Counter()
"""How often each kind of fault really happened, over all seeds of this process."""

FAULTS = (
    "attempt meets a fault",
    "activity lost before its effect",
    "activity's result lost after its effect",
    "index unavailable",
    "GitHub's response lost",
    "GitHub refuses for a while",
    "webhook lost",
    "webhook twice",
    "restart",
    "cancel",
    "two operators at once",
    "new head",
    "a lost worker sends again",
)
"""Every kind: a run of many seeds in which one never happened proves nothing."""


class Chaos(Interceptor):
    """Loses activities of a worker before their effect, or their results after it.

    Attributes:
        rate: Share of the activities for each of the two.
        running: Running activities.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rate = 0.06
        self.running = 0

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  the base's name
        return _Chaotic(next, self)


class _Chaotic(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, chaos: Chaos) -> None:
        super().__init__(following)
        self._chaos = chaos

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  the base's name
        info = activity.info()
        name = (self._chaos.seed, info.activity_type, info.workflow_id, info.activity_id)
        chance = Random(repr((*name, info.attempt)))  # noqa: S311
        roll = chance.random()
        # The last attempt of a job is not lost: only the script chooses its end.
        if info.activity_type == "run_job" and info.attempt > 1:
            roll = 1
        if roll < self._chaos.rate:
            HITS["activity lost before its effect"] += 1
            raise ApplicationError("the worker was lost before it did anything")
        self._chaos.running += 1
        try:
            result = await super().execute_activity(input)
        finally:
            self._chaos.running -= 1
        if roll > 1 - self._chaos.rate and roll < 1:
            HITS["activity's result lost after its effect"] += 1
            raise ApplicationError("the worker was lost before it could report")
        return result


class SignalLog(ClientInterceptor):
    """Keeps the signals of attempts to their workflows, to send them again after their end."""

    def __init__(self) -> None:
        self.signals: list[tuple[str, str, Any]] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002  the base's name
        return _SignalRecorder(next, self)


class _SignalRecorder(OutboundInterceptor):
    def __init__(self, following: OutboundInterceptor, log: SignalLog) -> None:
        super().__init__(following)
        self._log = log

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:  # noqa: A002  the base's name
        if input.signal.startswith("attempt_"):
            self._log.signals.append((input.id, input.signal, input.args[0]))
        await super().signal_workflow(input)


class FleetScript(Script):
    """The outcomes of jobs, by the seed.

    Attributes:
        ran: Head, job, round and number of each attempt.
        ended: Outcomes of runs that really ended, by head, job and round.
        faulted: Number of faults of each job, by head and job.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.ran: list[tuple[str, str, int, int]] = []
        self.ended: dict[tuple[str, str, int], list[Outcome]] = defaultdict(list)
        self.faulted: Counter[tuple[str, str]] = Counter()
        self.fault_rate = Random(f"{seed} rate").choice((0.0, 0.1, 0.3))  # noqa: S311

    def plan(self, head: str) -> None:
        """Chooses the changes of a head, and its reverse dependencies."""
        chance = Random(f"{self.seed} {head}")  # noqa: S311
        names = [f"p{number}.1" for number in range(chance.randint(1, 3))]
        self.analyses[head] = Analysis(
            packages=tuple(
                ChangedPackage(
                    package=name, kind=ChangeKind.NEW_RELEASE, has_tests=chance.random() < 0.6
                )
                for name in names
            ),
            merge_tree="e" * 40,
        )
        self.revdeps = tuple(
            Revdep(package=f"r{number}.1", has_tests=chance.random() < 0.5)
            for number in range(chance.randint(0, 4))
        )

    async def _play(self, job: str, attempt: Attempt) -> Outcome:
        head, round_ = attempt.context.head, attempt.context.round
        self.ran.append((head, job, round_, attempt.number))
        chance = Random(f"{self.seed} {head} {job} {round_} {attempt.number}")  # noqa: S311
        await asyncio.sleep(chance.random() * 0.02)
        if chance.random() < self.fault_rate:
            HITS["attempt meets a fault"] += 1
            self.faulted[head, job] += 1
            cause = chance.choice((Cause.DISK_FULL, Cause.DNS, Cause.SANDBOX))
            raise InfrastructureError("chosen by the seed", cause=cause)
        outcome = self.verdict(head, job)
        self.ended[head, job, round_].append(outcome)
        return outcome

    def verdict(self, head: str, job: str) -> Outcome:
        """The outcome of a job whenever an attempt has no fault."""
        roll = Random(f"{self.seed} {head} {job} verdict").random()  # noqa: S311
        evidence = Evidence(rule="seed", detail=f"{roll:.3f}")
        if job in {"analysis", "lint"} or job.startswith("list-revdeps") or roll < 0.7:
            return Passed(evidence=evidence)
        if roll < 0.9:
            return Failed(reason=FailureReason.BUILD, evidence=evidence)
        return Skipped(reason=SkipReason.NO_SOLUTION, evidence=evidence)


class Fleet:
    """One simulation: a stage with GitHub, an index, workers, and the actions of the seed."""

    def __init__(self, env: WorkflowEnvironment, seed: int, home: Path) -> None:
        self.env = env
        self.seed = seed
        self.signal_log = SignalLog()
        config = env.client.config()
        config["interceptors"] = [*config["interceptors"], self.signal_log]
        self.client = Client(**config)
        self.chance = Random(f"{seed} actions")  # noqa: S311
        self.script = FleetScript(seed)
        self.chaos = Chaos(seed)
        self.fake = FakeGitHub(full_name=f"sim/s{seed}")
        self.fake.counter = seed * 10_000
        policy = policy_for(
            checks=CheckOptions(
                platforms=PLATFORMS, retry=RETRY, heartbeat_timeout=timedelta(seconds=30)
            ),
            check_runs=bool(seed % 2),
            debounce=Debounce(interval=timedelta(seconds=2)),
        )
        self.stage = Stage(
            self.client, self.fake, self.script, policy=policy, clones=home, sleep=self.sleep
        )
        self.heads: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the workers for the time of a block."""
        async with (
            workers(self.client, self.script, self.chaos),
            github_worker(self.client, self.stage.activities),
        ):
            self.fake.now = await self.env.get_current_time()
            yield
        await self.stage.github.close()

    async def sleep(self, seconds: float) -> None:
        """Lets simulated time pass, GitHub's too."""
        left = max(1, round(seconds))
        while left > 0:
            # In steps: the server ends a request after ten seconds of real time.
            await self.env.sleep(min(left, 10))
            left -= 10
        self.fake.now = await self.env.get_current_time()

    def new_head(self) -> str:
        head = f"{len(self.heads) + 1:x}" * 40
        self.heads.append(head)
        self.script.plan(head)
        return head

    def inject_trouble(self) -> None:
        """Lets requests to GitHub fail now and then."""
        if self.chance.random() < 0.4:
            done = self.chance.random() < 0.5
            HITS["GitHub's response lost" if done else "GitHub refuses for a while"] += 1
            times = self.chance.randint(1, 3)
            self.fake.troubles.append(
                InjectedFault(path="/statuses/", status=0 if done else 502, times=times, done=done)
            )
