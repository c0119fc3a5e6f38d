"""Commands in comments: `/opam-ci restart errors|failed|stopped|all [PLATFORM]`, `cancel`, `ok`."""

import re
from typing import Literal

from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from opam_ci.core.model import Frozen

_COMMAND = re.compile(r" {0,3}/opam-ci(?:[ \t]+(?P<arguments>.*))?[ \t]*")
_FENCE = re.compile(r" {0,3}(?P<mark>```|~~~)")
_PLATFORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}")
_WHICH = {
    "errors": RestartWhich.ERRORED,
    "errored": RestartWhich.ERRORED,
    "failed": RestartWhich.FAILED,
    "stopped": RestartWhich.STOPPED,
    "all": RestartWhich.ALL,
}

USAGE = (
    "No such command. One of these can be given in a comment, at the start of a line:\n\n"
    "- `/opam-ci restart errors` — jobs with internal CI errors\n"
    "- `/opam-ci restart failed` — jobs that failed\n"
    "- `/opam-ci restart stopped` — jobs that were not run because others fail alike\n"
    "- `/opam-ci restart all` — all decided jobs\n"
    "- each of them with a platform at its end, such as `debian-13-ocaml-5.3/amd64`\n"
    "- `/opam-ci cancel` — stop the running jobs\n"
    "- `/opam-ci ok` — run what waits for an approval; `/opam-ci ok always` for later heads too\n"
)
"""Answer to an unknown command."""


class RestartCommand(Frozen):
    """`/opam-ci restart`; without an argument it selects errored jobs."""

    kind: Literal["restart"] = "restart"
    selector: RestartSelector


class CancelCommand(Frozen):
    """`/opam-ci cancel`."""

    kind: Literal["cancel"] = "cancel"


class OkCommand(Frozen):
    """`/opam-ci ok`, for the head that the comment is about, or `always`: for later ones too."""

    kind: Literal["ok"] = "ok"
    always: bool = False


class NoSuchCommand(Frozen):
    """A comment that begins like a command but is not one."""

    kind: Literal["no_such_command"] = "no_such_command"


Command = RestartCommand | CancelCommand | OkCommand | NoSuchCommand


def parse_command(comment: str) -> Command | None:
    """Returns the first command of a comment, None if it has none.

    A command is at the start of a line. Quoted lines and fenced code are ignored, so that a
    reply that quotes a command, or explains one, does not repeat it.
    """
    fence: str | None = None
    # Not splitlines(): it also splits where GitHub's markdown does not, as at form feeds.
    for line in comment.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if mark := _FENCE.match(line):
            if fence is None:
                fence = mark["mark"]
            elif fence == mark["mark"]:
                fence = None
        elif fence is None and (found := _COMMAND.fullmatch(line)):
            return _command((found["arguments"] or "").split())
    return None


def _command(arguments: list[str]) -> Command:
    match arguments:
        case ["cancel"]:
            return CancelCommand()
        case ["ok"] | ["ok", "always"]:
            return OkCommand(always=len(arguments) > 1)
        case ["restart"]:
            return RestartCommand(selector=RestartSelector())
        case ["restart", which] if which in _WHICH:
            return RestartCommand(selector=RestartSelector(which=_WHICH[which]))
        case ["restart", which, platform] if which in _WHICH and _PLATFORM.fullmatch(platform):
            selector = RestartSelector(which=_WHICH[which], platform=platform)
            return RestartCommand(selector=selector)
        case _:
            return NoSuchCommand()


def is_permitted(permission: str, role: str) -> bool:
    """Whether an account may command the CI: those that may triage or more.

    The author of a pull request always may (see `decide`): a push would do the same.

    Args:
        permission: `permission` of GitHub's response: `admin`, `write`, `read`, `none`.
        role: `role_name` of it, which may also be `maintain` or `triage`.
    """
    return permission in {"admin", "write"} or role in {"admin", "maintain", "write", "triage"}
