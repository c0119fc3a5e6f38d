"""Dependencies marked `{post}`: opam's solver respects them, its dump lacks them.

They are parsed from the `depends` fields that name `post`, as `opam list --columns` prints them,
and evaluated here. If our evaluation cannot be proved to be opam's, the package is `uncertain`:
the result without `{post}` differs from the dump, or a variable is unknown.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from opam_ci.core.coinstall.evaluation import Evaluation, UncertainError, Variables
from opam_ci.core.coinstall.universe import Alternative, Atoms, Clause, Clauses, DumpError, Universe
from opam_ci.core.opam import file
from opam_ci.core.opam.conditions import package_formula
from opam_ci.core.opam.errors import OpamSyntaxError
from opam_ci.core.opam.formula import And, Formula
from opam_ci.core.opam.readers import BadFormat, Unexpected
from opam_ci.core.opam.values import span_of

SEPARATOR: Final = "|||"
_SIMPLE: Final = ("arch", "os", "opam-version", "sys-ocaml-")
"""Prefixes of the names of variables whose value is a single word."""

_FORMULA: Final = package_formula(And)


@dataclass(frozen=True)
class PostDepends:
    """Depends fields with the dependencies that are marked `{post}`.

    Attributes:
        depends: By place; packages without `{post}` are missing.
        uncertain: Packages whose field cannot be evaluated.
    """

    depends: Mapping[int, Clauses]
    uncertain: frozenset[int]


def read_table(table: str) -> dict[str, str]:
    """Parse the printed fields: `package   |||field`, after comments.

    Raises:
        DumpError: A line has another form.
    """
    fields = {}
    for line in table.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        package, separator, field = line.partition(SEPARATOR)
        if not separator:
            raise DumpError(f"not a line of a table: {line[:80]!r}")
        fields[package.strip()] = field
    return fields


def evaluate(
    universe: Universe,
    atoms: Atoms,
    table: Mapping[str, str],
    variables: Variables,
    *,
    with_test: bool,
) -> PostDepends:
    """Evaluate the depends fields of a table."""
    depends = {}
    uncertain = set()
    for package, field in table.items():
        place = universe.index.get(package)
        if place is None:
            continue
        evaluation = Evaluation(atoms, variables, universe.packages[place], with_test=with_test)
        try:
            formula = _read(field)
            depends[place] = _agreed(evaluation, formula, universe.depends[place])
        except UncertainError:
            uncertain.add(place)
    return PostDepends(depends, frozenset(uncertain))


def as_sets(clauses: Collection[Clause]) -> set[frozenset[Alternative]]:
    """Convert clauses to a form in which order and repetition do not matter."""
    found = set()
    for clause in clauses:
        by_name: dict[str, frozenset[int]] = {}
        for name, places in clause:
            by_name[name] = by_name.get(name, frozenset()) | places
        found.add(frozenset(by_name.items()))
    return found


@lru_cache(maxsize=1024)  # the versions of a compiler have the same field
def _read(field: str) -> Formula:
    try:
        value = file.parse(f"depends: {field}\n".encode()).value("depends")
        if value is None:
            raise UncertainError
        formula: Formula = _FORMULA.read(value, span_of(value))
    except (OpamSyntaxError, BadFormat, Unexpected, RecursionError) as error:
        raise UncertainError from error
    return formula


def read_invariant(atoms: Atoms, text: str) -> Clauses:
    """Parse a switch's invariant as `opam switch invariant` prints it.

    Raises:
        DumpError: It is malformed.
    """
    evaluation = Evaluation(atoms, Variables({}, frozenset()), ("", ""), with_test=False)
    try:
        return tuple(evaluation.clauses(_read(text.strip())))
    except UncertainError as error:
        raise DumpError(f"not an invariant of a switch: {text[:80]!r}") from error


def read_variables(listing: str) -> Variables:
    """Parse opam's variables as `opam var` lists them: name, value, and `#` comment."""
    split = [line.split() for line in listing.splitlines() if not line.startswith("<")]
    named = [line for line in split if line and ":" not in line[0]]
    return Variables(
        values={
            line[0]: line[1]
            for line in named
            if line[0].startswith(_SIMPLE) and len(line) > 1 and line[1] != "#"
        },
        defined=frozenset(line[0] for line in named),
    )


def _agreed(evaluation: Evaluation[int], formula: Formula, dumped: Clauses) -> Clauses:
    """Return the conjunctive normal form with `{post}`, if ours without it is opam's."""
    # Only opam knows whether a package is a development version: try both.
    matching = [
        evaluation.depends(formula, post=True, dev=dev)
        for dev in (False, True)
        if as_sets(evaluation.depends(formula, post=False, dev=dev)) == as_sets(dumped)
    ]
    if not matching or any(as_sets(each) != as_sets(matching[0]) for each in matching):
        raise UncertainError
    return tuple(matching[0])
