"""Why a package cannot be installed, in one line: opam's explanation, parsed and shortened.

The formats are those of opam 2.1 to 2.6 (`conflicts.causes` of the JSON report; source:
`OpamCudf.string_of_explanation`), and those of its messages before exit 5.
"""

import re
from collections.abc import Collection, Iterable, Sequence

from opam_ci.core.opam.version import satisfies
from opam_ci.core.printable import clip, flat

LIMIT = 300
"""Characters of an explanation: a table and a log show it on one line."""

_CAUSE_LIMIT = 4000
_CAUSES_READ = 10
_CHAIN_SHOWN = 4
"""Elements of a chain of dependencies that are shown; the middle of a longer one is left out."""

_HIDDEN_SHOWN = 20

_PARTS = re.compile(r" (?:→|->|\|) ")
_WANTED = re.compile(r"([A-Za-z0-9_+-]+) (<=?|>=?|!?=) ([A-Za-z0-9_+.~-]+)")
_ARROW = re.compile(r" (?:→|->) ")
_NAME = re.compile(r"[A-Za-z0-9_+-]+")
_INVARIANT = "(invariant)"
_COMPILERS = ("ocaml", "ocaml-base-compiler", "ocaml-compiler", "ocaml-system", "ocaml-variants")
"""Packages that the switch's invariant decides, whatever else there is."""

_UNMET = re.compile(r"unmet availability conditions[:,] '(.*)'")
_DEPEXTS = re.compile(r"unavailable system packages? ('[^']*'(?:(?:, | and )'[^']*')*)")
_MANAGERS = re.compile(
    r"^(?:(?:E|Error): Unable to locate package |error: target not found: |"
    r"No match for argument: |No provider of |Package (?='.*' not found\.)|"
    r"pkg: No packages available to install matching )(\S+)"
    r"|^ *(\S+) \((?:no such package|missing)\):$"
)
"""apt, pacman, dnf, zypper (also of versions before 1.14), pkg; apk."""


def explain(own: str, causes: Sequence[str], *, hidden: Collection[str] = ()) -> str:
    """Return the solver's most specific cause in one line, at most `LIMIT` characters.

    Args:
        own: Full name of the package that was to be installed.
        causes: `conflicts.causes` of opam's report, at least one.
        hidden: Names of packages that are missing because an offline mirror lacks their sources.
    """
    read = [_read(own, cause[:_CAUSE_LIMIT], hidden=hidden) for cause in causes[:_CAUSES_READ]]
    # A cause that begins with the package itself names what its author can change.
    explained = sorted(filter(None, read), key=lambda line: not line.startswith(f"{own} "))
    line = clip(explained[0] if explained else flat(causes[0][:_CAUSE_LIMIT]), LIMIT - 20)
    return f"{line} (and {len(causes) - 1} more)" if len(causes) > 1 else line


def explain_refusal(own: str, line: str) -> str | None:
    """Return in one line why opam, or apt, refused before the solver ran; None if unknown.

    Args:
        own: Full name of the package that was to be installed.
        line: The program's message.
    """
    if (unmet := _UNMET.search(line)) is not None:
        return clip(flat(f"{own} is not available here (available: {unmet[1]})"), LIMIT)
    if (depexts := _DEPEXTS.search(line) or _MANAGERS.search(line)) is not None:
        return clip(flat(f"{own} needs {_system(depexts[depexts.lastindex or 1])}"), LIMIT)
    return None


def lacks_system_package(cause: str) -> bool:
    """Whether a cause is a dependency's system package that does not exist here."""
    return _DEPEXTS.search(cause) is not None


def rests_on_hidden(own: str, causes: Iterable[str], hidden: Iterable[str]) -> tuple[str, ...]:
    """Return names of hidden packages that could make a solution possible, sorted.

    Empty if the causes hold whatever is hidden: they are about other packages, or need a version
    that no hidden package has.

    Args:
        own: Full name of the package that was to be installed.
        causes: `conflicts.causes` of opam's report.
        hidden: Full names of the packages that the solver did not see.
    """
    versions: dict[str, list[str]] = {}
    for package in hidden:
        name, _, version = package.partition(".")
        versions.setdefault(name, []).append(version)
    for name in (*_COMPILERS, own.split(".", 1)[0]):
        versions.pop(name, None)
    found = set[str]()
    for cause in causes:
        chains = [line[2:] for line in cause[:_CAUSE_LIMIT].splitlines() if line[:2] == "- "]
        for chain in chains or [cause[:_CAUSE_LIMIT]]:
            for part in _PARTS.split(chain):
                wanted = _WANTED.fullmatch(part.strip())
                found.update(
                    name
                    for name in _NAME.findall(part if wanted is None else wanted[1])
                    if any(
                        wanted is None or satisfies(version, wanted[2], wanted[3])
                        for version in versions.get(name, ())
                    )
                )
    return tuple(sorted(found)[:_HIDDEN_SHOWN])


def _read(own: str, cause: str, *, hidden: Collection[str]) -> str | None:
    header, *rest = [flat(line) for line in cause.splitlines() if line.strip()] or [""]
    chains = [_ARROW.split(line[2:]) for line in rest if line.startswith("- ")]
    if not chains:
        return None
    if header == "Missing dependency:":
        return _missing(own, chains[0], [line for line in rest if line[:2] != "- "], hidden=hidden)
    if header.startswith("No agreement on the version of ") or header == "Incompatible packages:":
        return _clash(own, chains, "" if header[0] == "N" else ", which exclude each other")
    return None


def _missing(
    own: str, chain: list[str], reasons: list[str], *, hidden: Collection[str]
) -> str | None:
    subject, needs = _parted(own, chain)
    if not needs and subject != own:
        # opam 2.1 leaves out the package itself.
        subject, needs = own, chain
    if not reasons:
        return None
    choices = needs[-1].split(" | ") if needs else []
    is_hidden = [each.split(" ", 1)[0] in hidden for each in choices]
    if len(choices) != len(reasons):
        is_hidden = [any(is_hidden)] * len(reasons)
    explained = [_reason(*each) for each in zip(reasons, is_hidden, strict=True)]
    if not needs:
        return f"{subject}: {explained[0]}"
    if len(choices) == len(explained) > 1:
        last = " or ".join(f"{each} ({why})" for each, why in zip(choices, explained, strict=True))
        return f"{subject} needs {_path([*needs[:-1], last])}"
    return f"{subject} needs {_path(needs)}: {' or '.join(dict.fromkeys(explained))}"


def _reason(reason: str, is_hidden: bool) -> str:  # noqa: FBT001 - one of a pair
    if reason == "unknown package":
        return "not in the offline mirror" if is_hidden else "no such package"
    if reason == "no matching version":
        return "no such version" + (" in the offline mirror" if is_hidden else "")
    if (unmet := _UNMET.search(reason)) is not None:
        return f"not available here (available: {unmet[1]})"
    if (depexts := _DEPEXTS.search(reason)) is not None:
        return f"it needs {_system(depexts[1])}"
    return reason


def _system(packages: str) -> str:
    names = packages.replace("'", "")
    if " and " in names:
        return f"the system packages {names}, which do not exist here"
    return f"the system package {names}, which does not exist here"


def _clash(own: str, chains: list[list[str]], how: str) -> str:
    compiler = next((chain[1] for chain in chains if chain[:1] == [_INVARIANT] and chain[1:]), None)
    parted = [_parted(own, chain) for chain in chains if chain[:1] != [_INVARIANT]]
    if compiler is not None:
        needed = [f"{subject} needs {_path(_down_to_compiler(needs))}" for subject, needs in parted]
        return f"{needed[0] if needed else own}, and the compiler here is {compiler}"
    needing = [(subject, _path(needs)) for subject, needs in parted if needs]
    alone = [subject for subject, needs in parted if not needs]
    if needing and alone:
        subject, path = needing[0]
        return f"{subject} needs {path}, and {alone[0]} conflicts with it"
    if needing and all(subject == own for subject, _ in needing):
        return f"{own} needs " + " and ".join(path for _, path in needing[:3]) + how
    return " and ".join(f"{subject} needs {path}" for subject, path in needing[:3]) + how


def _parted(own: str, chain: list[str]) -> tuple[str, list[str]]:
    """Split a chain into the package that needs something and what it needs, the last one last.

    opam names the package itself without its version.
    """
    name = _NAME.match(chain[0])
    is_own = name is not None and name[0] == own.split(".", 1)[0]
    return own if is_own else chain[0], chain[1:]


def _down_to_compiler(needs: list[str]) -> list[str]:
    """Leave out the packages through which a version of OCaml is needed."""
    at = next((i for i, each in enumerate(needs) if each.split(" ", 1)[0] == "ocaml"), len(needs))
    return needs[: at + 1]


def _path(needs: list[str]) -> str:
    if len(needs) > _CHAIN_SHOWN:
        needs = [*needs[:2], "…", *needs[-(_CHAIN_SHOWN - 2) :]]
    return " → ".join(needs)
