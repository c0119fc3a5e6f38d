"""Identifiers and texts speak the English of the field: docs/glossary.md, CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PRODUCT = Path(__file__).resolve().parents[2] / "opam_ci"
FILES = sorted(PRODUCT.rglob("*.py"))

REFUSED_NAMES = set(
    re.findall(
        r"\w+",
        "told tell tells said say says hear hears heard listened looks stands whoever asker asks "
        "came steers pace beneath jobrun phasebook supervise",
    )
)
"""Words of no identifier: the field has a noun for each, such as message, signal, query, result."""

REFUSED_TEXTS = {
    "'is no X': write 'is not a X', 'invalid X' or 'no such X'": r"(?<!here )\bis no (?!longer\b)",
    "'came to': write 'ended with'": r"\b(?:came|comes) to\b",
    "personification: name the message, the state or the request": (
        r"\b(?:GitHub|Temporal|opam|git|the (?:index|store|server|host|registry|workflow|worker))"
        r" (?:has no word|says so|knows no|tells|hears|asks for nothing|has trouble)\b"
    ),
    "'told', 'said': name the message": r"\b(?:was|were|is|are) (?:told|said)\b",
    "'trouble': name what failed": r"\btrouble\b",
    "'nobody', 'whoever': name who, or use the passive": r"\b(?:nobody|whoever)\b",
}
"""What no text for users has, by what to write instead."""


def parts(name: str) -> set[str]:
    """Splits an identifier into its words."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)}


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield node.lineno, name
            case ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the texts of a module that are no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield node.lineno, text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PRODUCT)))
def test_names_are_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = {
        f"{path.name}:{line} {name}"
        for line, name in identifiers(tree)
        if parts(name) & REFUSED_NAMES
    }
    assert not found
    assert not parts(path.stem) & REFUSED_NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PRODUCT)))
def test_texts_are_of_the_field(path: Path) -> None:
    found = [
        f"{path.name}:{line} {text!r}: {advice}"
        for line, text in texts(ast.parse(path.read_text()))
        for advice, pattern in REFUSED_TEXTS.items()
        if re.search(pattern, text)
    ]
    assert not found


def test_what_is_refused_is_noticed() -> None:
    tree = ast.parse("def told(said):\n    heard_by = f'{said} is no commit'\n")
    assert {name for _, name in identifiers(tree) if parts(name) & REFUSED_NAMES} == {
        "told",
        "said",
        "heard_by",
    }
    (text,) = (text for _, text in texts(tree))
    assert any(re.search(pattern, text) for pattern in REFUSED_TEXTS.values())
