"""The process that computes a listing's queries: `python -m … PACKAGE DIRECTORY`.

A process of its own, since it computes for seconds on input from packages: it has a bound on
its memory, can be killed, and does not block the worker's event loop. The directory has opam's
description, a file a field of `Dumps`; the result goes to `answer` there.
"""

import gc
import resource
import sys
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

from opam_ci.core.coinstall.answer import Dumps, answer
from opam_ci.core.coinstall.universe import DumpError
from opam_ci.core.coinstall.worlds import UnprovenError

ANSWER = "answer"
MEMORY_LIMIT = 4 << 30
"""Bytes of address space; the real repository takes some 350 MB."""


class ExitCode(IntEnum):
    """Exit codes of the process."""

    ANSWERED = 0
    UNPROVEN = 3
    INVALID = 4
    OUT_OF_MEMORY = 5


def _show(line: str) -> None:
    print(f"[opam-ci] {line}", flush=True)  # noqa: T201 - the way to the job's log


def main(package: str, directory: Path) -> ExitCode:
    """Computes the queries and writes their results."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    # Nearly all objects live to the end.
    gc.disable()
    try:
        described = Dumps(
            **{
                field.name: (directory / field.name).read_text("utf-8", errors="replace")
                for field in fields(Dumps)
            }
        )
        answers = answer(package, described, _show)
        (directory / ANSWER).write_text(answers.model_dump_json(), "utf-8")
    except UnprovenError as error:
        _show(str(error))
        return ExitCode.UNPROVEN
    except DumpError as error:
        _show(str(error))
        return ExitCode.INVALID
    except MemoryError:
        _show("not enough memory to compute reverse dependencies")
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.ANSWERED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
