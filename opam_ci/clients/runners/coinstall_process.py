"""The process that answers a listing's queries: `python -m … PACKAGE DIRECTORY`.

A process of its own, since it computes for seconds on what packages wrote: it has a bound on
its memory, can be killed, and leaves the worker's event loop alone. The directory has what
opam said, a file a field of `Said`; the answer goes to `answer` there.
"""

import gc
import resource
import sys
from dataclasses import fields
from enum import IntEnum
from pathlib import Path

from opam_ci.core.coinstall.answer import Said, answer
from opam_ci.core.coinstall.universe import DumpError
from opam_ci.core.coinstall.worlds import UnprovenError

ANSWER = "answer"
MEMORY_LIMIT = 4 << 30
"""Bytes of address space; the real repository takes some 350 MB."""


class ExitCode(IntEnum):
    """How the process ends."""

    ANSWERED = 0
    UNPROVEN = 3
    NONSENSE = 4
    OUT_OF_MEMORY = 5


def _say(line: str) -> None:
    print(f"[opam-ci] {line}", flush=True)  # noqa: T201 - the way to the job's log


def main(package: str, directory: Path) -> ExitCode:
    """Answers."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    # Nearly all that is made here lives to the end.
    gc.disable()
    try:
        said = Said(
            **{
                field.name: (directory / field.name).read_text("utf-8", errors="replace")
                for field in fields(Said)
            }
        )
        answers = answer(package, said, _say)
        (directory / ANSWER).write_text(answers.model_dump_json(), "utf-8")
    except UnprovenError as error:
        _say(str(error))
        return ExitCode.UNPROVEN
    except DumpError as error:
        _say(str(error))
        return ExitCode.NONSENSE
    except MemoryError:
        _say("there is not enough memory for the answer")
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.ANSWERED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
