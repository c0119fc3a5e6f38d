"""The batch form of `opam-ci classify`: JSON lines in, each with its verdict out."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from opam_ci.core.classify import TextVerdict, classify_text
from opam_ci.core.errors import UsageError
from opam_ci.core.job import Phase

_LINE_LIMIT = 64 << 20
"""Bytes of a line of input; a log of more than that is cut before it is put in a line."""

_ANSWERS = ("outcome", "reason", "cause", "rule", "evidence", "error")


class _Question(BaseModel):
    """What a line must have for us to judge it; all its other keys are passed through."""

    model_config = ConfigDict(extra="ignore")

    text: str
    exit_code: int | None = None
    phase: Phase | None = None


def classify_lines(file: str, *, as_json: bool) -> bool:
    """Judges each line of a file and prints it with its verdict.

    Args:
        file: JSON lines, possibly compressed with gzip; `-` for standard input.
        as_json: Print JSON lines; else one line of words for each.

    Returns:
        Whether every line could be judged.

    Raises:
        UsageError: The file cannot be read.
    """
    complete = True
    for place, raw in _lines(file):
        answer = _answer(place, raw)
        complete = complete and "error" not in answer
        sys.stdout.write(f"{json.dumps(answer) if as_json else _in_words(place, answer)}\n")
    return complete


def _answer(place: str, raw: bytes) -> dict[str, Any]:
    """Returns the line's keys and the verdict, or an `error` that names the line."""
    if len(raw) > _LINE_LIMIT:
        return {"error": f"{place}: longer than {_LINE_LIMIT >> 20} MiB"}
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return {"error": f"{place}: no JSON: {error}"}
    if not isinstance(record, dict):
        return {"error": f"{place}: no JSON object"}
    passed = {key: value for key, value in record.items() if key not in _ANSWERS}
    try:
        question = _Question.model_validate(record, strict=False)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        return {**passed, "error": f"{place}: {where}: {fault['msg']}"}
    verdict = classify_text(question.text, exit_code=question.exit_code, phase=question.phase)
    return {**passed, **_verdict(verdict)}


def _verdict(verdict: TextVerdict) -> dict[str, Any]:
    answer: dict[str, Any] = {"outcome": verdict.outcome}
    if verdict.reason:
        answer["reason"] = verdict.reason.value
    if verdict.cause:
        answer["cause"] = verdict.cause.value
    return {
        **answer,
        "rule": verdict.rule,
        "evidence": [line.text for line in verdict.lines],
    }


def _in_words(place: str, answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"])
    detail = answer.get("reason") or answer.get("cause")
    outcome = f"{answer['outcome']}({detail})" if detail else answer["outcome"]
    return f"{answer.get('id', place)}: {outcome} by {answer['rule']}"


def _lines(file: str) -> Iterator[tuple[str, bytes]]:
    shown = "<stdin>" if file == "-" else file
    try:
        with _open(file) as stream:
            number = 0
            while raw := stream.readline(_LINE_LIMIT + 1):
                number += 1
                if len(raw) > _LINE_LIMIT:
                    _skip_line(stream)
                if raw.strip():
                    yield f"{shown}:{number}", raw
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{shown} cannot be read: {reason}") from error


def _skip_line(stream: BufferedIOBase | IO[bytes]) -> None:
    """Reads to the end of a line that is too long."""
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def _open(file: str) -> BufferedIOBase | IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    path = Path(file)
    with path.open("rb") as start:
        zipped = start.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")
