"""Parsing opam's own records: its JSON report, its switch state.

Both come from a build root, so neither size nor structure is trusted.
"""

import json
import re
from typing import Any, Literal

from opam_ci.core.jobs.facts import OpamAction
from opam_ci.core.model import Frozen

REPORT_LIMIT = 32 << 20
"""Bytes of a report above which it counts as missing: it holds the output of every failed
command (`OPAMERRLOGLEN=0`), so it may well be large."""

_VALUES_LIMIT = 2_000_000
"""Values in a report above which it counts as missing, lists and objects counted four times: ten
millions of empty lists fit into its bytes, and would take 700 MB. A line of output is a value."""

STATE_LIMIT = 8 << 20

_ACTIONS_LIMIT = 5000
_TEXT_LIMIT = 400
_CAUSES_LIMIT = 50
_CAUSE_LIMIT = 4000

_KINDS: dict[str, Literal["fetch", "build", "install", "remove"]] = {
    "fetch": "fetch",
    "build": "build",
    "install": "install",
    "remove": "remove",
}
_SANDBOX = re.compile(r"^\S*/sandbox\.sh (?:build|install|remove) ")
# A string, also one without an end, or what is outside of strings: linear in any text.
_PARTS = re.compile(rb'"[^"\\]*+(?>(?:\\.[^"\\]*+)*)(?:"|\\?\Z)|[^"]++', re.DOTALL)
PACKAGE = re.compile(r"[A-Za-z0-9_+-]+\.[A-Za-z0-9_+.~-]+")
"""A full package name as opam writes it."""


class OpamReport(Frozen):
    """The report of an opam run.

    Attributes:
        solution: Packages that the solution installs, in opam's order.
        actions: Actions with their results.
        conflicts: opam's explanations why there is no solution.
    """

    solution: tuple[str, ...] = ()
    actions: tuple[OpamAction, ...] = ()
    conflicts: tuple[str, ...] = ()


def parse_report(data: bytes) -> OpamReport | None:
    """Parses a JSON report; None if it is not a JSON object. Unknown content is left out."""
    if _has_too_many_values(data):
        return None
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(report, dict):
        return None
    failures = report.get("download-failures")
    fetches = [
        OpamAction(action="fetch", package=package, result="failed", command=_text(why))
        for package, why in (failures.items() if isinstance(failures, dict) else ())
        if PACKAGE.fullmatch(package)
    ]
    results = [action for entry in _items(report.get("results")) for action in _action(entry)]
    conflicts = report.get("conflicts")
    known = conflicts if isinstance(conflicts, dict) else {}
    causes = _items(known.get("causes")) + [
        f"Cyclic dependencies: {cycle}" for cycle in _items(known.get("cycles"))[:_CAUSES_LIMIT]
    ]
    return OpamReport(
        solution=tuple(_solution(report.get("solution"))),
        actions=tuple([*fetches, *results][:_ACTIONS_LIMIT]),
        conflicts=tuple(
            cause[:_CAUSE_LIMIT] for cause in causes[:_CAUSES_LIMIT] if isinstance(cause, str)
        ),
    )


def _has_too_many_values(data: bytes) -> bool:
    # Most reports have few of these bytes, also in strings.
    if _weight(data) <= _VALUES_LIMIT:
        return False
    total = 0
    for part in _PARTS.finditer(data):
        if (text := part[0])[:1] != b'"' and (total := total + _weight(text)) > _VALUES_LIMIT:
            return True
    return False


def _weight(text: bytes) -> int:
    return sum(map(text.count, b",:")) + 4 * sum(map(text.count, b"[{"))


def installed(state: bytes) -> frozenset[str] | None:
    """Parses the installed packages in the text of a switch state; None if it is invalid."""
    found = re.search(rb"^installed: (?:\[([^\]]*)\]|(\"[^\"]*\"))", state, re.MULTILINE)
    if found is None:
        # opam writes no `installed` field for an empty switch.
        return frozenset() if state.startswith(b"opam-version:") else None
    text = (found[1] or found[2]).decode(errors="replace")
    return frozenset(re.findall(r'"([^"]+)"', text))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value[:_TEXT_LIMIT] if isinstance(value, str) else None


def _command(value: Any) -> str | None:
    # Each command of a package runs through opam's sandbox script, which is not informative.
    return _text(_SANDBOX.sub("", value, count=1)) if isinstance(value, str) else None


def _name(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    name = f"{value.get('name')}.{value.get('version')}"
    return name if PACKAGE.fullmatch(name) else None


def _solution(value: Any) -> list[str]:
    found = []
    for entry in _items(value)[:_ACTIONS_LIMIT]:
        if not isinstance(entry, dict):
            continue
        # Actions are atomic: changed and reinstalled packages have an "install" too.
        name = _name(entry.get("install"))
        if name is not None:
            found.append(name)
    return found


def _action(entry: Any) -> list[OpamAction]:
    action = entry.get("action") if isinstance(entry, dict) else None
    if not isinstance(action, dict):
        return []
    found = []
    for verb, target in action.items():
        packages = target if isinstance(target, list) else [target]
        for name in filter(None, map(_name, packages)):
            result, exit_code, command = _result(entry.get("result"))
            found.append(
                OpamAction(
                    action=_KINDS.get(verb, "other"),
                    package=name,
                    result=result,
                    exit_code=exit_code,
                    command=command,
                )
            )
    return found


def _result(value: Any) -> tuple[Literal["ok", "failed", "aborted"], int | None, str | None]:
    if value == "OK":
        return "ok", None, None
    if not isinstance(value, dict):
        return "failed", None, _text(value)
    if "aborted" in value:
        return "aborted", None, None
    process = value.get("process-error")
    if not isinstance(process, dict):
        return "failed", None, _text(value.get("exception") or value.get("internal-error"))
    code, info = process.get("code"), process.get("info")
    return (
        "failed",
        int(code) if isinstance(code, str) and re.fullmatch(r"-?[0-9]{1,9}", code) else None,
        _command(info.get("command")) if isinstance(info, dict) else None,
    )
