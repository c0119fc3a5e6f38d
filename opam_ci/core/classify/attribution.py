"""Whose failure a log tells of: the package that was asked for, or a dependency of it.

Without opam's report of its actions, its words must do: which packages failed, which were
never started because of that, and which one was asked for.
"""

import re
from collections.abc import Iterator, Sequence
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
    re.compile(r"Could not (?:get the source for|download archives of) (?P<names>[^\s:]+?)\.?:?$"),
)
_DIRECTORY = re.compile(r"(?:Entering|Leaving) directory .{0,200}/build/(?P<names>[^\s/'`\"]+)")
"""Where make worked last in opam's report: which package failed, if nothing else names one."""

_DETECTED = re.compile(r"opam-repo-ci detected dependencies failing:\s+(?P<names>\S.*)")
_FAILED_SECTION = re.compile(r"[Tt]he following (?:actions )?failed")
_ABORTED_SECTION = re.compile(
    r"[Tt]he following actions (?:were aborted|will NOT proceed)|no longer be (?:run|processed)"
    r"|[Tt]he following have been cancelled"
)
_SECTION_END = re.compile(
    r"[Tt]he following|[Nn]o changes|\[|'opam |=|<|The former|Run |The command|#|Due to"
)
_ACTION = re.compile(
    r"(?:[^\w\s'\"]{1,2} )?(?P<action>build|install|fetch|upgrade|downgrade|test)\s+"
    r"(?P<name>[\w:+~-]+)(?:\.|\s+)(?P<version>\S+)"
)
_ASKED = re.compile(
    r"'opam (?:install|reinstall|upgrade|test) (?P<args>[^']{1,400})' failed"
    r"|^\"?/usr/bin/env\"? .{0,40}\"opam (?:install|reinstall) (?P<script>[^;\"]{1,200});"
    r"|^(?:[$+%\u276f\u279c]+ )?(?:sudo )?opam (?:re)?install (?P<typed>[\w .+~=-]{1,200})$"
)
_PLANNED = re.compile(
    r"(?:[^\w\s'\"]{1,2} )?(?:install|upgrade|downgrade|recompile|reinstall)\s+(?P<name>[\w:+~-]+)"
    r"(?:\.|\s+)(?P<version>\S+)(?: to \S+)?\s+\[required by "
)
"""opam's plan says of each package that nobody asked for which other one requires it."""

_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class Attribution:
    """Which packages a log names in which part.

    Attributes:
        asked: What opam was asked for, as written.
        failed: What failed, first to last.
        aborted: What was not started because something else failed.
        required: What opam's plan has only because another package requires it.
    """

    asked: tuple[str, ...]
    failed: tuple[str, ...]
    aborted: tuple[str, ...]
    required: tuple[str, ...] = ()

    @property
    def blame(self) -> str | None:
        """The failed dependency, None if the package itself failed or nothing is known."""
        others = [name for name in self.failed if not self._is_asked(name)]
        if not others or len(others) < len(self.failed):
            return None
        if self.asked or set(others) <= set(self.required):
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
    asked: list[str] = []
    failed: list[str] = []
    aborted: list[str] = []
    worked_in: list[str] = []
    required: list[str] = []
    section: list[str] | None = None
    for line in lines:
        if found := _ASKED.search(line.text):
            asked.extend(_packages(next(filter(None, found.groups()))))
        if line.quoted:
            continue
        if detected := _DETECTED.match(line.text):
            return Attribution((), tuple(detected.group("names").split()), ("the package",))
        failed.extend(_failed_in(line.text))
        required.extend(_action_in(_PLANNED, line))
        if line.shown.lstrip().startswith("#") and (found := _DIRECTORY.search(line.text)):
            worked_in[:] = [found.group("names")]
        if _FAILED_SECTION.search(line.text):
            section = failed
        elif _ABORTED_SECTION.search(line.text):
            section = aborted
        elif section is not None and (action := _action_in(_ACTION, line)):
            section.extend(action)
        elif _SECTION_END.match(line.text):
            section = None
    parts = (asked, failed or worked_in, aborted, required)
    return Attribution(*(tuple(dict.fromkeys(names)) for names in parts))


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
