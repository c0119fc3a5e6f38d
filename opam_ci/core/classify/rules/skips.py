"""Packages that cannot be installed here: no failure of theirs and no fault of ours."""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import SkipReason

_NONE, _HERE, _DEPEXT = (
    SkipReason.NO_SOLUTION,
    SkipReason.UNAVAILABLE,
    SkipReason.DEPEXT_UNAVAILABLE,
)

SKIPS: tuple[Rule, ...] = of_opam(
    rule(
        "accepted-failure",
        SkipReason.ACCEPTED_FAILURE,
        (
            r"^A package failed and has been disabled for CI using the 'x-ci-accept-failures'"
            r" field"
        ),
        words="x-ci-accept-failures",
        why=(
            "The opam file says that this platform may fail, and the peer's script saw it. "
            "The same words in the echo of that script are quoted, and say nothing."
        ),
        example=(
            "A package failed and has been disabled for CI using the 'x-ci-accept-failures' field."
        ),
        not_when=[
            (
                "unknown",
                (
                    '        echo "A package failed and has been disabled for CI using the '
                    "'x-ci-accept-failures' field.\";"
                ),
            ),
        ],
    ),
    rule(
        "solver-unavailable",
        _HERE,
        r"is not available for your (?:compiler|OS|system)",
        r"^\[ERROR\] \S.*: (?:unmet availability conditions|not available because)",
        r"^\[ERROR\] \S+ is not available (?:because|for|on)",
        r"^(?:- )?The dependency \S+ of package \S+ is not available\b",
        r"^\[ERROR\] .*does ?n[o']t comply with",
        r"^\[ERROR\] .*(?:because it requires OCaml|unmet availability)",
        words="availab|comply|requires ocaml",
        yields_to=PROOF_IDS,
        why="The opam file's own `available:` excludes this platform.",
        example="[ERROR] a.1: unmet availability conditions: 'arch = \"arm64\"'",
        not_when=[
            ("failed", ("[ERROR] x: unmet availability conditions\n[FAIL]  x  1  y.")),
        ],
    ),
    rule(
        "solver-conflict",
        _NONE,
        (
            r"^\[ERROR\] (?:Package conflict|No solution for|Could not determine which packages"
            r"|Your request can't|The following dependencies couldn't|No agreement"
            r"|Conflicting version)"
        ),
        r"^No solution (?:has been )?found",
        (
            r"^(?:Your request can(?:'t| ?not) be satisfied"
            r"|The following dependencies couldn't be met"
            r"|Sorry, no solution found|No solution for \S+)"
        ),
        r"^\*? ?No agreement on the version of ",
        r"^\*? ?Incompatible packages:",
        r"^\*? ?Missing dependency:",
        r"^\S+ is not available because ",
        r"^Conflicting version constraints for",
        r"^\S+ is in conflict with \S+",
        r"your system doesn't comply",
        r"^The actions to process have cyclic dependencies",
        r"unmet availability conditions[:,]",
        r"^no matching version$",
        r"^\(?No valid solution",
        r"^Can't find all required versions",
        r"^No compatible version",
        r"^Rejected candidates:",
        # dune's own solver, in each of its versions.
        r"^(?:Error: )?Unable to solve dependencies (?:while|for the following|in build context)",
        r"^Couldn't solve the package dependency formula",
        r"^The following packages couldn't be found: ",
        r"^The dependency solver failed to find a solution",
        r"^\[SKIP\] Package not available",
        words=(
            "conflict|no solution|could not determine|your request|following dependencies"
            "|no agreement|no matching version|incompatible|missing dependency"
            "|not available because|comply|cyclic|unmet|no valid|required versions"
            "|no compatible|rejected|[skip]|solve dependencies|dependency formula|couldn't be found"
            "|find a solution"
        ),
        yields_to=("solver-timeout", "opam-file-unreadable", *PROOF_IDS),
        why=(
            "The solver proved that the package and its dependencies do not fit this "
            "compiler and platform."
        ),
        example=("[ERROR] Package conflict!\n  * No agreement on the version of ocaml:"),
        not_when=[
            ("errored", ("[ERROR] Sorry, resolution of the request timed out.\nNo solution found")),
            ("failed", ("No solution found\n[FAIL]  solver  2  finds one.")),
        ],
    ),
)
"""What the solver says. These come before the network: a conflict is proved without it."""

DEPEXTS: tuple[Rule, ...] = of_opam(
    rule(
        "depext-unavailable",
        _DEPEXT,
        r"depends on the unavailable system package",
        r"These additional system packages are required, but not available",
        r"system packages? .{0,120}not available",
        words="system package",
        yields_to=PROOF_IDS,
        why="The platform has no system package of that name, as opam reads its lists.",
        example="[ERROR] Package a.1 depends on the unavailable system package 'libfoo-dev'.",
        not_when=[
            ("failed", ("a depends on the unavailable system package 'x'\n[FAIL]  x  1  y.")),
        ],
    ),
    rule(
        "depext-unknown-apt",
        _DEPEXT,
        (
            r"^(?:E|Error): (?:Unable to locate package|Couldn't find any package"
            r"|Package '?\S+ has no installation candidate|Version '.*' for '.*' was not found)"
        ),
        words="e: |unable to locate|find any package|no installation candidate|was not found",
        yields_to=PROOF_IDS,
        why="apt knows no package of that name.",
        example="E: Unable to locate package libfoo-dev",
        not_when=[
            ("failed", ("E: Unable to locate package x\n[FAIL]  x  1  y.")),
        ],
    ),
    rule(
        "depext-unknown-apk",
        _DEPEXT,
        r"^ERROR: unsatisfiable constraints",
        r"^ERROR: unable to select packages",
        r"\(no such package\):",
        r"^\S+ \(missing\):",
        words="unsatisfiable|unable to select|no such package|(missing)",
        yields_to=("mirror-apk", "dns", "connection", *PROOF_IDS),
        why="apk knows no package of that name.",
        example=("ERROR: unable to select packages:\n  libfoo-dev (no such package):"),
        not_when=[
            (
                "errored",
                (
                    "WARNING: Ignoring http://x/APKINDEX.gz: temporary error (try again later)\n"
                    "ERROR: unsatisfiable constraints:\n"
                    "  bash (missing):"
                ),
            ),
        ],
    ),
    rule(
        "depext-unknown-rpm",
        _DEPEXT,
        r"^Error: Unable to find a match",
        r"^No match for argument",
        r"^No package \S+ available",
        r"^No provider of '",
        r"^Package '.*' not found\.$",
        r"^'.*' not found in package names",
        words="unable to find a match|no match|no package|no provider|not found",
        yields_to=PROOF_IDS,
        why="dnf, yum or zypper know no package of that name.",
        example="Error: Unable to find a match: foo-devel",
        not_when=[
            ("failed", ("No match for argument: x\n[FAIL]  x  1  y.")),
        ],
    ),
    rule(
        "depext-unknown-other",
        _DEPEXT,
        r"^error: target not found",
        r"No available (?:formula|cask)",
        r"^pkg: No packages available",
        r"^Error: No (?:similarly|formulae)",
        r"^Error: Port \S+ not found",
        r"has been disabled because it",
        words=("target not found|no available|no packages|no similarly|no formulae|port |disabled"),
        yields_to=PROOF_IDS,
        why="pacman, pkg, Homebrew or MacPorts know no package of that name.",
        example="error: target not found: libfoo",
        not_when=[
            ("failed", ("error: target not found: x\n[FAIL]  x  1  y.")),
        ],
    ),
)
"""Unknown system packages. These come after the mirrors: a failed refresh looks the same."""
