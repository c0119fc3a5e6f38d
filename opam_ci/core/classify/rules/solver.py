"""opam's solver: out of time, broken or missing."""

from opam_ci.core.classify.rule import OUTSIDE_PACKAGE_CODE, Rule
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import Cause

SOLVER: tuple[Rule, ...] = of_opam(
    rule(
        "solver-timeout",
        Cause.SOLVER_TIMEOUT,
        r"resolution of the request timed out",
        r"OpamCudf\.Solver_(?:failure|error)",
        r"--solver-timeout=",
        # Not every word about it: the CI sets the variable, and logs echo that.
        r"(?:by setting|use|increase) OPAMSOLVERTIMEOUT",
        words="timed out|opamcudf|solver-timeout|solvertimeout",
        yields_to=PROOF_IDS,
        why="opam's solver gave up for time before it knew; that proves no conflict.",
        example="[ERROR] Sorry, resolution of the request timed out.",
        not_when=[
            ("failed", 'ENV OPAMSOLVERTIMEOUT="500"\nmake: *** [Makefile:3: all] Error 2'),
            ("failed", "+ env OPAMSOLVERTIMEOUT=500 opam reinstall a.1\nmake: *** [all] Error 2"),
        ],
    ),
    rule(
        "solver-timeout-words",
        Cause.SOLVER_TIMEOUT,
        r"[Ss]olver (?:has )?timed? ?-?out",
        r"[Tt]ime-?out (?:of|in|from|while running) (?:the |external )?solver",
        words="solver",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The same in the words of the CI's programs. Provers say them of their solvers, too.",
        example="Solver timed out",
        not_when=[
            ("failed", ("Solver timed out\n[FAIL]  solver  1  is fast.")),
            (
                "failed",
                (
                    "#=== ERROR while compiling why3.1.7.2 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make bench\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# goal 3: Solver timed out (1.00 s)"
                ),
            ),
        ],
    ),
    rule(
        "opam-exit-solver",
        Cause.SOLVER_TIMEOUT,
        r"(?:^|\\?\" |\bopam\b.{0,200})(?:failed|exited) with (?:exit )?(?:status|code) 60$",
        r"^(?:Error: |\[ERROR\] )?The process '\S*opam(?:\.exe)?' failed with exit code 60$",
        words="failed with|exited with",
        quoted=True,
        yields_to=PROOF_IDS,
        why="opam's exit code 60: the solver failed, mostly for time.",
        example='        exit 1" failed with exit status 60',
        not_when=[
            (
                "failed",
                'File "a.ml", line 1:\nError: x\n        exit 1" failed with exit status 60',
            ),
        ],
    ),
    rule(
        "solver-broken",
        Cause.OPAM_INTERNAL,
        r"[Ee]xternal solver fail(?:ed|ure)",
        r"No installed solver",
        r"solver-error-\d+",
        r"(?:aspcud|mccs|packup)\S{0,40}: (?:not found|error|fatal)",
        r"^(?>.*?(?:aspcud|mccs|packup|clasp|gringo)\b).*(?:failed with|exited with)",
        r"^Fatal error in module .{0,200}(?:dose|cudf)",
        words="solver|aspcud|mccs|packup|clasp|gringo|fatal error in",
        yields_to=PROOF_IDS,
        why="The solver program is missing or broken in the image.",
        example="[ERROR] External solver failure, please fix your installation",
        not_when=[
            ("failed", ("mccs: error 3\n[FAIL]  sat  1  solves.")),
        ],
    ),
    rule(
        "solver-broken-words",
        Cause.OPAM_INTERNAL,
        r"[Ss]olver (?:crashed|failed with|could not be (?:run|found))",
        words="solver",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The same in the words of the CI's programs. Provers say them of their solvers, too.",
        example="Solver crashed",
        not_when=[
            ("failed", ("solver failed with 3\n[FAIL]  sat  1  solves.")),
            (
                "failed",
                (
                    "#=== ERROR while compiling alt-ergo.2.5 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build dune runtest\n"
                    "# exit-code   1\n"
                    "### output ###\n"
                    "# a.ae: solver failed with exception Not_found"
                ),
            ),
        ],
    ),
)
"""The solver."""
