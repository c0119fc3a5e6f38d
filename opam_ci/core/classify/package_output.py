"""Finding the lines of a log that are the output of a package's own command.

opam shows such output in two forms: its report after a failure (a header of fields, then the
output, each line behind `# `), and, with --verbose, behind `- ` after the line that starts the
command. opam 2 runs these commands in its sandbox, without network and without the system's
package manager: their messages about mirrors, hosts or workers are never about the CI's.

opam 1 had no sandbox, so that its reports prove nothing.
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
    """Whether a line, without time stamps, is the start of a command by opam --verbose."""
    return _COMMAND.match(text) is not None


_CITED = re.compile(r"(?:>{1,3} ?)+")
"""A citation in a mail or in markdown, around opam's own marks."""


def _is_shown_output(unstamped: str) -> bool:
    # An empty line of the output has the mark alone.
    return unstamped.startswith("- ") or unstamped == "-"


class Frames:
    """State of the search while it goes through a log line by line.

    A report's output ends with its `# ` marks, or, if these were removed, with the next message
    that only opam prints.
    """

    def __init__(self) -> None:
        self._inside = False
        self._marked = False
        self._verbose = False

    def next(self, unstamped: str, body: str) -> bool:
        """Whether the next line is a package command's output.

        Args:
            unstamped: The line without time stamps and indentation, its other marks in place.
            body: The same without citation marks.
        """
        if unstamped.startswith(">"):
            unstamped = _CITED.sub("", unstamped, count=1)
        if self._verbose and _is_shown_output(unstamped):
            return True
        if self._inside and self._marked and unstamped.startswith("# "):
            # Even if it resembles a report: opam's own has no blank behind its mark.
            return True
        if _REPORT.match(body):
            self._inside = self._verbose = False
        elif _SANDBOXED.match(body):
            # Only the header's first field shows it: the title of the output always has its marks.
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
