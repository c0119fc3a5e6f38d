"""What an image must contain for a platform: the image's maker and the file need not agree."""

import re
from collections.abc import Iterable

from opam_ci.core.platforms.model import Platform

PROGRAMS = (
    *(
        "bwrap",
        "cat",
        "cp",
        "curl",
        "env",
        "find",
        "gzip",
        "ln",
        "mkdir",
        "rm",
        "sed",
        "tar",
        "timeout",
    ),
    "opam",
)
"""What the runner calls in every image; `sh` runs the check itself."""

OPAM = "/usr/bin/opam"

_COMPILER = re.compile(r"(ocaml-base-compiler|ocaml-system|ocaml-variants)\.(.+)")
_OPTION = re.compile(r"ocaml-option(?:s-only)?-([a-z0-9-]+)\.")


def programs(platform: Platform) -> tuple[str, ...]:
    """Return the programs that an image needs, by name."""
    return (*PROGRAMS, *((platform.personality,) if platform.personality else ()))


def opam_binary(platform: Platform) -> str:
    """Return the path of the platform's opam, as in `ocaml/opam` images.

    In these, plain `opam` is the oldest one.
    """
    return OPAM if platform.opam == "system" else f"{OPAM}-{platform.opam}"


def opam_problem(platform: Platform, version: str) -> str | None:
    """Return what is wrong with the version of an image's opam, None if it is the platform's.

    Args:
        platform: The platform.
        version: Output of `opam --version`.
    """
    fits = platform.opam in {"system", "dev"} or f"{version}.".startswith(f"{platform.opam}.")
    return None if fits else f"{opam_binary(platform)} is opam {version}, not {platform.opam}"


def compiler_problem(platform: Platform, installed: Iterable[str]) -> str | None:
    """Return what is wrong with the compiler of an image's switch, None if it is the platform's.

    Args:
        platform: The platform. Its `5.5~beta1` is the package `5.5.0~beta1`, and its `5.4` is
            neither that nor `5.4.0~rc1`.
        installed: The packages of the switch, `name.version`.
    """
    packages = sorted(installed)
    compilers = [found for each in packages if (found := _COMPILER.fullmatch(each))]
    names = ", ".join(found.group() for found in compilers) or "no OCaml"
    release, mark, prerelease = platform.ocaml.partition("~")
    version = re.compile(rf"{re.escape(release)}\.\d+{mark}{prerelease}(\+.*)?")
    if not any(version.fullmatch(found[2]) for found in compilers):
        return f"its switch has {names}, not OCaml {platform.ocaml}"
    # Since 4.12 a variant is a set of packages, before that a part of the version.
    options = [found[1] for each in packages if (found := _OPTION.match(each))]
    options += [found[2].partition("+")[2] for found in compilers]
    built = set(re.split(r"[-+]", "-".join(options)))
    if platform.variant is not None and not set(platform.variant.split("-")) <= built:
        return f"its switch has {names} without {platform.variant}"
    return None
