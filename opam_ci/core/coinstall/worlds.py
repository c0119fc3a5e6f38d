"""Which packages can be installed together with another one, and with a switch's invariant.

`OpamSolver.coinstallable_subset` of opam 2.3 runs Dose for each package alone. Here one SAT solver
that learns decides about all: a variable means that a package is installed. Each model is a world,
and a world proves more packages installable than it contains: those whose dependencies are in it
and that conflict with nothing that these need. So some hundred models decide thousands of packages.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from pysat.solvers import Cadical153

from opam_ci.core.coinstall.universe import Clauses, Universe

_REPORT_EVERY = 200
_TOGETHER = 40
"""Candidates that are assumed for one world. For csexp.1.5.2 40 took 6 s, 1 took 17 s, 120 10 s."""


class UnprovenError(Exception):
    """The result depends on a package whose dependencies are uncertain."""


@dataclass(frozen=True)
class Problem:
    """The input of the decision.

    Attributes:
        universe: All packages.
        depends: Dependencies of each, with those that are marked `{post}`.
        uncertain: Packages whose dependencies are uncertain.
        package: Must be in every world; None if the invariant alone is asked for.
        invariant: Must be satisfied in every world.
        questions: Sets of candidates. As in opam, candidates that are not available can be
            dependencies of the others of their set, and are not in the result.
    """

    universe: Universe
    depends: Sequence[Clauses]
    uncertain: frozenset[int]
    package: int | None
    invariant: Clauses
    questions: Sequence[frozenset[int]]


def coinstallable(
    problem: Problem, report: Callable[[str], None] = lambda _line: None
) -> list[frozenset[int]]:
    """Decide which candidates can be installed.

    Args:
        problem: The input.
        report: Receives lines about progress.

    Returns:
        For each question the candidates that can be installed.

    Raises:
        UnprovenError: An uncertain package could be part of a world.
    """
    return _Decision(problem, report).run()


class _Decision:
    """One problem as clauses; packages are identified by the number of their variable.

    Attributes:
        needs: Dependencies of each package: of each set, one.
        conflicts: Conflicts of each package, apart from its other versions.
        names: The name of each package.
    """

    def __init__(self, problem: Problem, report: Callable[[str], None]) -> None:
        self._problem = problem
        self._report = report
        universe = problem.universe
        # opam makes what is installed and not available depend on nothing that exists.
        broken = universe.installed - universe.available
        self._asked = frozenset().union(*problem.questions)
        self._wanted = frozenset() if problem.package is None else frozenset({problem.package})
        usable = (universe.available | self._asked | self._wanted) - broken
        cone = self._cone(usable)
        # The solver decides low variables first: these are the newest versions.
        age = {
            place: rank
            for places in universe.versions.values()
            for rank, place in enumerate(reversed(places))
        }
        self._places = sorted(cone, key=lambda place: (age[place], place))
        self._variable = {place: n for n, place in enumerate(self._places, start=1)}
        self._top = len(self._places)
        self._solver = Cadical153()
        self._sets: dict[int, frozenset[int]] = {}
        self._choices: dict[int, list[int]] = {}
        self.needs: dict[int, list[frozenset[int]]] = {}
        self.conflicts: dict[int, set[int]] = {}
        self.names = ["", *(universe.packages[place][0] for place in self._places)]

    def _cone(self, usable: frozenset[int]) -> set[int]:
        """Find all packages that could matter: those that the candidates could depend on."""
        problem = self._problem
        todo = [*self._wanted, *self._asked]
        todo += [p for clause in problem.invariant for _, places in clause for p in places]
        cone: set[int] = set()
        seen: set[int] = set()
        while todo:
            place = todo.pop()
            if place in cone or place not in usable:
                continue
            cone.add(place)
            for clause in problem.depends[place]:
                for _, places in clause:
                    if id(places) not in seen:
                        seen.add(id(places))
                        todo += places
        return cone

    def run(self) -> list[frozenset[int]]:
        """Decide all questions."""
        with self._solver:
            return self._run()

    def _run(self) -> list[frozenset[int]]:
        problem = self._problem
        if not self._wanted <= self._variable.keys():
            return [frozenset() for _ in problem.questions]
        self._state()
        self._check_uncertain()
        available = problem.universe.available
        hidden = [self._variable[p] for p in self._asked - available if p in self._variable]
        plain = self._selector(hidden)
        candidates = self._asked & available & self._variable.keys()
        targets = sorted(self._variable[place] for place in candidates)
        self._report(f"{len(self._places)} packages matter, {len(targets)} are candidates")
        proved, refuted = self._decide(targets, plain)
        found = []
        for question in problem.questions:
            mine = {self._variable[place] for place in question & candidates}
            yes = proved & mine
            if hidden:
                selector = self._selector([v for v in hidden if self._place(v) not in question])
                yes |= {
                    v
                    for v in sorted(refuted & mine)
                    if self._solver.propagate(assumptions=[*selector, v])[0]
                    and self._solver.solve(assumptions=[*selector, v])
                }
            found.append(frozenset(map(self._place, yes)))
        return found

    def _place(self, variable: int) -> int:
        return self._places[variable - 1]

    def _state(self) -> None:
        """Add the clauses of the problem to the solver."""
        self._state_needs()
        self._state_conflicts()
        for clause in self._problem.invariant:
            self._solver.add_clause(self._literals(clause))
        for place in self._wanted:
            self._solver.add_clause([self._variable[place]])

    def _state_needs(self) -> None:
        problem = self._problem
        for place, variable in self._variable.items():
            if place in problem.uncertain:
                continue
            needs = []
            for clause in problem.depends[place]:
                self._solver.add_clause([-variable, *self._literals(clause)])
                # A dependency that the package itself satisfies is none.
                if not any(place in places for _, places in clause):
                    needs.append(self._union(clause, problem.universe.packages[place][0]))
            self.needs[variable] = needs

    def _state_conflicts(self) -> None:
        universe = self._problem.universe
        for place, variable in self._variable.items():
            own = universe.packages[place][0]
            named = [each for clause in universe.conflicts[place] for each in clause]
            for name, places in named:
                if name != own:
                    for other in self._variables(places):
                        self._exclude(variable, other)
        for versions in universe.versions.values():
            mine = [self._variable[place] for place in versions if place in self._variable]
            for one, other in combinations(mine, 2):
                self._solver.add_clause([-one, -other])

    def _exclude(self, one: int, other: int) -> None:
        self.conflicts.setdefault(one, set()).add(other)
        self.conflicts.setdefault(other, set()).add(one)
        self._solver.add_clause([-one, -other])

    def _literals(self, clause: Iterable[tuple[str, frozenset[int]]]) -> list[int]:
        """Return alternatives as literals; several versions are one variable of their own."""
        literals: list[int] = []
        for _, places in clause:
            found = self._choices.get(id(places))
            if found is None:
                mine = sorted(self._variables(places))
                found = mine
                if len(mine) > 1:
                    choice = self._new_variable()
                    self._solver.add_clause([-choice, *mine])
                    found = [choice]
                self._choices[id(places)] = found
            literals += found
        return literals

    def _union(self, clause: tuple[tuple[str, frozenset[int]], ...], own: str) -> frozenset[int]:
        """Collect the packages that satisfy a clause, without other versions of `own`."""
        parts = [self._variables(places) for _, places in clause]
        found = parts[0] if len(parts) == 1 else frozenset().union(*parts)
        if any(name == own for name, _ in clause):
            found = frozenset(v for v in found if self.names[v] != own)
        return found

    def _variables(self, places: frozenset[int]) -> frozenset[int]:
        found = self._sets.get(id(places))
        if found is None:
            found = frozenset(self._variable[p] for p in places if p in self._variable)
            self._sets[id(places)] = found
        return found

    def _new_variable(self) -> int:
        self._top += 1
        return self._top

    def _selector(self, hidden: Collection[int]) -> list[int]:
        """Make an assumption under which some packages are not installed."""
        if not hidden:
            return []
        selector = self._new_variable()
        for variable in hidden:
            self._solver.add_clause([-selector, -variable])
        return [selector]

    def _check_uncertain(self) -> None:
        for place in sorted(self._problem.uncertain & self._variable.keys()):
            possible, _ = self._solver.propagate(assumptions=[self._variable[place]])
            if possible:
                raise UnprovenError(
                    f"the dependencies of {self._problem.universe.name(place)} are uncertain"
                )

    def _decide(self, targets: Sequence[int], plain: list[int]) -> tuple[set[int], set[int]]:
        """Split candidates into those with a world, and those without."""
        solver = self._solver
        refuted: set[int] = set()
        rest = []
        for target in targets:
            possible, _ = solver.propagate(assumptions=[*plain, target])
            if possible:
                rest.append(target)
            else:
                refuted.add(target)
        # Worlds with many candidates prove many.
        solver.set_phases(rest)
        proved: set[int] = set()
        worlds = 0
        while rest:
            target = rest[0]
            if self._solve_with_many(plain, rest) or solver.solve(assumptions=[*plain, target]):
                worlds += 1
                model = solver.get_model() or []
                world = _World(
                    self, {literal for literal in model[: len(self._places)] if literal > 0}
                )
                left = world.leaves(rest)
                new = set(rest).difference(left)
                proved |= new
                # Prefer worlds without what is proved already.
                solver.set_phases([-v for v in new])
                rest = left
                if worlds % _REPORT_EVERY == 0:
                    self._report(f"{worlds} worlds, {len(proved)} proved, {len(rest)} left")
            else:
                refuted.add(target)
                rest.pop(0)
        self._report(f"{worlds} worlds: {len(proved)} proved, {len(refuted)} refuted")
        return proved, refuted

    def _solve_with_many(self, plain: list[int], rest: Sequence[int]) -> bool:
        """Search for a world with the first candidate and as many of the next as seem to fit."""
        assumed = [*plain, rest[0]]
        for other in rest[1:_TOGETHER]:
            possible, _ = self._solver.propagate(assumptions=[*assumed, other])
            if possible:
                assumed.append(other)
        while len(assumed) > len(plain) + 1:
            if self._solver.solve(assumptions=assumed):
                return True
            assumed = assumed[: len(plain) + (len(assumed) - len(plain)) // 2]
        return False

    def required(self) -> list[frozenset[int]]:
        """Of each of these sets, one must be in every world."""
        wanted = [frozenset({self._variable[place]}) for place in self._wanted]
        return [*wanted, *(self._union(clause, "") for clause in self._problem.invariant)]


class _World:
    """A set of packages that can be installed together."""

    def __init__(self, decision: _Decision, members: set[int]) -> None:
        self._decision = decision
        self._members = members
        self._by_name: dict[str, int] | None = None
        self._closures: dict[int, set[int]] = {}
        self._base: set[int] | None = None

    def leaves(self, candidates: Sequence[int]) -> list[int]:
        """Return the candidates that this world does not prove installable."""
        members, needs = self._members, self._decision.needs
        left = []
        for candidate in candidates:
            if candidate in members:
                continue
            for place, need in enumerate(needs[candidate]):
                if need.isdisjoint(members):
                    if place:
                        # Most likely missing in the next world, too.
                        needs[candidate].insert(0, needs[candidate].pop(place))
                    left.append(candidate)
                    break
            else:
                if not self._can_join(candidate):
                    left.append(candidate)
        return left

    def _can_join(self, package: int) -> bool:
        """Whether a package can join this world, or the part of it that the package needs."""
        conflicts = self._decision.conflicts.get(package, set())
        if self._by_name is None:
            self._by_name = {self._decision.names[v]: v for v in self._members}
        same = self._by_name.get(self._decision.names[package])
        if same is None and conflicts.isdisjoint(self._members):
            return True
        kept = set(self._kept())
        for need in self._decision.needs[package]:
            if need.isdisjoint(kept):
                kept |= self._closure(min(need & self._members))
        return conflicts.isdisjoint(kept) and same not in kept

    def _kept(self) -> set[int]:
        if self._base is None:
            self._base = set()
            for need in self._decision.required():
                self._base |= self._closure(min(need & self._members))
        return self._base

    def _closure(self, package: int) -> set[int]:
        """Collect a part of the world that contains the package and all its dependencies."""
        found = self._closures.get(package)
        if found is None:
            found = {package}
            todo = [package]
            while todo:
                for need in self._decision.needs[todo.pop()]:
                    if need.isdisjoint(found):
                        chosen = min(need & self._members)
                        found.add(chosen)
                        todo.append(chosen)
            self._closures[package] = found
        return found
