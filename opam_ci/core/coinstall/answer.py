"""The three queries of a listing, computed from one set of opam's dumps."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field

from opam_ci.core.coinstall import dependents, post, universe, worlds
from opam_ci.core.model import Frozen


@dataclass(frozen=True)
class Dumps:
    """The output of opam's commands in one state of its repository and switch.

    Attributes:
        universe: `opam config pef-universe`.
        universe_with_tests: The same with `OPAMWITHTEST=1`.
        post: The depends fields that name `post`, see `post.read_table`.
        invariant: `opam switch invariant`.
        variables: `opam var`.
    """

    universe: str
    universe_with_tests: str
    post: str
    invariant: str
    variables: str


class Answers(Frozen):
    """The packages that can be installed together with the package, by query; sorted.

    Attributes:
        direct: Those that depend on it, optionally too.
        recursive: Those that depend on it over any number of steps.
        testing: As `direct`, with the dependencies of tests.
        dependents: How many other names need the name of each of them directly, if any.
    """

    direct: tuple[str, ...] = ()
    recursive: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()
    dependents: dict[str, int] = Field(default_factory=dict)


def answer(
    package: str, dumps: Dumps, report: Callable[[str], None] = lambda _line: None
) -> Answers:
    """Run the three queries.

    Args:
        package: The package whose reverse dependencies are listed.
        dumps: opam's output.
        report: Receives lines about progress.

    Raises:
        DumpError: The output is malformed, or opam does not have the package.
        UnprovenError: The result cannot be proved to be opam's.
    """
    table = post.read_table(dumps.post)
    variables = post.read_variables(dumps.variables)
    counts: dict[str, int] = {}

    def query(
        dump: str, *, with_test: bool, candidates: tuple[Callable[..., frozenset[int]], ...]
    ) -> list[tuple[str, ...]]:
        packages, atoms = universe.parse(dump)
        place = packages.index.get(package)
        if place is None:
            raise universe.DumpError(f"opam does not have {package}")
        questions = [find(packages, place) - {place} for find in candidates]
        if not any(questions):
            return [() for _ in questions]
        evaluated = post.evaluate(packages, atoms, table, variables, with_test=with_test)
        depends = list(packages.depends)
        for other, clauses in evaluated.depends.items():
            depends[other] = clauses
        problem = worlds.Problem(
            universe=packages,
            depends=depends,
            uncertain=evaluated.uncertain,
            package=place,
            invariant=post.read_invariant(atoms, dumps.invariant),
            questions=questions,
        )
        found = worlds.coinstallable(problem, report)
        # Those of both universes, since some packages are found for their tests alone.
        needed = dependents.counts(packages)
        for name in {packages.packages[place][0] for some in found for place in some}:
            counts[name] = max(counts.get(name, 0), needed.get(name, 0))
        return [tuple(sorted(map(packages.name, some))) for some in found]

    direct, recursive = query(
        dumps.universe, with_test=False, candidates=(dependents.direct, dependents.recursive)
    )
    (testing,) = query(dumps.universe_with_tests, with_test=True, candidates=(dependents.direct,))
    return Answers(
        direct=direct,
        recursive=recursive,
        testing=testing,
        dependents={name: number for name, number in sorted(counts.items()) if number},
    )
