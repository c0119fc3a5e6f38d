"""The three queries of a listing, answered from what opam says about its packages once."""

from collections.abc import Callable
from dataclasses import dataclass

from opam_ci.core.coinstall import dependents, post, universe, worlds
from opam_ci.core.model import Frozen


@dataclass(frozen=True)
class Said:
    """What opam printed in one state.

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
    """What can be installed together with the package, by query; sorted.

    Attributes:
        direct: Depends on it, or can make use of it.
        recursive: Depends on it over any number of steps.
        testing: As `direct`, where tests count.
    """

    direct: tuple[str, ...] = ()
    recursive: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()


def answer(package: str, said: Said, report: Callable[[str], None] = lambda _line: None) -> Answers:
    """Answers the three queries.

    Args:
        package: Whose reverse dependencies.
        said: What opam said.
        report: Receives lines about progress.

    Raises:
        DumpError: opam said nonsense, or does not have the package.
        UnprovenError: The answer cannot be shown to be opam's.
    """
    table = post.read_table(said.post)
    variables = post.read_variables(said.variables)

    def ask(
        dump: str, *, with_test: bool, queries: tuple[Callable[..., frozenset[int]], ...]
    ) -> list[tuple[str, ...]]:
        packages, atoms = universe.parse(dump)
        place = packages.index.get(package)
        if place is None:
            raise universe.DumpError(f"opam does not have {package}")
        questions = [query(packages, place) - {place} for query in queries]
        if not any(questions):
            return [() for _ in questions]
        known = post.evaluate(packages, atoms, table, variables, with_test=with_test)
        depends = list(packages.depends)
        for other, clauses in known.depends.items():
            depends[other] = clauses
        problem = worlds.Problem(
            universe=packages,
            depends=depends,
            uncertain=known.uncertain,
            package=place,
            invariant=post.read_invariant(atoms, said.invariant),
            questions=questions,
        )
        found = worlds.coinstallable(problem, report)
        return [tuple(sorted(map(packages.name, some))) for some in found]

    direct, recursive = ask(
        said.universe, with_test=False, queries=(dependents.direct, dependents.recursive)
    )
    (testing,) = ask(said.universe_with_tests, with_test=True, queries=(dependents.direct,))
    return Answers(direct=direct, recursive=recursive, testing=testing)
