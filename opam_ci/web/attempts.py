"""Attempts in detail, for pages and the JSON API alike."""

from collections import OrderedDict

from opam_ci.clients.index import Index
from opam_ci.clients.judge import judged
from opam_ci.clients.threads import COMPARISON
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import LogLine
from opam_ci.core.jobs.records import AttemptRecord, JobRecord
from opam_ci.core.pages.attempt import AttemptDetails, dependency_changes, new_lines
from opam_ci.web.sources import PageSources

_COMPARED = 2
"""Logs of passed jobs with which one is compared: a second at most for each, mostly 0.1 s."""

_KEPT = 256
"""Comparisons that are kept: logs do not change once they are closed."""


class Attempts:
    """What is known of attempts beside the index.

    Args:
        sources: Index and store.
    """

    def __init__(self, sources: PageSources) -> None:
        self._sources = sources
        self._lines: OrderedDict[tuple[str, ...], tuple[LogLine, ...]] = OrderedDict()

    async def details(self, attempt: AttemptRecord) -> AttemptDetails:
        """Returns an attempt in detail; without what the store does not have, or cannot give.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        found = await self._judged(attempt.log_key)
        if found is None:
            return AttemptDetails(attempt=attempt)
        details = AttemptDetails(
            attempt=attempt, phases=found.facts.phases, environment=found.facts.environment
        )
        if found.outcome.kind not in {"failed", "errored"}:
            return details
        passed = await self._sources.ask(Index.passed_jobs, attempt.job, number=_COMPARED)
        return await self._compared(details, found, passed)

    async def _compared(
        self, details: AttemptDetails, found: Judged, passed: tuple[JobRecord, ...]
    ) -> AttemptDetails:
        """Adds what differs from where the job passed."""
        if not passed:
            return details
        others = [(log, await self._judged(log)) for each in passed if (log := each.status.log)]
        known = {log: other for log, other in others if other is not None}
        newest = next(iter(known.values()), None)
        now, before = details.environment, newest.facts.environment if newest else None
        more: dict[str, object] = {"passed": passed[0]}
        if now is not None and before is not None:
            more["changes"] = dependency_changes(now, before)
        if known and (log := details.attempt.log_key) is not None:
            more["new_lines"] = await self._new_lines(log, found, known)
        return details.model_copy(update=more)

    async def _new_lines(
        self, log: str, found: Judged, others: dict[str, Judged]
    ) -> tuple[LogLine, ...]:
        key = (log, *others)
        if key in self._lines:
            self._lines.move_to_end(key)
            return self._lines[key]
        last = found.facts.last
        if last is None:
            return ()
        try:
            texts = [
                await self._text(name, each.facts, last.phase)
                for name, each in {log: found, **others}.items()
            ]
        except InfrastructureError:
            return ()
        if not any(texts[1:]):
            return ()  # it passed without that phase: everything would be new
        lines = await COMPARISON.run(new_lines, last, texts[0], texts[1:])
        self._lines[key] = lines
        if len(self._lines) > _KEPT:
            self._lines.popitem(last=False)
        return lines

    async def _text(self, log: str, facts: BuildFacts, phase: Phase) -> str:
        """Returns what is kept of a phase's output: of the same phase alone, since it is cut."""
        runs = tuple(run for run in facts.phases if run.phase is phase)
        alone = facts.model_copy(update={"phases": runs})
        found = await judged.phase_texts(self._sources.store, log, alone)
        return found.get(phase, "")

    async def _judged(self, log: str | None) -> Judged | None:
        """Returns what was judged; None if nothing is stored of it, or the store is away."""
        try:
            return None if log is None else await judged.load(self._sources.store, log)
        except InfrastructureError:
            return None
