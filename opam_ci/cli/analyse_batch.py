"""The batch form of `opam-ci analyse`: JSON lines in, JSON lines with the analysis out."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from opam_ci.clients.git import Repository
from opam_ci.clients.git_analysis import analyse, analyse_merge
from opam_ci.core.analysis_result import Analysis
from opam_ci.core.errors import InfrastructureError, UsageError

_STDIN: Final = "-"
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
    for place, line in _lines(file):
        record: dict[str, Any] = {}
        try:
            record = _record(line)
            answer = _answer(_analyse(repository, record))
        except UsageError as error:
            answer, worst = {"error": f"{place}: {error}"}, max(worst, _BAD_LINE_EXIT_CODE)
        except InfrastructureError as error:
            answer, worst = {"error": f"{place}: {error}"}, _INTERNAL_EXIT_CODE
        kept = {key: value for key, value in record.items() if key not in _ANSWER_KEYS}
        sys.stdout.write(json.dumps({**kept, **answer}) + "\n")
        sys.stdout.flush()
    return worst


def _answer(result: Analysis) -> dict[str, Any]:
    return result.model_dump(mode="json", include={"packages", "failure"})


def _analyse(repository: Repository, record: dict[str, Any]) -> Analysis:
    try:
        line = AnalysisLine.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if line.base is not None and line.head is not None:
        return analyse(repository, repository.resolve(line.base), repository.resolve(line.head))
    if line.merge is not None:
        return analyse_merge(repository, repository.resolve(line.merge))
    raise UsageError("a line needs `base` and `head`, or `merge`")


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"no JSON: {error}") from None
    if not isinstance(record, dict):
        raise UsageError("no JSON object")
    return record


def _lines(file: str) -> Iterator[tuple[str, bytes]]:
    """Each line that is not blank, with its place `FILE:LINE`."""
    if file == _STDIN:
        yield from _numbered("stdin", sys.stdin.buffer)
        return
    try:
        with _open(Path(file)) as stream:
            yield from _numbered(file, stream)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # typeshed gives gzip a class of its own


def _numbered(name: str, stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := stream.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise UsageError(f"{name}:{number}: a line is longer than {_MAX_LINE} bytes")
        if line.strip():
            yield f"{name}:{number}", line
