"""What a text rule is: data, so that it can be listed, explained and tested one by one."""

import re
from functools import cached_property
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from opam_ci.core.job import Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, FailureReason, SkipReason

Verdict = Literal["failed", "errored", "skipped", "unknown"]
"""What a text alone can say. It can never say `passed`: that takes positive evidence."""

NETWORK_PHASES = frozenset(
    {Phase.CHECKOUT, Phase.SETUP, Phase.SOLVE, Phase.DEPEXTS, Phase.FETCH},
)
"""Phases in which a word about the network is about *our* network.

A build has no network by design, so that a package which asks for it fails by itself.
"""

OUTSIDE_PACKAGE_CODE = frozenset({*NETWORK_PHASES, Phase.VERIFY})
"""Phases in which every word is a tool's of ours, none a package's.

Containers, snapshots, agents and registries live outside the build root: while package code
runs, their words can only be its own.
"""

AFTER_LINES = 40
"""How far back `after` looks: a compiler's message with the source lines that it shows."""


class CounterExample(Frozen):
    """A text in which a rule's pattern stands and in which the rule must not decide.

    Attributes:
        text: The text.
        verdict: What it must come to.
    """

    text: str
    verdict: Verdict


class Rule(Frozen):
    """One rule: lines of this shape mean this.

    Rules are ordered; the first that matches, and does not yield, decides.

    Attributes:
        id: Its stable name, shown with every verdict that it decides.
        verdict: What it decides.
        reason: For `failed` and `skipped`.
        cause: For `errored`.
        words: Lower-case words, at least one of which every matching line has: they make
            the search cheap, and change nothing about its result.
        pattern: Regular expression, searched in one cleaned line (see `lines.py`). It may
            name the package at fault in a group called `package`.
        after: Pattern that one of the `AFTER_LINES` lines before must match too.
        at_least: How many lines must match.
        phases: Phases in which it holds, all if empty.
        yields_to: Ids of rules that, matching in the same text, take its place.
        overtaken_by: Ids of rules that take its place where they match further down: what
            they say could not have happened if this had been the end.
        quoted: Whether lines that only quote something (an echoed script, a diff, a
            source line shown by a compiler) count.
        inside: Whether only output of a package's sandboxed command counts (`frames.py`).
        outside: Whether such output does not count, whatever the phases: the words are opam's.
        rationale: Why a matching line proves what the rule says.
        example: A text that it decides.
        counter_examples: Texts that it must leave alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    verdict: Verdict
    reason: FailureReason | SkipReason | None = None
    cause: Cause | None = None
    words: tuple[str, ...]
    pattern: str
    after: str | None = None
    at_least: int = 1
    phases: frozenset[Phase] = frozenset()
    yields_to: tuple[str, ...] = ()
    overtaken_by: tuple[str, ...] = ()
    quoted: bool = False
    inside: bool = False
    outside: bool = False
    rationale: str
    example: str
    counter_examples: tuple[CounterExample, ...] = ()

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        wants_reason = self.verdict in {"failed", "skipped"}
        if wants_reason != (self.reason is not None):
            raise ValueError(f"{self.id}: a failed or skipped verdict, and no other, has a reason")
        if (self.verdict == "errored") != (self.cause is not None):
            raise ValueError(f"{self.id}: an errored verdict, and no other, has a cause")
        if not self.words or any(word != word.lower() for word in self.words):
            raise ValueError(f"{self.id}: a rule needs lower-case words")
        return self

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, compiled once in a process."""
        return re.compile(self.pattern)

    @cached_property
    def compiled_after(self) -> re.Pattern[str] | None:
        """The pattern of `after`, compiled once in a process."""
        return re.compile(self.after) if self.after else None

    def holds_in(self, phase: Phase | None) -> bool:
        """Returns whether the rule may decide in a phase (None: the phase is not known)."""
        return not self.phases or phase is None or phase in self.phases

    @property
    def what(self) -> str:
        """The verdict in the short form of outcomes, such as `errored(dns)`."""
        detail = self.reason or self.cause
        return f"{self.verdict}({detail})" if detail else self.verdict
