"""Reading the file that describes platforms and pools.

The file is TOML. One entry of `platforms` stands for every combination of its lists, so
that a large matrix is a page long. What is wrong is told all at once, a line each.
"""

import re
import tomllib
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple, TypeVar

from pydantic import Field, ValidationError

from opam_ci.core import platforms as known
from opam_ci.core.errors import UsageError
from opam_ci.core.limits import PhaseLimits
from opam_ci.core.model import Frozen
from opam_ci.core.platform_schema import (
    ArchitectureEntry,
    PlatformDefaults,
    PlatformEntry,
    PoolEntry,
    instead,
    one_line,
    told,
)
from opam_ci.core.platforms import ARCHITECTURES, Platform, PlatformTable, Pool, Runner

_Model = TypeVar("_Model", bound=Frozen)


class InvalidPlatformFile(UsageError):  # noqa: N818  it is what the file is, not what went wrong
    """A file of platforms cannot be used.

    Attributes:
        problems: What is wrong, in one line each.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{self.problems[0]}{more}")


class _Top(Frozen):
    """The tables of the file, each of which is read apart so that all problems are told."""

    defaults: Any = Field(default_factory=dict)
    architectures: Any = Field(default_factory=dict)
    pools: Any = Field(default_factory=dict)
    platforms: Any = Field(default_factory=list)


class _Line(NamedTuple):
    """An entry of `platforms`, and how messages name it."""

    where: str
    entry: PlatformEntry


def parse_platforms(text: str) -> PlatformTable:
    """Reads a file of platforms and pools.

    Args:
        text: TOML.

    Raises:
        InvalidPlatformFile: With everything that is wrong.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides its own error, tomllib lets through what `int` says of too many digits.
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidPlatformFile([f"not TOML: {one_line(words)}"]) from None
    reading = _Reading()
    top = reading.value("", _Top, data)
    if top is not None:
        table = reading.table(top)
        if not reading.problems:
            return table
    raise InvalidPlatformFile(reading.problems)


class _Reading:
    """One reading of a file, with what it found wrong so far."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._limits: dict[str, PhaseLimits] = {}
        self._runners: dict[str, str] = {}
        self._pools: dict[str, Pool] = {}
        self._defaults = PlatformDefaults()

    def value(self, where: str, model: type[_Model], data: object) -> _Model | None:
        """Returns the validated value, None if it is wrong."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self.problems += told(where, model, error)
            return None

    def table(self, top: _Top) -> PlatformTable:
        """Returns what could be read."""
        self._defaults = self.value("defaults", PlatformDefaults, top.defaults) or self._defaults
        for name, data in self._named("architectures", top.architectures):
            if name not in ARCHITECTURES:
                self._say(
                    "architectures",
                    f"{name!r} is no architecture; there is: {', '.join(ARCHITECTURES)}",
                )
            elif (arch := self.value(f"architectures.{name}", ArchitectureEntry, data)) is not None:
                self._limits[name] = arch.timeouts
        broken = len(self.problems)
        for name, data in self._named("pools", top.pools):
            self._read_pool(name, data)
        # Where a pool could not be read, that its platforms find none is no news.
        pools_are_known = len(self.problems) == broken
        found: dict[str, tuple[str, Platform]] = {}
        for line in self._entries(top.platforms):
            for platform in self._platforms(line, pools_are_known=pools_are_known):
                if (other := found.get(platform.name)) is not None:
                    place = "it" if other[0] == line.where else other[0]
                    self._say(line.where, f"{platform.name}: {place} has this platform already")
                else:
                    found[platform.name] = (line.where, platform)
        if not found and not self.problems:
            self.problems.append("there is no [[platforms]] in it")
        return PlatformTable(
            pools=tuple(self._pools.values()), platforms=tuple(one for _, one in found.values())
        )

    def _say(self, where: str, words: str) -> None:
        self.problems.append(f"{where}: {one_line(words)}")

    def _named(self, where: str, data: object) -> Iterable[tuple[str, object]]:
        if not isinstance(data, dict):
            self._say(where, f"write a table [{where}.NAME] for each")
            return ()
        return data.items()

    def _read_pool(self, name: str, data: object) -> None:
        if re.fullmatch(known.POOL, name) is None:
            self._say("pools", f"{name!r} is no name of a pool; use lower case, digits, - and _")
        elif (entry := self.value(f"pools.{name}", PoolEntry, data)) is not None:
            self._pools[name] = Pool.model_validate(
                {"name": name, **entry.model_dump(exclude={"runner"})}
            )
            if entry.runner is not None:
                self._runners[name] = entry.runner

    def _entries(self, data: object) -> Iterable[_Line]:
        if not isinstance(data, list):
            self._say("platforms", "write [[platforms]], with two brackets, for each entry")
            return
        for number, one in enumerate(data, 1):
            name = one.get("distribution") if isinstance(one, dict) else None
            title = f" ({name[:64]})" if isinstance(name, str) else ""
            where = one_line(f"platforms entry {number}{title}")
            if (entry := self.value(where, PlatformEntry, one)) is not None:
                yield _Line(where, entry)

    def _platforms(self, line: _Line, *, pools_are_known: bool) -> Iterable[Platform]:
        entry = line.entry
        for arch in entry.arch:
            pool = self._pool(line, arch, silent=not pools_are_known)
            if pool is None:
                continue
            runner = Runner(entry.runner or self._runners.get(pool) or self._defaults.runner)
            if runner is Runner.CONTAINER and (entry.image or self._defaults.image) is None:
                self._say(line.where, "the container runner needs an image; give one")
                continue
            if runner is not Runner.CONTAINER and entry.image is not None:
                self._say(line.where, f"the {runner} runner takes no image")
                continue
            for words in product(
                entry.distribution,
                entry.ocaml,
                entry.variant or (None,),
                entry.opam or (self._defaults.opam,),
            ):
                platform = self._platform(line, arch, pool, runner, words)
                if platform is not None:
                    yield platform

    def _platform(
        self,
        line: _Line,
        arch: str,
        pool: str,
        runner: Runner,
        words: tuple[str, str, str | None, str],
    ) -> Platform | None:
        entry = line.entry
        distribution, ocaml, variant, opam = words
        plain = Platform(
            distribution=distribution, ocaml=ocaml, variant=variant, arch=arch, opam=opam, pool=pool
        )
        compiler = entry.compiler if entry.compiler is not None else self._defaults.compiler
        if compiler is None:
            compiler = plain.compiler if runner is Runner.ROOTFS else ""
        limits = self._defaults.timeouts.then(self._limits.get(arch, PhaseLimits()))
        image = None
        if runner is Runner.CONTAINER:
            image = (entry.image or self._defaults.image or "").replace(
                "{distribution}", distribution
            )
            image = image.replace("{ocaml}", plain.release)
            if re.fullmatch(known.IMAGE, image) is None:
                self._say(line.where, f"{image!r} is no image; write [HOST/]PATH:TAG")
                return None
        return Platform.model_validate(
            {
                **plain.model_dump(),
                "runner": runner,
                "image": image,
                "compiler": compiler,
                "personality": "linux32" if self._needs_linux32(arch, pool) else None,
                "timeouts": limits.then(entry.timeouts),
                "lower_bounds": entry.lower_bounds,
                "revdeps": entry.revdeps,
            }
        )

    def _needs_linux32(self, arch: str, pool: str) -> bool:
        """On a machine that only has 32 bits, `linux32` changes nothing."""
        return ARCHITECTURES[arch].bits == 32 and self._pools[pool].os == "linux"  # noqa: PLR2004

    def _pool(self, line: _Line, arch: str, *, silent: bool) -> str | None:
        entry = line.entry
        fitting = [
            pool.name for pool in self._pools.values() if pool.os == entry.os and arch in pool.arch
        ]
        problem = None
        if entry.pool is not None and entry.pool not in self._pools:
            problem = f"there is no pool {entry.pool!r}" + instead(entry.pool, self._pools)
        elif entry.pool is not None and entry.pool not in fitting:
            problem = f"pool {entry.pool} does not build for {entry.os} on {arch}"
        elif not fitting:
            problem = f"no pool builds for {entry.os} on {arch}"
        elif entry.pool is None and len(fitting) > 1:
            problem = f"name the pool: {' and '.join(fitting)} build for {entry.os} on {arch}"
        if problem is None:
            return entry.pool or fitting[0]
        if not silent:
            self._say(line.where, problem)
        return None
