"""`opam-ci classify`: whose fault a failure was, by its log, and why."""

import json
import sys
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer
from pydantic import BaseModel, ConfigDict

from opam_ci.cli.developer.classify_replay import attempt_filter, replay_attempts
from opam_ci.cli.developer.wrong_verdicts import replay_reports
from opam_ci.cli.output.json_lines import BatchLine, print_line, read_lines
from opam_ci.cli.output.tables import print_text
from opam_ci.clients.index import AttemptFilter
from opam_ci.core.classify import TextVerdict, classify_text, cut, every_rule
from opam_ci.core.classify.rules_page import rules_markdown
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import Standing

LOG_HEAD: Final = 1 << 20
LOG_TAIL: Final = 3 << 20
"""Bytes of a log that are read, from its start and its end; what lies between is skipped."""

_USAGE_EXIT: Final = 2
_RESULT_KEYS: Final = frozenset({"outcome", "reason", "cause", "rule", "evidence", "error"})


class LogText(BaseModel):
    """A line of the batch.

    Attributes:
        text: The log.
        exit_code: Of the command that wrote it.
        phase: Of the job that it comes from.
    """

    model_config = ConfigDict(extra="ignore")

    text: str
    exit_code: int | None = None
    phase: Phase | None = None


def classify(
    log: Annotated[
        str | None, typer.Argument(metavar="LOG", help="A log file, or - for standard input.")
    ] = None,
    exit_code: Annotated[
        int | None, typer.Option(help="Exit code of the command that wrote the log.")
    ] = None,
    phase: Annotated[
        Phase | None, typer.Option(help="Phase of the job that the log comes from.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Classify JSON lines (text, optional exit_code and phase; .gz too; - for standard "
            "input) and print each with its verdict.",
        ),
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules.")] = False,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay", help="Classify stored attempts again and list verdicts that change."
        ),
    ] = False,
    platform: Annotated[str | None, typer.Option(help="With --replay: only this one.")] = None,
    outcome: Annotated[
        Standing | None, typer.Option(help="With --replay: only attempts with this outcome.")
    ] = None,
    cause: Annotated[
        Cause | None, typer.Option(help="With --replay: only faults with this cause.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="With --replay: only attempts begun since then: 90m, 24h, 7d, a date."),
    ] = None,
    wrong_verdicts: Annotated[
        bool,
        typer.Option(
            "--wrong-verdicts",
            help="With --replay: attempts whose verdicts maintainers reported as wrong.",
        ),
    ] = False,
    fail_on_flip: Annotated[
        bool,
        typer.Option(
            help="With --replay: exit code 1 if a verdict changes, or is still reported as wrong."
        ),
    ] = False,
) -> None:
    """Classify a log: a broken package or a broken CI, by which rule and which lines.

    A log alone never proves success. Exit codes: 0 done, 1 a verdict changes (--fail-on-flip),
    2 usage or unreadable input, 3 the store or the index cannot be read.
    """
    if sum((log is not None, batch is not None, rules, replay)) != 1:
        raise UsageError(
            "give one of: a LOG file (- for standard input), --batch FILE, --rules, --replay"
        )
    if replay:
        _replay(
            attempt_filter(outcome=outcome, cause=cause, since=since),
            platform=platform,
            reports=wrong_verdicts,
            as_json=as_json,
            fail_on_flip=fail_on_flip,
        )
        return
    narrowed = (platform, outcome, cause, since) != (None, None, None, None)
    if wrong_verdicts or fail_on_flip or narrowed:
        raise UsageError(
            "--platform, --outcome, --cause, --since, --wrong-verdicts and --fail-on-flip need "
            "--replay"
        )
    if (batch is not None or rules) and (exit_code is not None or phase is not None):
        raise UsageError("--exit-code and --phase need a LOG; --batch has them in its lines")
    if rules:
        _print_rules(as_json=as_json)
    elif batch is not None:
        if not classify_lines(batch, as_json=as_json):
            raise typer.Exit(_USAGE_EXIT)
    elif log is not None:
        _explain(log, exit_code=exit_code, phase=phase, as_json=as_json)


def _replay(
    wanted: AttemptFilter, *, platform: str | None, reports: bool, as_json: bool, fail_on_flip: bool
) -> None:
    if not reports:
        flips = replay_attempts(wanted, platform=platform, as_json=as_json)
    elif wanted != AttemptFilter() or platform is not None:
        raise UsageError("--wrong-verdicts excludes --platform, --outcome, --cause and --since")
    else:
        flips = replay_reports(as_json=as_json)
    if flips and fail_on_flip:
        raise typer.Exit(1)


def _print_rules(*, as_json: bool) -> None:
    if as_json:
        for rule in every_rule():
            sys.stdout.write(f"{rule.model_dump_json(by_alias=True)}\n")
    else:
        sys.stdout.write(rules_markdown())


def _explain(log: str, *, exit_code: int | None, phase: Phase | None, as_json: bool) -> None:
    data, size = _read(log)
    text = cut(data, size=size, head=LOG_HEAD, tail=LOG_TAIL)
    verdict = classify_text(text, exit_code=exit_code, phase=phase)
    if as_json:
        sys.stdout.write(f"{json.dumps(_as_json(verdict))}\n")
        return
    print_text("\n".join(_explanation(verdict)))
    if size > LOG_HEAD + LOG_TAIL:
        kept = (LOG_HEAD + LOG_TAIL) >> 20
        sys.stdout.write(
            f"Only the first {LOG_HEAD >> 20} and last {LOG_TAIL >> 20} MiB of "
            f"{size} bytes were read; line numbers count within these {kept} MiB.\n"
        )


def _explanation(verdict: TextVerdict) -> list[str]:
    meaning = {
        "failed": "the package, or a dependency of it, is at fault",
        "errored": "the CI is at fault",
        "skipped": "the package cannot be installed here",
        "unknown": "the text does not show whose fault it is",
    }[verdict.outcome]
    lines = [
        f"{_label(verdict)}: {meaning}",
        f"rule: {verdict.rule}",
        f"why: {verdict.rationale}",
    ]
    if verdict.package:
        lines.append(f"package: {verdict.package}")
    lines += [
        f"line {number}: {line.text}"
        for number, line in zip(verdict.numbers, verdict.lines, strict=True)
    ]
    return lines


def _label(verdict: TextVerdict) -> str:
    detail = verdict.reason or verdict.cause
    return f"{verdict.outcome}({detail})" if detail else verdict.outcome


def _as_json(verdict: TextVerdict) -> dict[str, object]:
    lines = [
        {"number": number, "offset": line.offset, "text": line.text}
        for number, line in zip(verdict.numbers, verdict.lines, strict=True)
    ]
    shown = verdict.model_dump(mode="json", exclude={"lines", "numbers"}, exclude_none=True)
    return {**shown, "lines": lines}


def classify_lines(file: str, *, as_json: bool) -> bool:
    """Prints each line of a batch with its verdict.

    Args:
        file: JSON lines, possibly compressed with gzip; `-` for standard input.
        as_json: Print JSON lines; else one line of text for each.

    Returns:
        Whether every line could be classified.

    Raises:
        UsageError: The file cannot be read.
    """
    complete = True
    for line in read_lines(file, LogText):
        complete = complete and line.request is not None
        verdict = _classify_line(line.request) if line.request is not None else None
        if as_json:
            print_line(line.result(_RESULT_KEYS, **_result(line, verdict)))
        elif verdict is None:
            print_text(f"{line.error}")
        else:
            name = line.record.get("id", line.place)
            print_text(f"{name}: {_label(verdict)} by {verdict.rule}")
    return complete


def _classify_line(line: LogText) -> TextVerdict:
    text = line.text
    if len(text) > LOG_HEAD + LOG_TAIL:
        text = cut(text.encode("utf-8", "surrogatepass"), head=LOG_HEAD, tail=LOG_TAIL)
    return classify_text(text, exit_code=line.exit_code, phase=line.phase)


def _result(line: BatchLine[LogText], verdict: TextVerdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"error": line.error}
    named = verdict.model_dump(
        mode="json", include={"outcome", "reason", "cause", "rule"}, exclude_none=True
    )
    return {**named, "evidence": [found.text for found in verdict.lines]}


def _read(log: str) -> tuple[bytes, int]:
    """Returns the start and the end of a log, joined, and its whole size in bytes."""
    try:
        if log == "-":
            return _ends(sys.stdin.buffer)
        with Path(log).open("rb") as stream:
            return _ends(stream)
    except OSError as error:
        raise UsageError(f"{log} cannot be read: {error.strerror or error}") from error


def _ends(stream: IO[bytes]) -> tuple[bytes, int]:
    head = stream.read(LOG_HEAD)
    tail = bytearray()
    size = len(head)
    while chunk := stream.read(1 << 20):
        size += len(chunk)
        tail += chunk
        if len(tail) > 2 * LOG_TAIL:
            del tail[:-LOG_TAIL]
    return head + bytes(tail[-LOG_TAIL:]), size
