"""The rules of the house that no linter knows: see ARCHITECTURE.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ROOT / "opam_ci"
MODULES = sorted(PRODUCT.rglob("*.py"))
TEMPORAL_ERRORS = {"ApplicationError", "ActivityError", "ChildWorkflowError"}


def names_used(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(names=names):
                yield from (alias.name for alias in names)
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Call(func=ast.Attribute(attr=name)):
                yield name


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_named_after_what_is_in_them(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}


def test_boundary_alone_makes_temporal_errors() -> None:
    makers = {
        path.relative_to(PRODUCT).as_posix()
        for path in MODULES
        if "ApplicationError" in names_used(path)
    }
    assert makers == {"activities/boundary.py"}


def test_options_alone_holds_timeouts_policies_and_priorities() -> None:
    for path in (PRODUCT / "workflows").glob("*.py"):
        if path.name not in {"options.py", "pause.py"}:
            used = set(names_used(path)) & {"timedelta", "RetryPolicy", "Priority"}
            assert not used, f"{path.name} uses {used}"


def test_workflow_code_replays_the_same() -> None:
    """What Temporal's sandbox would refuse; see WORKFLOW_RUNNER."""
    modules = {"os", "pathlib", "random", "secrets", "threading", "time", "uuid", "concurrent"}
    calls = {"datetime.now", "datetime.utcnow", "datetime.today", "open", "print", "input"}
    # Temporal has its own of these: asyncio's come back in the order of a set.
    calls |= {"asyncio.wait", "asyncio.as_completed"}
    # Its turns of the event loop differ between Python versions; see `pause.wait_for`.
    calls |= {"asyncio.wait_for"}
    for path in (PRODUCT / "workflows").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    used = {alias.name.partition(".")[0] for alias in names} & modules
                case ast.ImportFrom(module=str(module)):
                    used = {module.partition(".")[0]} & modules
                case ast.Call(func=func, keywords=[*_, ast.keyword(arg="timeout")]) if (
                    ast.unparse(func) == "workflow.wait_condition"
                ):
                    used = {"wait_condition with a timeout, which is asyncio.wait_for"}
                case ast.Call(func=func):
                    used = {ast.unparse(func)} & calls
                case _:
                    continue
            assert not used, f"{path.name}:{node.lineno} uses {used}"


def test_no_subprocess_goes_through_a_shell() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            shell = [word for word in call.keywords if word.arg == "shell"]
            assert not shell, f"{path.name}:{call.lineno} uses shell="
        assert "create_subprocess_shell" not in names_used(path), path.name
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"os.system", "os.popen"}, path.name


def test_threads_that_all_share_are_for_short_and_local_work() -> None:
    """What may wait for somebody else has threads of its own: `clients/threads.py`."""
    local = ("cli/", "clients/runners/", "health/watch.py", "metrics/server.py", "web/webhook.py")
    for path in MODULES:
        name = path.relative_to(PRODUCT).as_posix()
        if not name.startswith(local):
            assert "to_thread" not in names_used(path), f"{name} uses asyncio's own threads"


def test_docstrings_describe_what_a_class_has() -> None:
    for path in MODULES:
        classes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
        ]
        for each in classes:
            section = re.search(
                r"^Attributes:\n((?: {4}.*\n?|\n)+)", ast.get_docstring(each) or "", re.MULTILINE
            )
            described = set(
                re.findall(r"^ {4}(\w+): ", section[1], re.MULTILINE) if section else ()
            )
            has = set()
            for node in ast.walk(each):
                match node:
                    case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                        has.add(name)
            assert described <= has, f"{path.name}: {each.name} has no {sorted(described - has)}"


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python before 3.11.5, such as Debian 12's, matches `(?:…)*+` wrongly: cpython#106052.

    Atomic groups, `(?>(?:…)*)`, and possessive repetitions of one character are right there.
    """
    group = re.compile(r"\)(?:[*+?]|\{\d*,?\d*\})\+")
    files = [*MODULES, *PRODUCT.rglob("*.toml"), *(ROOT / "tools").glob("*.py")]
    assert [path.name for path in files if group.search(path.read_text())] == []
