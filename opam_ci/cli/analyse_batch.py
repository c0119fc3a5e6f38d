"""The batch form of `opam-ci analyse`: JSON lines in, JSON lines with the analysis out."""

import json
import sys
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from opam_ci.cli.json_lines import read_lines
from opam_ci.clients.git import Repository
from opam_ci.clients.git_analysis import analyse, analyse_merge
from opam_ci.core.analysis_result import Analysis
from opam_ci.core.errors import UsageError
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.packed import FOR_PEOPLE
from opam_ci.core.text import problems

_BAD_LINE_EXIT_CODE: Final = 2
_INTERNAL_EXIT_CODE: Final = 3
#: Bytes; a line is some 200, with a peer's answer in it up to 100,000.
_MAX_LINE: Final = 16 * 1024 * 1024
# The keys that are ours in an answer, whatever the line had there.
_ANSWER_KEYS: Final = frozenset({"packages", "failure", "error"})


class AnalysisLine(BaseModel):
    """A line of the batch: `base` and `head`, or `merge`.

    Attributes:
        base: Branch or commit into which the change goes.
        head: Branch or commit that brings it.
        merge: A merge commit: its first parent is the base and its tree the merged one.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    base: str | None = None
    head: str | None = None
    merge: str | None = None


def analyse_lines(file: str, repository: Repository) -> int:
    """Answer each line of a file on standard output, as soon as it is analysed.

    Args:
        file: Its path, plain or `.gz`; `-` for standard input.
        repository: The clone that has the commits.

    Returns:
        The exit code: 0, 2 when a line was wrong, 3 when git failed on one.

    Raises:
        UsageError: The file cannot be read.
    """
    worst = 0
    for line in read_lines(file, stdin="stdin", limit=_MAX_LINE):
        if line.fault is not None:
            answer, worst = {"error": line.fault}, max(worst, _BAD_LINE_EXIT_CODE)
        else:
            try:
                answer = _answer(_analyse(repository, line.record))
            except UsageError as error:
                answer = {"error": f"{line.place}: {error}"}
                worst = max(worst, _BAD_LINE_EXIT_CODE)
            except InfrastructureError as error:
                answer, worst = {"error": f"{line.place}: {error}"}, _INTERNAL_EXIT_CODE
        kept = {key: value for key, value in line.record.items() if key not in _ANSWER_KEYS}
        sys.stdout.write(json.dumps({**kept, **answer}) + "\n")
        sys.stdout.flush()
    return worst


def _answer(result: Analysis) -> dict[str, Any]:
    return result.model_dump(mode="json", include={"packages", "failure"}, context=FOR_PEOPLE)


def _analyse(repository: Repository, record: dict[str, Any]) -> Analysis:
    try:
        line = AnalysisLine.model_validate(record)
    except ValidationError as error:
        raise UsageError(problems(error)) from None
    if line.base is not None and line.head is not None:
        return analyse(repository, repository.resolve(line.base), repository.resolve(line.head))
    if line.merge is not None:
        return analyse_merge(repository, repository.resolve(line.merge))
    raise UsageError("a line needs `base` and `head`, or `merge`")
