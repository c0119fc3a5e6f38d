"""Every status that the fake GitHub was sent, and whether each was true at its time.

What was true is taken from the attempts in the job index, which are written by another way
than statuses are: when each began, when it ended, and what it came to.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import AttemptRecord, JobRecord
from opam_ci.core.jobs.summary import BUILDS_NOTHING, REPOSITORY_JOBS

LAG = timedelta(seconds=15)
"""How old may be what a status says when it is sent, and how long a state may be overdue: some
tenths of a second, but the machine may be busy."""

UNDECIDED = "undecided"

_RETRY = (
    r"(?:; (?P<retrying>\d+) retry, CI fault: [a-zA-Z' ]+"
    r" \(attempt (?P<next>\d+) of (?P<of>\d+) at \d\d:\d\d UTC\))?"
)
_ANALYSING = re.compile(r"Analysing the change" + _RETRY)
_EXPECTED = r"(?:; all expected by (?:\d\d [A-Z][a-z]+ )?\d\d:\d\d UTC)?"
_NOT_COUNTED = re.compile(_RETRY + _EXPECTED + r"\Z")
"""What the end of a pending status may say beside its numbers."""

_PENDING = re.compile(r"(?P<decided>\d+)/(?P<total>\d+) done(?:, (?P<failed>\d+) failed)?")
_NAME = r"(?:analysis|lint)(?: \(\d+ of \d+\))?"
_APART = re.compile(
    rf"(?P<names>{_NAME}(?: and {_NAME})*) "
    r"(?P<word>failed|errored|cancelled|under way|skipped|passed)"
)
"""What is said of jobs that build nothing."""

_ERROR = re.compile(
    r"Internal CI error, not your package: [a-zA-Z' ]+ \((?P<tally>.*)\); "
    r"it is restarted once repaired"
)
_TALLY = re.compile(r"(\d+) (failed|errored|skipped|passed)")
_NO_REVDEPS = "No reverse dependencies were to be built"


@dataclass(frozen=True)
class Sample:
    """A status as it was sent.

    Attributes:
        at: When it came to GitHub.
        head: Commit.
        context: Name of the context.
        state: GitHub's state.
        text: The description.
        taken: Whether GitHub took it.
    """

    at: datetime
    head: str
    context: str
    state: str
    text: str
    taken: bool


class Recorder:
    """Stands before the fake GitHub's API and notes each status that is sent to it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.samples: list[Sample] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "POST" or "/statuses/" not in scope["path"]:
            await self._inner(scope, receive, send)
            return
        at = datetime.now(UTC)
        chunks: list[bytes] = []

        async def listen() -> Any:
            message = await receive()
            chunks.append(message.get("body", b""))
            return message

        codes: list[int] = []

        async def answer(message: Any) -> None:
            if "status" in message:
                codes.append(message["status"])
            await send(message)

        await self._inner(scope, listen, answer)
        # What is refused before it is read says nothing.
        if said := b"".join(chunks):
            body = json.loads(said)
            taken = codes == [201]
            sha = scope["path"].rsplit("/", 1)[1]
            words = (body["context"], body["state"], body["description"])
            self.samples.append(Sample(at, sha, *words, taken))


@dataclass
class Life:
    """What happened to one job, as the index has it.

    Attributes:
        job: As it ended.
        attempts: In their order.
        maximum: Attempts of a round.
    """

    job: JobRecord
    attempts: list[AttemptRecord]
    maximum: int

    def standings(self, since: datetime, until: datetime) -> set[str]:
        """Returns how the job may have stood in some time."""
        found = set()
        for begin, end, words in self._pieces():
            if begin <= until and (end is None or end >= since):
                found |= words
        return found

    def _pieces(self) -> Iterator[tuple[datetime, datetime | None, set[str]]]:
        before = datetime.min.replace(tzinfo=UTC)
        words = {UNDECIDED}
        for each in self.attempts:
            # A restart queues a job some time before its next attempt begins.
            again = {UNDECIDED} if each.number == 1 else set()
            yield before, each.started_at, words | again
            assert each.ended_at is not None
            assert each.outcome is not None
            yield each.started_at, each.ended_at, {UNDECIDED}
            kind = each.outcome.kind
            retried = kind == "errored" and each.number < self.maximum
            before, words = each.ended_at, {UNDECIDED if retried else kind}
        yield before, None, words


@dataclass
class Truth:
    """What was true of the heads.

    Attributes:
        lives: By head, of all its jobs.
        broken: Heads with a package that really is broken.
        away: Times in which what happened could not be told.
    """

    lives: dict[str, list[Life]]
    broken: frozenset[str]
    away: list[tuple[datetime, datetime]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        jobs: Iterable[JobRecord],
        attempts: Sequence[AttemptRecord],
        *,
        maximum: int,
        broken: Iterable[str],
        away: Iterable[tuple[datetime, datetime]],
    ) -> "Truth":
        """Puts together what the index has."""
        lives: dict[str, list[Life]] = {}
        for job in jobs:
            mine = [
                each
                for each in attempts
                if each.revision == job.revision and each.job.id == job.status.job.id
            ]
            mine.sort(key=lambda each: (each.round, each.number))
            lives.setdefault(job.revision.head, []).append(Life(job, mine, maximum))
        return cls(lives, frozenset(broken), list(away))

    def of_context(self, head: str, context: str) -> list[Life]:
        """Returns the jobs of which a context speaks."""
        kinds = {"opam-ci": set(JobKind), "opam-ci / lint": set(REPOSITORY_JOBS)}
        wanted = kinds.get(context, {JobKind.ANALYSIS})
        return [life for life in self.lives[head] if life.job.status.job.kind in wanted]

    def check(self, samples: Sequence[Sample]) -> None:
        """Checks everything that was said, and all that was shown in between."""
        assert samples
        for sample in samples:
            problem = self.problem(sample)
            assert problem is None, f"{sample}: {problem}\n{self._told(sample)}"
        taken = [sample for sample in samples if sample.taken]
        for key in {(sample.head, sample.context) for sample in taken}:
            self._check_shown([each for each in taken if (each.head, each.context) == key])

    def problem(self, sample: Sample) -> str | None:
        """Returns what is wrong with a status, None if nothing is."""
        if len(sample.text) > 140 or "\n" in sample.text:
            return "more than a line of 140 characters"
        lives = self.of_context(sample.head, sample.context)
        since = self._since(sample.at)
        may = [life.standings(since, sample.at) for life in lives]
        if sample.state not in _states(may):
            return f"{sample.state} was never right: {may}"
        if sample.state == "failure" and sample.head not in self.broken:
            return "failure, and nothing of it is broken"
        if sample.state == "success":
            # Nothing may be under way in this very moment, whatever was so before.
            now = [life.standings(sample.at, sample.at) for life in lives]
            if any(words & {UNDECIDED, "errored", "failed"} for words in now):
                return f"success too early: {now}"
        return _numbers(sample, [life.job.status.job.kind for life in lives], may)

    def _since(self, at: datetime) -> datetime:
        """Returns since when what is told at a time may have been so."""
        begins = [begin for begin, end in self.away if begin <= at <= end + LAG]
        return min([at, *begins]) - LAG

    def _check_shown(self, said: list[Sample]) -> None:
        """Checks that no state stood for longer than it was true, and a moment."""
        for sample, following in zip(said, [*said[1:], None], strict=True):
            at = sample.at
            until = following.at if following is not None else at + 4 * LAG
            while (at := at + timedelta(seconds=1)) < until:
                if any(begin <= at <= end + LAG for begin, end in self.away):
                    continue
                lives = self.of_context(sample.head, sample.context)
                may = [life.standings(at - LAG, at) for life in lives]
                assert sample.state in _states(may), (
                    f"{sample} still stood at {at}: {may}\n{self._told(sample)}"
                )

    def _told(self, sample: Sample) -> str:
        lines = []
        for life in self.lives[sample.head]:
            lines.append(f"{life.job.status.job.id}: {life.job.status.standing}")
            lines += [
                f"  {each.round}.{each.number} {each.started_at:%T.%f} {each.ended_at:%T.%f} "
                f"{each.outcome.kind if each.outcome else None} {each.worker}"
                for each in life.attempts
            ]
        return "\n".join(lines)


def _states(may: list[set[str]]) -> set[str]:
    """Returns the states that are right for jobs that may stand in these ways."""
    found = set()
    if not may or any(UNDECIDED in words for words in may):
        found.add("pending")
    decided = [words - {UNDECIDED} for words in may]
    if all(decided):
        if any("failed" in words for words in decided):
            found.add("failure")
        if all(words - {"failed"} for words in decided):
            if any("errored" in words for words in decided):
                found.add("error")
            if all(words & {"passed", "skipped"} for words in decided):
                found.add("success")
    return found


def _numbers(sample: Sample, kinds: list[JobKind], may: list[set[str]]) -> str | None:
    """Returns what is wrong with the words of a status, None if they may be right."""
    if sample.state == "success" and sample.text == _NO_REVDEPS:
        return None
    if sample.state == "pending" and _ANALYSING.fullmatch(sample.text):
        return None
    text = sample.text[0].lower() + sample.text[1:]
    if sample.state == "error":
        if (found := _ERROR.fullmatch(sample.text)) is None:
            return f"no error: {sample.text}"
        text = found["tally"]
    if sample.state == "pending":
        text = _NOT_COUNTED.sub("", text)
    parts = text.split("; ")
    builds = [words for kind, words in zip(kinds, may, strict=True) if kind not in BUILDS_NOTHING]
    said = parts if _APART.fullmatch(parts[0]) else parts[1:]
    problems = [_apart(part, kinds, may) for part in said]
    if said is not parts:
        tell = _numbers_on_the_way if sample.state == "pending" else _numbers_at_the_end
        problems.append(tell(parts[0], builds, alone=not said))
    elif sample.state == "success" and builds:
        problems.append("no word of what was built")
    return next(filter(None, problems), None)


def _numbers_at_the_end(text: str, builds: list[set[str]], *, alone: bool) -> str | None:
    del alone
    numbers = {word: int(number) for number, word in _TALLY.findall(text)}
    if ", ".join(f"{number} {word}" for word, number in numbers.items()) != text:
        return "no such words for an end"
    if sum(numbers.values()) != len(builds):
        return f"there are {len(builds)} jobs"
    return _within(builds, dict.fromkeys(("failed", "errored", "skipped", "passed"), 0) | numbers)


def _apart(part: str, kinds: list[JobKind], may: list[set[str]]) -> str | None:
    """Returns what is wrong with what is said of analysis and lint."""
    found = _APART.fullmatch(part)
    if found is None:
        return f"no such words: {part}"
    word = UNDECIDED if found["word"] == "under way" else found["word"]
    for kind in JobKind:
        if not re.search(rf"\b{kind}\b", found["names"]):
            continue
        mine = [words for each, words in zip(kinds, may, strict=True) if each is kind]
        enough = all if word == "passed" else any
        if not mine or not enough(word in words for words in mine):
            return f"{kind} {found['word']}: {mine}"
    return None


def _numbers_on_the_way(text: str, builds: list[set[str]], *, alone: bool) -> str | None:
    found = _PENDING.fullmatch(text)
    if found is None:
        return "no such words for pending"
    if int(found["total"]) != len(builds):
        return f"there are {len(builds)} jobs"
    if found["decided"] == found["total"] and alone:
        return "decided, and yet pending"
    least = sum(UNDECIDED not in words for words in builds)
    if not least <= int(found["decided"]) <= sum(bool(words - {UNDECIDED}) for words in builds):
        return f"decided: {builds}"
    return _within(builds, {"failed": int(found["failed"] or 0)})


def _within(may: list[set[str]], numbers: dict[str, int]) -> str | None:
    for word, number in numbers.items():
        least = sum(words == {word} for words in may)
        if not least <= number <= sum(word in words for words in may):
            return f"{number} {word}: {may}"
    return None
