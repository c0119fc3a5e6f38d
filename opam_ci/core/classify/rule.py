"""Text rules: one message of one tool, its meaning, and an example."""

import re
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from opam_ci.core.classify.literals import literals
from opam_ci.core.jobs.job import PACKAGE_PHASES, Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.model import Frozen

Verdict = Literal["failed", "errored", "skipped", "unknown"]
"""The verdicts that a text alone can prove. `passed` requires positive evidence."""

AFTER_LINES = 40
"""Lines before a match in which `after` is searched: a compiler's message shows source lines."""

_VERDICT = re.compile(r"(?P<verdict>[a-z]+)(?:\((?P<detail>[a-z_]+)\))?")


class RuleClass(StrEnum):
    """Classes of rules, strongest first: a rule decides only if none of a stronger class matches.

    Within a class, the first line in the text decides: later ones may be its consequences.

    Attributes:
        meaning: What its rules prove, or the reason for its place.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a class of its name and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    # Proof about the machine, and strong proof against the package, which ranks between.
    MACHINE = (
        "machine",
        "Proof about the machine: no package writes it, and later errors follow from it.",
    )
    TEST = "test", "A failed test. Tests print whatever they simulate."
    PROCESS = (
        "process",
        "Killed processes, full quotas: later messages of compilers follow from them.",
    )
    COMPILER = "compiler", "A compiler or a linker refuses the package's files."
    HOST = "host", "The machine's memory, disks, processors and programs."
    SERVICE = (
        "service",
        "Services that run jobs on the machine: container engines, agents, snapshots.",
    )
    # opam before it fetches or builds anything.
    OPAM = (
        "opam",
        "opam's root, arguments and solver: faults of these prove nothing about the package.",
    )
    SUBMISSION = (
        "submission",
        "git or opam refuse the package's own files, or these accept the failure.",
    )
    UNSOLVABLE = "unsolvable", "The solver proved that the package does not fit here."
    REPOSITORY = "repository", "opam's copy of the package repository."
    # What comes over the network.
    SANDBOXED = "sandboxed", "A package's command uses the network, which opam's sandbox lacks."
    NETWORK = "network", "The network between this machine and the world."
    MIRROR = (
        "mirror",
        "The mirror of a package manager: without its lists every package is unknown.",
    )
    REF = "ref", "A host of sources responded: no such branch, commit or repository."
    GIT = "git", "git could not talk to the other side, or its copy is damaged."
    DEPEXT = "depext", "A package manager that has its lists does not have a package of that name."
    PACKAGER = "packager", "A package manager failed, as it also does for an unknown package."
    SOURCE = "source", "A source is not at the URL of the opam file, or has another checksum."
    # Weaker proof, and messages that only show that something failed.
    MISSING = (
        "missing",
        "A command or library is missing, perhaps because an earlier download failed.",
    )
    FLAW = "flaw", "Weaker proof against the package."
    FETCH = "fetch", "A download failed, and no host refused it."
    UNCLEAR = "unclear", "The same message for a fault of the machine and one of the package."
    REPORT = "report", "opam's report of a package's command that failed by itself."
    UNFETCHED = "unfetched", "A source could not be fetched, and nothing shows why."
    STATUS = "status", "opam names what failed, but not how."
    WEAK = "weak", "An error, or a report of one, that no stronger rule matches."
    INSTALLED = "installed", "opam continued and installed something."

    @property
    def rank(self) -> int:
        """Its place in the order, 0 for the strongest."""
        return _RANKS[self]


_RANKS = {each: rank for rank, each in enumerate(RuleClass)}

PASSED_BY = {
    RuleClass.SERVICE: RuleClass.REPORT,
    RuleClass.NETWORK: RuleClass.REPORT,
    RuleClass.GIT: RuleClass.REPORT,
    RuleClass.MISSING: RuleClass.INSTALLED,
}
"""Classes whose match further down shows that opam continued: then the first was not the end.

A report does not show that if something is `missing`: the first may be the reason for that.
"""


class CounterExample(Frozen):
    """A text in which a rule must not decide, though its pattern matches, or nearly.

    Attributes:
        verdict: The right verdict.
        text: The text.
    """

    verdict: Verdict
    text: str


class Rule(Frozen):
    """One rule: the meaning of lines that match. Rules do not refer to each other.

    Attributes:
        id: Its stable name, shown with every verdict that it decides.
        kind: Its class, which orders it among the rules; `class` in the file.
        verdict: Its verdict.
        reason: For `failed` and `skipped`.
        cause: For `errored`. In the file the three are one: `errored(dns)`.
        patterns: Regular expressions, any of which, searched in one cleaned line (see `lines.py`),
            is enough. One may name the package at fault in a group called `package`.
        after: Pattern that one of the `AFTER_LINES` lines before must match too.
        unless: Pattern that no line of the text must match: an exception, with its reason beside
            it.
        at_least: How many lines must match.
        phases: Phases in which it holds, all if empty.
        quoted: Whether lines that only quote something (an echoed script, a diff, a
            source line shown by a compiler) count.
        reads: Which lines count: those of a package's sandboxed command (`package_output.py`), all
            others, or both. Outside the phases of package code it is always the others.
        why: Why a matching line proves the verdict.
        examples: Texts that it decides; each pattern has one.
        not_when: Texts that it must not decide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    id: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    kind: RuleClass = Field(alias="class")
    verdict: Verdict
    reason: FailureReason | SkipReason | None = None
    cause: Cause | None = None
    patterns: tuple[str, ...] = Field(min_length=1)
    after: str | None = None
    unless: str | None = None
    at_least: int = 1
    phases: frozenset[Phase] = frozenset()
    quoted: bool = False
    reads: Literal["package", "others", "both"] = "both"
    why: str
    examples: tuple[str, ...] = Field(min_length=1)
    not_when: tuple[CounterExample, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _split_verdict(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Parse the short form of a verdict, such as `errored(dns)` or `unknown`."""
        found = _VERDICT.fullmatch(str(data.get("verdict")))
        if found is None:
            raise ValueError(f"{data.get('id')}: not a verdict: {data.get('verdict')!r}")
        verdict, detail = found["verdict"], found["detail"]
        name = {"failed": "reason", "skipped": "reason", "errored": "cause"}.get(verdict)
        return {**data, "verdict": verdict, **({name: detail} if name else {})}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.verdict != "unknown" and not (self.reason or self.cause):
            raise ValueError(
                f"{self.id}: a verdict of {self.verdict} needs its cause or reason in brackets"
            )
        return self

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """All patterns in one, compiled once in a process."""
        return re.compile("|".join(self.patterns))

    @cached_property
    def compiled_after(self) -> re.Pattern[str] | None:
        """The pattern of `after`, compiled once in a process."""
        return re.compile(self.after) if self.after else None

    @cached_property
    def literals(self) -> frozenset[str]:
        """Lower-case texts, one of which every matching line contains; empty if none are known."""
        return literals(self.patterns)

    def holds_in(self, phase: Phase | None) -> bool:
        """Whether the rule may decide in a phase (None: the phase is not known)."""
        return not self.phases or phase is None or phase in self.phases

    def counts(self, *, of_package: bool) -> bool:
        """Whether lines of a package's command, or others, may match."""
        if self.phases and not self.phases & PACKAGE_PHASES:
            return not of_package
        return self.reads == "both" or (self.reads == "package") == of_package

    @property
    def what(self) -> str:
        """The verdict in the short form of outcomes, such as `errored(dns)`."""
        detail = self.reason or self.cause
        return f"{self.verdict}({detail})" if detail else self.verdict
