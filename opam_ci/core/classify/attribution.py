"""Whose failure a log tells of: the package that was asked for, or a dependency of it.

Without opam's report of its actions, its words must do: which packages failed, which were
never started because of that, and which one was asked for.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from opam_ci.core.classify.lines import Line

_FAILED = (
    re.compile(r"errors while processing (?:\{ )?(?P<names>[^{},\s]+(?:, [^{},\s]+)*)"),
    re.compile(
        r"ERROR \[?while (?:compiling|installing|fetching sources for) "
        r"(?P<names>[^\s\]]+(?:, [^\s\]]+)*?)\]? ?=*#?$"
    ),
    re.compile(r"\[ERROR\] The (?:compilation|installation) of (?P<names>\S+) failed"),
    re.compile(r"\[ERROR\] Failed to get sources of (?P<names>[^\s:(]+(?:, [^\s:(]+)*)"),
    # The report's header: opam builds each package in a directory of its name and version.
    re.compile(r"path +\S*[/\\]build[/\\](?P<names>[^\s/\\]+)$"),
    re.compile(r"(?:env|stdout|stderr)-file +\S*/build/(?P<names>[^\s/]+)/"),
    re.compile(r"(?:env|output)-file +\S*[/\\](?P<names>[\w+~-]+)-\d+-[0-9a-f]{6}\.\w+$"),
    re.compile(r"^[=<>-]{4} (?P<names>\S+) tro[ou]bleshooting "),
    # opam 2.0's list of sources, where it knows a reason.
    re.compile(
        r"^(?P<names>[A-Za-z][\w+-]*\.v?\d[\w.+~-]*): (?:Bad checksum|[Cc]url |[Dd]ownload )"
    ),
    re.compile(r"Could not (?:get the source for|download archives of) (?P<names>[^\s:]+?)\.?:?$"),
)
_DIRECTORY = re.compile(r"(?:Entering|Leaving) directory .{0,200}/build/(?P<names>[^\s/'`\"]+)")
"""Where make worked last in opam's report: which package failed, if nothing else names one."""

_DETECTED = re.compile(r"opam-repo-ci detected dependencies failing:\s+(?P<names>\S.*)")
_FAILED_SECTION = re.compile(r"[Tt]he following (?:actions )?failed")
_ABORTED_SECTION = re.compile(
    r"[Tt]he following actions (?:were aborted|will NOT (?:be )?proceed)"
    r"|no longer be (?:run|processed)|[Tt]he following have been cancelled"
)
_SECTION_END = re.compile(
    r"(?:[^\w\s]{1,2} )?[Tt]he following|[Nn]o changes|\[|'opam |=|<|The former|Run "
    r"|The command|#|Due to"
)

_MARKS = r"(?:(?:[^\w\s'\"]{1,2}|\u03bb) {1,2}){0,2}"
"""What opam draws before an action: the frame of a list, and a sign for its kind (a build's is a
Greek letter)."""

_ACTION = re.compile(
    rf"{_MARKS}(?P<action>build|install|fetch|upgrade|downgrade|test)\s+"
    r"(?P<name>[\w:+~-]+)(?:\.|\s+)(?P<version>\S+)"
)
_ASKED = re.compile(
    r"'opam (?:install|reinstall|upgrade|test) (?P<args>[^']{1,400})' failed"
    r"|^\"?/usr/bin/env\"? .{0,40}\"opam (?:install|reinstall) (?P<script>[^;\"]{1,200});"
    r"|^(?:[$+%\u276f\u279c]+ )?(?:sudo )?opam (?:re)?install (?P<typed>[\w .+~=-]{1,200})$"
)
_PLANNED = re.compile(
    rf"{_MARKS}(?:install|upgrade|downgrade|recompile|reinstall)\s+"
    r"(?P<name>[\w:+~-]+)"
    r"(?:\.|\s+)(?P<version>\S+)(?: to \S+)?\s+\[required by (?P<by>[^\]]{0,400})"
)
"""opam's plan says of each package that nobody asked for which other one requires it."""

_ONLY_DEPENDENCIES = re.compile(r" --deps-only\b")
_OTHERS = "(others)"
"""Stands for the packages that a report, cut short, does not name."""

_REPORT = re.compile(r"=+ ERROR ")

_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class Attribution:
    """Which packages a log names in which part.

    Attributes:
        asked: What opam was asked for, as written.
        failed: What failed, first to last.
        aborted: What was not started because something else failed.
        required: What opam's plan has only because another package requires it.
        only_dependencies: Whether opam was asked to install dependencies and nothing else.
    """

    asked: tuple[str, ...]
    failed: tuple[str, ...]
    aborted: tuple[str, ...]
    required: tuple[str, ...] = ()
    only_dependencies: bool = False

    @property
    def blame(self) -> str | None:
        """The failed dependency, None if the package itself failed or nothing is known."""
        others = [name for name in self.failed if not self._is_asked(name)]
        if not others or len(others) < len(self.failed):
            return None
        required = {_name_of(name) for name in self.required}
        if self.asked or self.only_dependencies or required.issuperset(map(_name_of, others)):
            return others[0]
        waiting = [name for name in self.aborted if name not in self.failed]
        return others[0] if waiting else None

    def _is_asked(self, name: str) -> bool:
        return any(
            name == asked or name.startswith(f"{asked}.") or asked.startswith(f"{name}.")
            for asked in self.asked
        )


def attribute(lines: Sequence[Line]) -> Attribution:
    """Reads from a log which packages failed, were aborted, and were asked for."""
    reader = _Reader()
    for line in lines:
        reader.read_command(line)
        if line.quoted:
            continue
        if detected := _DETECTED.match(line.text):
            return Attribution((), tuple(detected.group("names").split()), ("the package",))
        reader.read_report(line)
    return reader.result()


class _Reader:
    """What was read so far; opam's lists reach over several lines."""

    def __init__(self) -> None:
        self._asked: list[str] = []
        self._only_dependencies = False
        self._failed: list[str] = []
        self._aborted: list[str] = []
        self._required: list[str] = []
        self._requiring: list[str] = []
        self._planned: list[str] = []
        self._worked_in: list[str] = []
        self._section: list[str] | None = None
        self._headless: list[str] | None = []

    def read_command(self, line: Line) -> None:
        """Reads a command line, if it is one, even where the log only quotes it."""
        if found := _ASKED.search(line.text):
            arguments = next(filter(None, found.groups()))
            self._asked.extend(_packages(arguments))
            self._only_dependencies = bool(_ONLY_DEPENDENCIES.search(f" {arguments}"))

    def read_report(self, line: Line) -> None:
        """Reads a line of opam's plan, reports and summaries, if it is one."""
        self._read_headless(line)
        self._failed.extend(_failed_in(line.text))
        self._read_plan(line)
        if line.shown.lstrip().startswith("#") and (found := _DIRECTORY.search(line.text)):
            self._worked_in[:] = [found.group("names")]
        if _FAILED_SECTION.search(line.text):
            self._section = self._failed
        elif _ABORTED_SECTION.search(line.text):
            self._section = self._aborted
        elif self._section is not None and (action := _action_in(_ACTION, line)):
            self._section.extend(action)
        elif _SECTION_END.match(line.text):
            self._section = None

    def _read_plan(self, line: Line) -> None:
        """Reads a line of opam's plan: what is to be installed, and what for."""
        if found := _PLANNED.match(line.text):
            self._required.extend(_action_in(_PLANNED, line))
            self._requiring.extend(name.strip() for name in found.group("by").split(","))
        elif self._section is None:
            self._planned.extend(_action_in(_ACTION, line))

    def _asked_by_plan(self) -> list[str]:
        """Returns what a plan has for itself, if something else is in it only for its sake."""
        required = {_name_of(name) for name in self._required}
        top = {name for name in self._requiring if name not in required}
        named = [name for name in self._planned if _name_of(name) not in required]
        return named if top & {_name_of(name) for name in named} else []

    def _read_headless(self, line: Line) -> None:
        """Reads a list whose title is cut off: opam 1.1 puts what waits before its reports."""
        if self._headless is None or not line.text:
            return
        if (action := _action_in(_ACTION, line)) and not _PLANNED.match(line.text):
            self._headless.extend(action)
            return
        if _REPORT.match(line.text):
            self._aborted.extend(self._headless)
        self._headless = None

    def result(self) -> Attribution:
        """Returns all that was read."""
        if self._section is self._aborted and not self._aborted:
            self._aborted.append(_OTHERS)
        return Attribution(
            asked=_distinct(self._asked or self._asked_by_plan()),
            failed=_distinct(self._failed or self._worked_in),
            aborted=_distinct(self._aborted),
            required=_distinct(self._required),
            only_dependencies=self._only_dependencies,
        )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _name_of(package: str) -> str:
    """Returns a package's name without its version, which opam leaves out here and there."""
    return package.partition(".")[0]


def _failed_in(text: str) -> Iterator[str]:
    for pattern in _FAILED:
        if found := pattern.search(text):
            yield from (name.rstrip(".,:") for name in found.group("names").split(", "))


def _action_in(pattern: re.Pattern[str], line: Line) -> list[str]:
    """Returns the package of an action in opam's lists, as one or no name with version."""
    action = pattern.match(line.text)
    return [f"{action.group('name')}.{action.group('version')}"] if action else []


def _packages(arguments: str) -> Iterator[str]:
    """Yields the packages among the arguments of an opam command."""
    for word in arguments.split():
        if not word.startswith(("-", ".", "/", "~")) and not _NUMBER.match(word):
            yield word.replace("=", ".")
