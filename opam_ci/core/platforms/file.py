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
            name: Pool(name=name, **entry.model_dump(exclude={"runner"}))
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
            pool = self._pool(place, entry, arch)
            if pool is None:
                continue
            runner = Runner(entry.runner or self._file.pools[pool].runner or defaults.runner)
            if runner is Runner.CONTAINER and (entry.image or defaults.image) is None:
                self._add(place, "the container runner needs an image; set `image`")
                continue
            if runner is not Runner.CONTAINER and entry.image is not None:
                self._add(place, f"the {runner} runner has no images; remove `image`")
                continue
            for distribution, ocaml, variant, opam in product(
                entry.distribution,
                entry.ocaml,
                entry.variant or (None,),
                entry.opam or (defaults.opam,),
            ):
                plain = Platform(
                    distribution=distribution,
                    ocaml=ocaml,
                    variant=variant,
                    arch=arch,
                    opam=opam,
                    pool=pool,
                )
                platform = self._platform(place, entry, plain, runner)
                if platform is not None:
                    yield platform

    def _platform(
        self, place: str, entry: PlatformEntry, plain: Platform, runner: Runner
    ) -> Platform | None:
        defaults, arch = self._file.defaults, plain.arch
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
                "personality": "linux32" if self._needs_linux32(arch, plain.pool) else None,
                "timeouts": limits.then(entry.timeouts),
                "lower_bounds": entry.lower_bounds,
                "revdeps": entry.revdeps not in {False, "none"},
                "only_direct_revdeps": entry.revdeps == "direct",
                "revdep_tests": entry.revdep_tests,
            }
        )

    def _needs_linux32(self, arch: str, pool: str) -> bool:
        """Whether builds run under `linux32`; it does nothing on a machine with 32 bits only."""
        return ARCHITECTURES[arch].bits == 32 and self._pools[pool].os == "linux"  # noqa: PLR2004

    def _pool(self, place: str, entry: PlatformEntry, arch: str) -> str | None:
        fitting = [
            pool.name for pool in self._pools.values() if pool.os == entry.os and arch in pool.arch
        ]
        if entry.pool is not None and entry.pool not in self._pools:
            problem = f"no such pool: {entry.pool!r}" + instead(entry.pool, self._pools)
        elif entry.pool is not None and entry.pool not in fitting:
            problem = f"pool {entry.pool} does not build for {entry.os} on {arch}"
        elif not fitting:
            problem = f"no pool builds for {entry.os} on {arch}"
        elif entry.pool is None and len(fitting) > 1:
            pools = " and ".join(fitting)
            problem = f"ambiguous pool: {pools} build for {entry.os} on {arch}; set `pool`"
        else:
            return entry.pool or fitting[0]
        self._add(place, problem)
        return None
