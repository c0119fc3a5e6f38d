"""Finding the lower bounds that a package lacks, by builds with its oldest dependencies.

Pure: a search yields what is to be built next, and is sent what came of it.
"""

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Final

from pydantic import Field

from opam_ci.core.model import Frozen
from opam_ci.core.opam import version as versions

_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_+-]+")

MOST_BUILDS: Final = 40
"""Builds of one search, after which it ends without a result: one dependency of 16 takes up to
eight, a version of 128 up to seven."""


class Candidate(Frozen):
    """A dependency that may be at fault.

    Attributes:
        name: Its name.
        versions: Versions, the oldest first: from the one with which the package fails to the one
            with which it passes.
    """

    name: str
    versions: tuple[str, ...]


class Step(Frozen):
    """A build with some dependencies raised.

    Attributes:
        bounds: The least version of each.
        number: Of the build within its part of the search, from 1.
        at_most: How many builds that part takes at most; None if that is not known yet.
    """

    bounds: dict[str, str]
    number: int
    at_most: int | None = None


class Answer(Frozen):
    """What came of a build.

    Attributes:
        passes: Whether the package was built.
        installed: Versions of its dependencies, by name; empty if there was no solution.
    """

    passes: bool
    installed: dict[str, str] = Field(default_factory=dict)


Search = Generator[Step, Answer, dict[str, str] | None]
"""Returns the bounds with which the package passes, None if raising all candidates is no help."""


def candidates(
    direct: Iterable[str],
    oldest: Mapping[str, str],
    newest: Mapping[str, str],
    known: Mapping[str, Iterable[str]],
) -> tuple[Candidate, ...]:
    """Returns the dependencies that may be at fault: those that are older where it fails.

    Args:
        direct: Names of dependencies in the opam file.
        oldest: Versions in the solution with which the package fails.
        newest: Versions in the one with which it passes.
        known: All versions of each dependency.
    """
    found = []
    for name in dict.fromkeys(direct):
        low, high = oldest.get(name), newest.get(name)
        if low is None or high is None or versions.compare(low, high) >= 0:
            continue
        between = {
            each
            for each in known.get(name, ())
            if versions.compare(low, each) < 0 < versions.compare(high, each)
        }
        found.append(Candidate(name=name, versions=(low, *sorted(between, key=versions.key), high)))
    return tuple(found)


def likely_first(
    found: Sequence[Candidate], evidence: str, blame: str | None
) -> tuple[Candidate, ...]:
    """Returns candidates in the order in which they are tried.

    Args:
        found: The candidates.
        evidence: Lines that show the failure: who is mentioned there comes first.
        blame: The dependency that failed, before all others.
    """
    # A path of a log has the packages' names, and `lwt.unix` is a library of lwt.
    words = set(_NOT_A_NAME.split(evidence))
    return tuple(sorted(found, key=lambda each: (each.name != blame, each.name not in words)))


def search(found: Sequence[Candidate]) -> Search:
    """Searches the lower bounds that a package lacks.

    Args:
        found: Dependencies that may be at fault, the likely ones first.
    """
    at_fault = yield from _at_fault(found)
    if not at_fault:
        return None
    bounds = {each.name: each.versions[-1] for each in at_fault}
    for each in at_fault:
        # These bounds were tried, and passed, at any time: the next one is lowered from there.
        bounds[each.name] = yield from _bisect(each, bounds)
    return bounds


def _at_fault(
    found: Sequence[Candidate],
) -> Generator[Step, Answer, tuple[Candidate, ...]]:
    """Returns as few candidates as are to be raised together; none if all of them do not help.

    It raises the first one, the first two, four and so on until the package passes. The last one
    of the shortest such row is at fault; if it is not alone, so is one of those before it.
    """
    number = 0
    needed: list[Candidate] = []

    def raised(count: int) -> Generator[Step, Answer, bool]:
        nonlocal number
        number += 1
        chosen = (*found[:count], *needed)
        bounds = {each.name: each.versions[-1] for each in chosen}
        answer = yield Step(bounds=bounds, number=number)
        return answer.passes

    fails, passes = 0, 1
    while passes <= len(found) and not (yield from raised(passes)):
        fails = passes
        if passes == len(found):
            return ()
        passes = min(2 * passes, len(found))
    if not found:
        return ()
    while True:
        while passes - fails > 1:
            middle = (fails + passes) // 2
            if (yield from raised(middle)):
                passes = middle
            else:
                fails = middle
        needed.append(found[passes - 1])
        if passes == 1 or (yield from raised(0)):
            return tuple(reversed(needed))
        fails, passes = 0, passes - 1


def _bisect(candidate: Candidate, bounds: Mapping[str, str]) -> Generator[Step, Answer, str]:
    """Returns the oldest version of a candidate with which the package passes.

    Args:
        candidate: With the newest of its versions the package passes, and with the oldest not.
        bounds: Of all that are at fault.
    """
    known = candidate.versions
    fails, passes, best = 0, len(known) - 1, known[-1]
    number = 0
    while passes - fails > 1:
        number += 1
        middle = (fails + passes) // 2
        step = Step(
            bounds={**bounds, candidate.name: known[middle]},
            number=number,
            at_most=number - 1 + (passes - fails - 1).bit_length(),
        )
        answer = yield step
        # Of versions that cannot be installed here nothing is known: the next one was tried.
        installed = answer.installed.get(candidate.name)
        at = known.index(installed) if installed in known[middle:passes] else middle
        if answer.passes:
            passes, best = middle, known[at]
        else:
            fails = at
    return best
