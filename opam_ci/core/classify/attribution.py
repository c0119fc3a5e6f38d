"""The package at fault according to a log: the requested package, or a dependency of it.

This is used without opam's report of its actions. Its messages name the packages that failed,
those that were not started because of that, and the one that was requested.
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
    # opam 2.0's list of sources, with a reason.
    re.compile(
        r"^(?P<names>[A-Za-z][\w+-]*\.v?\d[\w.+~-]*): (?:Bad checksum|[Cc]url |[Dd]ownload )"
    ),
    re.compile(r"Could not (?:get the source for|download archives of) (?P<names>[^\s:]+?)\.?:?$"),
)
_DIRECTORY = re.compile(r"(?:Entering|Leaving) directory .{0,200}/build/(?P<names>[^\s/'`\"]+)")
"""The directory of make in opam's report: it names the package that failed if nothing else does."""

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
"""opam's decoration of an action: the frame of a list, and a symbol for its kind (a build's is a
Greek letter)."""

_ACTION = re.compile(
    rf"{_MARKS}(?P<action>build|install|fetch|upgrade|downgrade|test)\s+"
    r"(?P<name>[\w:+~-]+)(?:\.|\s+)(?P<version>\S+)"
)
_COMMAND = re.compile(
    r"'opam (?:install|reinstall|upgrade|test) (?P<args>[^']{1,400})' failed"
    r"|^\"?/usr/bin/env\"? .{0,40}\"opam (?:install|reinstall) (?P<script>[^;\"]{1,200});"
    r"|^(?:[$+%\u276f\u279c]+ )?(?:sudo )?opam (?:re)?install (?P<typed>[\w .+~=-]{1,200})$"
)
_PLANNED = re.compile(
    rf"{_MARKS}(?:install|upgrade|downgrade|recompile|reinstall)\s+"
    r"(?P<name>[\w:+~-]+)"
    r"(?:\.|\s+)(?P<version>\S+)(?: to \S+)?\s+\[required by (?P<by>[^\]]{0,400})"
)
"""A line of opam's plan with a package that was not requested, and those that require it."""

_ONLY_DEPENDENCIES = re.compile(r" --deps-only\b")
_OTHERS = "(others)"
"""Placeholder for the packages that a truncated report does not name."""

_REPORT = re.compile(r"=+ ERROR ")

_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class Attribution:
    """The packages that a log names, by their role.

    Attributes:
        requested: The arguments of the opam command, as written.
        failed: Those that failed, first to last.
        aborted: Those that were not started because another one failed.
        required: Those in opam's plan only because another package requires them.
        only_dependencies: Whether the opam command was to install dependencies only.
    """

    requested: tuple[str, ...]
    failed: tuple[str, ...]
    aborted: tuple[str, ...]
    required: tuple[str, ...] = ()
    only_dependencies: bool = False

    @property
    def blame(self) -> str | None:
        """The failed dependency, None if the package itself failed or nothing is known."""
        others = [name for name in self.failed if not self._is_requested(name)]
        if not others or len(others) < len(self.failed):
            return None
        required = {_name_of(name) for name in self.required}
        if self.requested or self.only_dependencies or required.issuperset(map(_name_of, others)):
            return others[0]
        waiting = [name for name in self.aborted if name not in self.failed]
        return others[0] if waiting else None

    def _is_requested(self, name: str) -> bool:
        return any(
            name == requested
            or name.startswith(f"{requested}.")
            or requested.startswith(f"{name}.")
            for requested in self.requested
        )


def attribute(lines: Sequence[Line]) -> Attribution:
    """Find the packages in a log that failed, were aborted, and were requested."""
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
    """The packages found so far; opam's lists have several lines."""

    def __init__(self) -> None:
        self._requested: list[str] = []
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
        """Read a line if it is an opam command, even one that the log only quotes."""
        if found := _COMMAND.search(line.text):
            arguments = next(filter(None, found.groups()))
            self._requested.extend(_packages(arguments))
            self._only_dependencies = bool(_ONLY_DEPENDENCIES.search(f" {arguments}"))

    def read_report(self, line: Line) -> None:
        """Read a line if it belongs to opam's plan, reports or summaries."""
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
        """Read a line of opam's plan: a package to install, and the packages that require it."""
        if found := _PLANNED.match(line.text):
            self._required.extend(_action_in(_PLANNED, line))
            self._requiring.extend(name.strip() for name in found.group("by").split(","))
        elif self._section is None:
            self._planned.extend(_action_in(_ACTION, line))

    def _requested_by_plan(self) -> list[str]:
        """Return the packages of a plan that no other requires, if one of these requires others."""
        required = {_name_of(name) for name in self._required}
        top = {name for name in self._requiring if name not in required}
        named = [name for name in self._planned if _name_of(name) not in required]
        return named if top & {_name_of(name) for name in named} else []

    def _read_headless(self, line: Line) -> None:
        """Read a list without title: opam 1.1 prints the waiting packages before its reports."""
        if self._headless is None or not line.text:
            return
        if (action := _action_in(_ACTION, line)) and not _PLANNED.match(line.text):
            self._headless.extend(action)
            return
        if _REPORT.match(line.text):
            self._aborted.extend(self._headless)
        self._headless = None

    def result(self) -> Attribution:
        """Return all packages found."""
        if self._section is self._aborted and not self._aborted:
            self._aborted.append(_OTHERS)
        return Attribution(
            requested=_distinct(self._requested or self._requested_by_plan()),
            failed=_distinct(self._failed or self._worked_in),
            aborted=_distinct(self._aborted),
            required=_distinct(self._required),
            only_dependencies=self._only_dependencies,
        )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _name_of(package: str) -> str:
    """Return a package's name without its version, which opam omits in some messages."""
    return package.partition(".")[0]


def _failed_in(text: str) -> Iterator[str]:
    for pattern in _FAILED:
        if found := pattern.search(text):
            yield from (name.rstrip(".,:") for name in found.group("names").split(", "))


def _action_in(pattern: re.Pattern[str], line: Line) -> list[str]:
    """Return the package of an action in opam's lists: a list of one `name.version`, or empty."""
    action = pattern.match(line.text)
    return [f"{action.group('name')}.{action.group('version')}"] if action else []


def _packages(arguments: str) -> Iterator[str]:
    """Yield the packages among the arguments of an opam command."""
    for word in arguments.split():
        if not word.startswith(("-", ".", "/", "~")) and not _NUMBER.match(word):
            yield word.replace("=", ".")
