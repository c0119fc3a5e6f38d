"""ARCHITECTURE.md, CONTRIBUTING.md and the threat model name what there is in the code."""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from temporalio import activity, workflow

import opam_ci.activities
from opam_ci.worker import WORKFLOWS

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
THREAT_MODEL = (ROOT / "docs" / "threat-model.md").read_text()

DIAGRAMS = re.findall(r"^```mermaid\n(.*?)^```$", ARCHITECTURE, re.MULTILINE | re.DOTALL)
OUTSIDE = {"GitHub", "job index", "operator"}
"""Participants that no file of ours stands for."""

PARTICIPANT = re.compile(r"(?:participant|actor) (?P<id>\w+) as (?P<name>.+)")
ARROW = re.compile(r"(?P<from>\w+)--?>>(?P<to>\w+): (?P<text>\S.*)")
NOTE = re.compile(r"Note over (?P<ids>\w+(?:,\w+)*): \S.*")
BLOCK = re.compile(r"(?P<word>loop|opt|alt) \S.*")
MESSAGE = re.compile(
    # `signal a, b or c`, but not the words of a remark after a comma.
    r"\b(?P<kind>activity|signal|query|update) "
    r"(?P<names>[a-z_]+(?:(?:, | or )[a-z_]+(?=,| or |$))*)"
)


def activities() -> dict[str, set[str]]:
    """The names of activities as Temporal knows them, by class."""
    found = {}
    for module in pkgutil.iter_modules(opam_ci.activities.__path__, "opam_ci.activities."):
        for name, owner in inspect.getmembers(import_module(module.name), inspect.isclass):
            functions = inspect.getmembers(owner, inspect.isfunction)
            defined = [activity._Definition.from_callable(each) for _, each in functions]
            if names := {each.name for each in defined if each is not None and each.name}:
                found[name] = names
    return found


def handlers() -> dict[str, dict[str, set[str]]]:
    """The names of signals, queries and updates, by workflow."""
    found = {}
    for owner in WORKFLOWS:
        defined = workflow._Definition.must_from_class(owner)
        found[owner.__name__] = {
            "signal": {name for name in defined.signals if name},
            "query": {name for name in defined.queries if name},
            "update": {name for name in defined.updates if name},
        }
    return found


ACTIVITIES, HANDLERS = activities(), handlers()


def there_is(name: str) -> bool:
    """Whether a file or folder is there, named from the root, from `opam_ci/` or from `docs/`."""
    return any((ROOT / folder / name).exists() for folder in ("", "opam_ci", "docs"))


def participants(diagram: str) -> dict[str, str]:
    """Names by id, in the order of their columns."""
    return {found["id"]: found["name"] for found in PARTICIPANT.finditer(diagram)}


def messages(diagram: str) -> Iterator[tuple[str, str, str, str]]:
    """Sender, receiver, kind and name of each message that Temporal carries."""
    names = participants(diagram)
    for arrow in ARROW.finditer(diagram):
        for found in MESSAGE.finditer(arrow["text"]):
            for name in re.split(", | or ", found["names"]):
                yield names[arrow["from"]], names[arrow["to"]], found["kind"], name


def test_there_is_a_diagram_for_each_story() -> None:
    carried = [{name for *_, name in messages(diagram)} for diagram in DIAGRAMS]
    stories = (
        {"take_jobs", "run_job", "attempt_faulted", "record"},
        {"recount", "look_at_incident", "resolve_incident", "restart", "restart_jobs"},
        {"head_changed", "analyse", "plan_jobs", "platform_progress", "github_post"},
        {"github_post", "to_post", "github_look"},
    )
    assert [story <= names for story, names in zip(stories, carried, strict=True)] == [True] * 4


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_a_diagram_is_well_formed(diagram: str) -> None:
    first, *lines = diagram.splitlines()
    assert first == "sequenceDiagram"
    known: set[str] = set()
    used: set[str] = set()
    opened: list[str] = []
    for line in map(str.strip, lines):
        # Mermaid ends a statement at the one and begins an entity at the other.
        assert not set(line) & set(";#"), line
        if found := PARTICIPANT.fullmatch(line):
            assert not used, f"{line!r} comes after the first arrow"
            known.add(found["id"])
        elif found := ARROW.fullmatch(line):
            used |= {found["from"], found["to"]}
        elif found := NOTE.fullmatch(line):
            used |= set(found["ids"].split(","))
        elif found := BLOCK.fullmatch(line):
            opened.append(found["word"])
        elif line.startswith("else "):
            assert opened[-1] == "alt", line
        else:
            assert line == "end", line
            opened.pop()
    assert not opened
    assert used == known


@pytest.mark.parametrize("diagram", DIAGRAMS)
def test_a_diagram_names_what_there_is(diagram: str) -> None:
    for name in participants(diagram).values():
        assert name in HANDLERS or name in ACTIVITIES or name in OUTSIDE or there_is(name), name
    carried = list(messages(diagram))
    assert carried
    for sender, receiver, kind, name in carried:
        if kind == "activity":
            assert sender in HANDLERS, (sender, name)
            assert name in ACTIVITIES[receiver], (receiver, name)
        else:
            assert name in HANDLERS[receiver][kind], (receiver, kind, name)
    for started in re.findall(r"\bstart (\w+Workflow)\b", diagram):
        assert started in HANDLERS


@pytest.mark.parametrize(
    "text",
    [ARCHITECTURE, CONTRIBUTING, THREAT_MODEL],
    ids=["architecture", "contributing", "threat model"],
)
def test_a_document_names_files_that_there_are(text: str) -> None:
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]*)+|[\w-]+\.(?:py|md|toml))`", text))
    named |= set(re.findall(r"\]\(([\w./-]+)", text))
    assert len(named) > 5
    assert [name for name in sorted(named) if not there_is(name)] == []


def test_the_threat_model_answers_each_finding_by_a_test_or_says_that_nothing_protects() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", THREAT_MODEL, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 27))
    for number, _, protects, not_protected in rows:
        assert re.search(r"`tests/[\w/]+\.py`", protects) or protects.startswith("nothing"), number
        assert not protects.startswith("nothing") or not_protected != "none", number


def test_texts_name_modules_that_there_are() -> None:
    """Decision records excepted: they say how things were."""
    folders = ("bench", "opam_ci", "tests", "tools")
    files = {str(file) for folder in folders for file in (ROOT / folder).rglob("*.py")}
    texts = [*ROOT.glob("opam_ci/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
    gone = [
        (text.name, name)
        for text in texts
        for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text.read_text())
        if not any(file.endswith(f"/{name}") for file in files)
    ]
    assert gone == []


def test_five_questions_lead_to_a_file_in_three_steps() -> None:
    sections = dict(
        re.findall(r"^#+ ([^\n]+)\n(.*?)(?=^#+ |\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    )
    assert "](ARCHITECTURE.md)" in (ROOT / "README.md").read_text()
    rows = re.findall(
        r"^\| ([^|]+\?) \| ([^|]+) \| `([^|]+)` \| `(\w+)`", CONTRIBUTING, re.MULTILINE
    )
    assert len(rows) == 5
    for question, section, file, name in rows:
        assert f"`{file.removeprefix('opam_ci/')}`" in sections[section], question
        assert re.search(rf"^(def )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), question
