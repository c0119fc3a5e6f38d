"""Each command that the documents show is one that `opam-ci` understands."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from opam_ci.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
SCRIPT = {"test": "tests", "lock": ""}
"""Commands of the script itself, which need no package: tools/."""

BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```$|((?:^    \S.*\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:\./)?opam-ci (.*)$", re.MULTILINE)
INLINE = re.compile(r"`(?:\./)?opam-ci (\w[^`]*)`")


def commands() -> list[tuple[str, str, bool]]:
    """Returns document, command line, and whether it is shown to be run as it is."""
    found = []
    for path in DOCUMENTS:
        text = path.read_text()
        for block in BLOCK.finditer(text):
            lines = (block[1] or block[2]).replace("\\\n", " ")
            found += [(path.name, each, True) for each in COMMAND.findall(lines)]
        prose = " ".join(BLOCK.sub("", text).split())
        found += [(path.name, each, False) for each in INLINE.findall(prose)]
    return list(dict.fromkeys(found))


COMMANDS = commands()
PROGRAM = typer.main.get_command(app)


def words_of(line: str) -> list[str]:
    """Splits a line as a shell does, up to a remark, a pipe or a redirection."""
    words = shlex.split(line, comments=True)
    end = next((at for at, word in enumerate(words) if word in {"|", ">", "&&", ";"}), len(words))
    return [word for word in words[:end] if word not in {"…", "..."}]


def understood(words: list[str], *, whole: bool) -> None:
    """Parses a command line without running it."""
    command: Any = PROGRAM
    context = typer.Context(command, info_name="opam-ci")
    rest = words
    while hasattr(command, "resolve_command"):
        if not rest or rest[0].startswith("-"):
            return
        _, command, rest = command.resolve_command(context, rest)
        context = typer.Context(command, parent=context, info_name=words[0])
    try:
        # Prose may name an option without its value.
        is_bare = not whole and ends_in_an_option(command, rest)
        command.parse_args(context, [*rest, "1"] if is_bare else list(rest))
    except typer.BadParameter:
        # Prose has placeholders such as NUMBER, and leaves out what must be given.
        if whole:
            raise


def ends_in_an_option(command: Any, rest: list[str]) -> bool:
    options = {
        name for each in command.params for name in each.opts if not getattr(each, "is_flag", True)
    }
    return bool(rest) and rest[-1] in options


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 60
    assert {name for name, _, whole in COMMANDS if whole} >= {"README.md", "github.md", "lint.md"}


@pytest.mark.parametrize(("document", "line", "whole"), COMMANDS)
def test_a_command_of_the_documents_is_understood(document: str, line: str, whole: bool) -> None:
    del document  # names the case
    words = words_of(line)
    if words[0] in SCRIPT:
        assert all((ROOT / word).exists() for word in words[1:] if word.startswith("tests/"))
        return
    understood(words, whole=whole)


@pytest.mark.parametrize("line", ["chek", "jobs --iz errored", "jobs --is"])
def test_a_command_that_there_is_not_is_noticed(line: str) -> None:
    with pytest.raises(typer.TyperException):
        understood(line.split(), whole=True)
