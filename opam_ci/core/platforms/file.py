"""Reading the file that describes platforms and pools.

The file is TOML. One entry of `platforms` makes a platform for every combination of its lists,
so that a large matrix is a page long. All errors are reported at once, a line each.
"""

import re
import tomllib
from collections.abc import Iterable
from itertools import product

from pydantic import ValidationError

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms import model as known
from opam_ci.core.platforms.model import ARCHITECTURES, Platform, PlatformTable, Pool, Runner
from opam_ci.core.platforms.schema import (
    PlatformEntry,
    PlatformFile,
    entry_place,
    instead,
    one_line,
    problems,
)


class InvalidPlatformFile(UsageError):  # noqa: N818  it names the state of the file, not an event
    """A file of platforms is invalid.

    Attributes:
        problems: What is wrong, in one line each.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{self.problems[0]}{more}")


def parse_platforms(text: str) -> PlatformTable:
    """Parse a file of platforms and pools.

    Args:
        text: TOML.

    Raises:
        InvalidPlatformFile: With all errors in its keys and values; if there are none, with all
            errors in the platforms that they make.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides its own error, tomllib raises that of `int` about too many digits.
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidPlatformFile([f"not TOML: {one_line(reason)}"]) from None
    try:
        file = PlatformFile.model_validate(data)
    except ValidationError as error:
        raise InvalidPlatformFile(problems(data, error)) from None
    expansion = _Expansion(file)
    places = [entry_place(data, number) for number in range(len(file.platforms))]
    table = expansion.table(places)
    if expansion.problems:
        raise InvalidPlatformFile(expansion.problems)
    return table


class _Expansion:
    """The platforms that the entries of a file make.

    Attributes:
        problems: The errors in them, a line each.
    """

    def __init__(self, file: PlatformFile) -> None:
        self.problems: list[str] = []
        self._file = file
        self._pools = {
            name: Pool(
                name=name,
                runner=Runner(entry.runner or file.defaults.runner),
                **entry.model_dump(exclude={"runner"}),
            )
            for name, entry in file.pools.items()
        }

    def table(self, places: Iterable[str]) -> PlatformTable:
        """Return the platforms without problems.

        Args:
            places: The name of each entry in messages.
        """
        found: dict[str, tuple[str, Platform]] = {}
        for place, entry in zip(places, self._file.platforms, strict=True):
            for platform in self._platforms(place, entry):
                if (other := found.get(platform.name)) is not None:
                    before = "it" if other[0] == place else other[0]
                    self._add(place, f"duplicate platform {platform.name}: {before} has it already")
                else:
                    found[platform.name] = (place, platform)
        if not found and not self.problems:
            self.problems.append("no [[platforms]]: the file needs one at least")
        return PlatformTable(
            pools=tuple(self._pools.values()), platforms=tuple(one for _, one in found.values())
        )

    def _add(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {one_line(problem)}")

    def _platforms(self, place: str, entry: PlatformEntry) -> Iterable[Platform]:
        defaults = self._file.defaults
        for arch in entry.arch:
            pools = self._pools_for(place, entry, arch)
            runners = [pool.runner for pool in pools]
            if Runner.CONTAINER in runners and (entry.image or defaults.image) is None:
                self._add(place, "the container runner needs an image; set `image`")
                continue
            if pools and Runner.CONTAINER not in runners and entry.image is not None:
                self._add(place, f"the {runners[0]} runner has no images; remove `image`")
                continue
            for distribution, ocaml, variant, opam in product(
                entry.distribution,
                entry.ocaml,
                entry.variant or (None,),
                entry.opam or (defaults.opam,),
            ):
                choices = []
                for pool in pools:
                    # A root file system has the opam of its distribution.
                    is_own = pool.runner is Runner.ROOTFS and opam == "dev"
                    plain = Platform(
                        distribution=distribution,
                        ocaml=ocaml,
                        variant=variant,
                        arch=arch,
                        opam="system" if is_own else opam,
                        pool=pool.name,
                    )
                    if (found := self._platform(place, entry, plain, pool)) is not None:
                        choices.append(found)
                if choices:
                    yield choices[0].model_copy(update={"otherwise": tuple(choices[1:])})

    def _platform(
        self, place: str, entry: PlatformEntry, plain: Platform, pool: Pool
    ) -> Platform | None:
        defaults, arch, runner = self._file.defaults, plain.arch, pool.runner
        compiler = entry.compiler if entry.compiler is not None else defaults.compiler
        if compiler is None:
            compiler = plain.compiler if runner is Runner.ROOTFS else ""
        limits = defaults.timeouts
        if arch in self._file.architectures:
            limits = limits.then(self._file.architectures[arch].timeouts)
        image = None
        if runner is Runner.CONTAINER:
            image = (
                (entry.image or defaults.image or "")
                .replace("{distribution}", plain.distribution)
                .replace("{ocaml}", plain.release)
            )
            if re.fullmatch(known.IMAGE, image) is None:
                self._add(place, f"invalid image {image!r}; write [HOST/]PATH:TAG")
                return None
        return Platform.model_validate(
            {
                **plain.model_dump(),
                "runner": runner,
                "image": image,
                "compiler": compiler,
                "personality": "linux32" if _needs_linux32(arch, pool) else None,
                "timeouts": limits.then(entry.timeouts),
                "lower_bounds": entry.lower_bounds,
                "revdeps": entry.revdeps not in {False, "none"},
                "only_direct_revdeps": entry.revdeps == "direct",
                "revdep_tests": entry.revdep_tests,
            }
        )

    def _pools_for(self, place: str, entry: PlatformEntry, arch: str) -> list[Pool]:
        """Return the pools of an entry, one for each of its runners; none after a problem."""
        builds = f"for {entry.os} on {arch}"
        for name in entry.pool or ():
            if name not in self._pools:
                self._add(place, f"no such pool: {name!r}" + instead(name, self._pools))
                return []
        fitting = [
            pool
            for pool in self._pools.values()
            if pool.os == entry.os
            and arch in pool.arch
            and pool.name in (entry.pool or self._pools)
        ]
        if not fitting:
            subject = f"pool {entry.pool[0]} does not build" if entry.pool else "no pool builds"
            self._add(place, f"{subject} {builds}")
            return []
        runners = {pool.runner for pool in fitting}
        if entry.runner is not None:
            wanted = [Runner(runner) for runner in entry.runner]
        else:
            wanted = list(runners) if len(runners) == 1 else [Runner(self._file.defaults.runner)]
        chosen = []
        for runner in dict.fromkeys(wanted):
            own = [pool for pool in fitting if pool.runner is runner]
            if len(own) == 1:
                chosen.append(own[0])
                continue
            if own:
                names = " and ".join(pool.name for pool in own)
                problem = f"ambiguous pool: {names} build {builds}; set `pool`"
            else:
                problem = (
                    f"no pool with the {runner} runner builds {builds}; a pool has one runner: "
                    f'set `runner = "{runner}"` in a [pools.NAME]'
                )
            self._add(place, problem)
            return []
        return chosen


def _needs_linux32(arch: str, pool: Pool) -> bool:
    """Whether builds run under `linux32`; it does nothing on a machine with 32 bits only."""
    return ARCHITECTURES[arch].bits == 32 and pool.os == "linux"  # noqa: PLR2004
