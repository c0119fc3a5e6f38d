"""The keys of a file of platforms: their types, their meaning, and messages about errors."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, ValidationError

from opam_ci.core.model import Frozen
from opam_ci.core.platforms import model as known
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import ARCHITECTURES, Runner
from opam_ci.core.printable import clip, escaped

_DURATION: Final = re.compile(r"([0-9]{1,6}) ?(s|min|h)")
_UNITS: Final = {"s": 1, "min": 60, "h": 3600}


def _duration(value: object) -> timedelta:
    """Parse a duration such as `90 s`, `15 min` or `2 h`."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'invalid duration {value!r}; write "90 s", "15 min" or "2 h"')
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _limits(value: object) -> object:
    if isinstance(value, Mapping):
        return {phase: _duration(limit) for phase, limit in value.items()}
    return value


def _like(pattern: str, what: str, form: str) -> AfterValidator:
    """A validator for texts that match a pattern; its message describes the right form."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"invalid {what} {value!r}; {form}")
        return value

    return AfterValidator(check)


def _one_of(names: Iterable[str], what: str) -> AfterValidator:
    allowed = list(names)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"no such {what}: {value!r}; there is: {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def _one_or_more(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(  # noqa: TRY004  pydantic takes ValueError alone for a wrong value
            f'write versions in quotes, as "5.4", and not as the number {value}'
        )
    if value == []:
        raise ValueError("the list is empty")
    return [value] if isinstance(value, str) else value


_Distribution = Annotated[
    str, _like(known.DISTRIBUTION, "distribution", "write it as in tags of images: debian-13")
]
_Ocaml = Annotated[
    str, _like(known.OCAML, "OCaml version", "write MAJOR.MINOR as in 5.4, or 5.5~beta1")
]
_Variant = Annotated[str, _like(known.VARIANT, "variant of OCaml", "write it as in flambda-fp")]
_Opam = Annotated[str, _like(known.OPAM, "opam version", "write MAJOR.MINOR, dev or system")]
_Arch = Annotated[str, _one_of(ARCHITECTURES, "architecture")]
_Runner = Annotated[str, _one_of((runner.value for runner in Runner), "runner")]
_Os = Annotated[str, _one_of(("linux", "macos", "freebsd"), "operating system")]
_Compiler = Annotated[
    str, _like(known.COMPILER, "package", "write its name, or nothing for the image's own switch")
]


def _revdeps(value: object) -> object:
    if isinstance(value, bool) or value in {"all", "direct", "none"}:
        return value
    raise ValueError('write true, false, "all", "direct" or "none"')


_Revdeps = Annotated[bool | str, BeforeValidator(_revdeps)]
_PoolName = Annotated[str, _like(known.POOL, "name of a pool", "use lower case, digits, - and _")]
_Limits = Annotated[PhaseLimits, BeforeValidator(_limits)]
_List = BeforeValidator(_one_or_more)


class PlatformDefaults(Frozen):
    """Keys of `[defaults]`: the values of an entry of `platforms` that does not set them."""

    opam: _Opam = Field("system", description="version of opam: `2.4`, `dev` or `system`")
    runner: _Runner = Field("rootfs", description="`rootfs`, `container` or `native`")
    image: str | None = Field(
        None,
        description="image of containers; `{distribution}` and `{ocaml}` become the platform's",
    )
    compiler: _Compiler | None = Field(
        None,
        description="package that provides OCaml in a fresh switch, or empty for the image's own "
        "switch; `ocaml-system` for `rootfs`, else empty",
    )
    timeouts: _Limits = Field(PhaseLimits(), description="time limits by phase")


class ArchitectureEntry(Frozen):
    """Keys of `[architectures.NAME]`."""

    timeouts: _Limits = Field(PhaseLimits(), description="time limits by phase")


class PoolEntry(Frozen):
    """Keys of `[pools.NAME]`."""

    os: _Os = Field("linux", description="`linux`, `macos` or `freebsd`")
    arch: Annotated[tuple[_Arch, ...], _List] = Field(
        description="what its machines build for, one or a list"
    )
    runner: _Runner | None = Field(
        None, description="its one runner; without it: that of `defaults`"
    )
    description: str = Field("", max_length=200, description="what its machines are")


class PlatformEntry(Frozen):
    """Keys of a `[[platforms]]`; each list makes a platform for each of its elements."""

    distribution: Annotated[tuple[_Distribution, ...], _List] = Field(
        description="distribution and release, one or a list"
    )
    ocaml: Annotated[tuple[_Ocaml, ...], _List] = Field(
        description="OCaml release in quotes, one or a list"
    )
    variant: Annotated[tuple[_Variant, ...], _List] | None = Field(
        None, description="how OCaml is configured, one or a list; without it: the plain one"
    )
    os: _Os = Field("linux", description="`linux`, `macos` or `freebsd`")
    arch: Annotated[tuple[_Arch, ...], _List] = Field(
        ("amd64",), description="architecture, one or a list; `amd64` by default"
    )
    opam: Annotated[tuple[_Opam, ...], _List] | None = Field(
        None, description="version of opam, one or a list"
    )
    pool: Annotated[tuple[str, ...], _List] | None = Field(
        None,
        description="its pool, or one for each runner; without it: the one pool for `os`, `arch` "
        "and runner",
    )
    runner: Annotated[tuple[_Runner, ...], _List] | None = Field(
        None,
        description="its runner, or several by preference; without it: that of its pools, or of "
        "`defaults` if they have several",
    )
    image: str | None = Field(None, description="as in `defaults`")
    compiler: _Compiler | None = Field(None, description="as in `defaults`")
    timeouts: _Limits = Field(PhaseLimits(), description="time limits by phase")
    lower_bounds: StrictBool = Field(
        default=False, description="also build with the oldest dependencies"
    )
    revdeps: _Revdeps = Field(
        default=False,
        description="also build reverse dependencies: `all` (or `true`), `direct` for those that "
        "need a package themselves, `none` (or `false`)",
    )
    revdep_tests: StrictBool = Field(
        default=True, description="also run the tests of reverse dependencies; `true` by default"
    )


class PlatformFile(Frozen):
    """The tables of the file."""

    defaults: PlatformDefaults = PlatformDefaults()
    architectures: dict[_Arch, ArchitectureEntry] = Field(default_factory=dict)
    pools: dict[_PoolName, PoolEntry] = Field(default_factory=dict)
    platforms: tuple[PlatformEntry, ...] = ()


_MODELS: Final[Mapping[str, type[Frozen]]] = {
    "defaults": PlatformDefaults,
    "architectures": ArchitectureEntry,
    "pools": PoolEntry,
    "platforms": PlatformEntry,
}


def problems(data: Mapping[str, Any], error: ValidationError) -> Iterable[str]:
    """Yield a line for each error in the keys and values of a file."""
    for item in error.errors(include_url=False):
        place, rest = _place(data, item["loc"])
        at = [part for part in rest if isinstance(part, str)]
        match item["type"]:
            case "extra_forbidden":
                model = _MODELS[str(item["loc"][0])] if place else PlatformFile
                keys = PhaseLimits.model_fields if len(at) > 1 else model.model_fields
                problem = f"unknown key {'.'.join(at)!r}" + instead(at[-1], keys)
            case "missing":
                problem = f"{'.'.join(at)!r} is missing"
            case "dict_type":
                problem = f"write a table [{place}.NAME] for each"
            case "tuple_type" if item["loc"] == ("platforms",):
                problem = "write [[platforms]], with two brackets, for each entry"
            case _:
                message = _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
                problem = ": ".join([".".join(at), message] if at else [message])
        yield one_line(f"{place}: {problem}" if place else problem)


def _place(data: Mapping[str, Any], loc: Sequence[str | int]) -> tuple[str, Sequence[str | int]]:
    """Split pydantic's location in two: the name of the table in messages, and the keys in it."""
    match loc:
        case ["platforms", int(number), *rest]:
            return entry_place(data, number), rest
        case ["pools" | "architectures" as table, _, "[key]"]:
            return table, ()
        case ["pools" | "architectures" as table, name, *rest]:
            return f"{table}.{name}", rest
        case [table, *rest] if table in _MODELS:
            return str(table), rest
    return "", loc


def entry_place(data: Mapping[str, Any], number: int) -> str:
    """Return the name of an entry in messages, such as `platforms entry 1 (debian-13)`.

    Args:
        data: The file.
        number: The entry's index in `platforms`.
    """
    entry = data["platforms"][number]
    name = entry.get("distribution") if isinstance(entry, dict) else None
    return one_line(
        f"platforms entry {number + 1}" + (f" ({name[:64]})" if isinstance(name, str) else "")
    )


_MESSAGES: Final[Mapping[str, str]] = {
    "string_type": "write a text in quotes",
    "tuple_type": "write a text in quotes, or a list of texts",
    "bool_type": "write true or false",
    "model_type": "this must be a table",
    "greater_than": "a time limit must be longer than 0 s",
    "less_than_equal": "a time limit must be at most 24 h",
    "string_too_long": "this text is too long",
}


def instead(name: str, known_names: Iterable[str]) -> str:
    """Return a suggestion for a wrong name: the closest known one, or all of them."""
    names = list(known_names)
    if close := get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there is: {', '.join(names) or 'none'}"


def one_line(text: str) -> str:
    """Return a text on one line, printable, of at most 300 characters."""
    return clip(escaped(text), 300)
