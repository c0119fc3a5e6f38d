"""Tells which lines of a log are the output of a package's own command.

opam shows such output in two forms: its report after a failure (a header of fields, then the
output, each line behind `# `), and, with --verbose, behind `- ` after the line that starts the
command. opam 2 runs these commands in its sandbox, without network and away from the system's
package manager: what they print about mirrors, hosts or workers is never about ours.

opam 1 had no sandbox, so that nothing follows from its reports.
"""

import re

_REPORT = re.compile(r"=+ ERROR \[?while (?:compiling|installing|building|testing|removing)\b")
_SANDBOXED = re.compile(r"command\s.{0,400}sandbox\.sh\b|output-file\s|output ###$")
"""Fields of opam 2's report; opam 1's has others, and never `output`."""

_OUTPUT_END = re.compile(
    r"=+ ERROR |<><>|=-=-|\[(?:ERROR|WARNING|NOTE)\] |'opam |The (?:former|following) |[┌│└╶╭╰]"
    r"|-> |Error report|Run eval|opam-repo-ci detected|Job |\(score = |.{0,2000}failed with"
    r" exit status \d"
)
_COMMAND = re.compile(
    r"\+ .{0,400}(?:hooks/sandbox\.sh\b|\(CWD=[^)]{0,300}[/\\]build[/\\])",
)


def is_command(text: str) -> bool:
    """Returns whether a line, without time stamps, is the start of a command by opam --verbose."""
    return _COMMAND.match(text) is not None


_CITED = re.compile(r"(?:>{1,3} ?)+")
"""A mail's or markdown's citation, around whatever marks opam made."""


def _is_shown_output(unstamped: str) -> bool:
    # An empty line of the output is a bare mark.
    return unstamped.startswith("- ") or unstamped == "-"


class Frames:
    """Follows a log line by line.

    A report's output ends with its `# ` marks, or, where somebody removed these, with the next
    thing that only opam says.
    """

    def __init__(self) -> None:
        self._inside = False
        self._marked = False
        self._verbose = False

    def next(self, unstamped: str, body: str) -> bool:
        """Returns whether a line is a package command's output.

        Args:
            unstamped: The line without time stamps and indentation, its other marks in place.
            body: The same without citation marks.
        """
        if unstamped.startswith(">"):
            unstamped = _CITED.sub("", unstamped, count=1)
        if self._verbose and _is_shown_output(unstamped):
            return True
        if self._inside and self._marked and unstamped.startswith("# "):
            # Whatever it looks like: a report of opam's own has no blank behind its mark.
            return True
        if _REPORT.match(body):
            self._inside = self._verbose = False
        elif _SANDBOXED.match(body):
            # The header's first field tells: the title of the output has its marks regardless.
            self._marked = self._marked if self._inside else unstamped.startswith("#")
            self._inside = True
        elif _COMMAND.match(unstamped):
            self._inside, self._verbose = False, True
        elif self._inside:
            ended = not unstamped.startswith("#") if self._marked else _OUTPUT_END.match(body)
            self._inside = not ended
            return self._inside
        else:
            self._verbose = False
        return False
