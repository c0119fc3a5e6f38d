"""Weak words: something failed, and nothing stronger says why. They decide last."""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.outcome import FailureReason

_BUILD = FailureReason.BUILD

PACKAGE_REPORT = "package-report"
"""Id of the rule by opam's report of a package's failed command."""

OPAM_COMMAND_FAILED = "opam-command-failed"
"""Id of the rule by what is left of such a report."""

WENT_ON = "went-on"
"""Id of the rule by opam's words for an installed package."""

GENERIC: tuple[Rule, ...] = (
    rule(
        "dependency-detected",
        FailureReason.DEPENDENCY,
        r"^opam-repo-ci detected dependencies failing:\s+(?P<package>[\w.+~-]+)",
        words="detected dependencies failing",
        why=(
            "The peer's script found the build directory of another package. The same words "
            "in the echo of that script are quoted, and say nothing."
        ),
        example="opam-repo-ci detected dependencies failing:  ocamlfind.1.9.6",
        not_when=[
            (
                "unknown",
                (
                    '        test "${p}" != "" && echo '
                    '"opam-repo-ci detected dependencies failing: ${p}";'
                ),
            ),
        ],
    ),
    rule(
        "crash-unclear",
        None,
        r"Segmentation fault",
        r"\bBus error\b",
        r"^exit-code +(?:139|135)\b",
        r"dumped core",
        words="segmentation|bus error|139|135|dumped core",
        why=("A program crashed: a bug of the package, of a compiler, or of the machine's memory."),
        example=("Segmentation fault (core dumped)\nmake: *** [a.vo] Error 139"),
    ),
    rule(
        "permission-unclear",
        None,
        (
            r"^(?>.*?(?:/tmp|/var/folders|TMPDIR|/private/var)).*(?:Permission denied|not"
            r" permitted)"
        ),
        words="permission denied|not permitted",
        why=(
            "A temporary directory refuses a file: a sandbox rule of ours, or the package's script."
        ),
        example="patch: **** can't create '/var/folders/s_/T/pX': Permission denied",
    ),
    rule(
        PACKAGE_REPORT,
        _BUILD,
        r"^exit-code +(?!0$|130$|137$|143$)\d+$",
        words="exit-code",
        after=r"ERROR \[?while (?:compiling|installing|building|testing) (?!conf-)",
        yields_to=("library-missing", "command-missing"),
        why=(
            "opam ran the package's command, and it failed by itself: whatever hosts, git and "
            "snapshots said before, opam got past it. Where the command misses a program or a "
            "library, that may be what a mirror failed to deliver."
        ),
        example=(
            "#=== ERROR while compiling a.1 ===#\n"
            "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
            "# exit-code   2"
        ),
        not_when=[
            (
                "errored",
                (
                    "W: Failed to fetch http://deb.example/InRelease  Temporary failure"
                    " resolving 'deb.example'\n"
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
                    "# exit-code   2\n"
                    "# make: emacs: Command not found"
                ),
            ),
        ],
    ),
    rule(
        OPAM_COMMAND_FAILED,
        _BUILD,
        r"^\[ERROR\] The (?:compilation|installation|build) of (?P<package>\S+?) failed",
        r"^=+ ERROR \[?while (?:compiling|installing|removing|testing|building) (?P<named>\S+)",
        # opam 1 misspells it.
        r"^[=<>-]{4} (?P<troubled>\S+) tro[ou]bleshooting ",
        # A report whose head is cut off: its fields and titles are only there after a failure.
        r"^(?:output|stdout|stderr) ###$",
        r"^exit-code +(?!0$)\d+$",
        words="error|failed|###|exit-code|bleshooting",
        why=(
            "opam reports that the package's own command failed, and nothing in the log "
            "speaks against the machine."
        ),
        example='[ERROR] The compilation of a.1 failed at "make".',
    ),
    rule(
        "failed-actions",
        _BUILD,
        # A frame, and the sign of the action: a build's is a Greek letter.
        (
            r"^(?:(?:[^\w\s]{1,2}|\u03bb) {1,2}){0,2}(?:build|install|upgrade|test)"
            r" +(?P<package>[\w+~-]+)[. ]"
        ),
        words="build|install|upgrade|test",
        after=r"[Tt]he following (?:actions )?failed\b",
        why="opam lists the actions that failed, none of them a download.",
        example="The following actions failed\n  - build a 1.0",
    ),
    rule(
        "make-failed",
        _BUILD,
        (
            r"^(?:g?make(?:\[\d+\])?|ninja|bmake|nmake): (?:\*\*\* .{0,600}(?:Error \d+"
            r"|\bStop\.)|.*stopped)"
        ),
        r"^Command (?:\[\d+\] )?exited with code [1-9]",
        r"^(?:- )?Failed to build the target ",
        r"^Failed to build \S+\.(?:vo|glob|cm\w{1,3}|o|a|so|byte|native|exe|opt)$",
        r"^Ocamlbuild knows of no rules that apply to a target named ",
        r'^E: Failure\("Command ',
        r"terminated with error code \d+",
        r"^\S+:\d+: recipe for target '[^']{1,200}' failed",
        r"^Done: exited with code 1",
        r"^(?:Error: |\[ERROR\] )?The process '(?>[^\s']*?opam)[^\s']*+' failed with exit code 31$",
        r"^error: build failed",
        r"^(?:ERROR|Error): .*(?:build|compil\w{1,8}|install\w{0,8}) failed",
        r"^FAILED: \S",
        (
            r"^(?:\S+: )?(?:error|ERROR|Error): "
            r"(?!Process completed with|The process '|(?:error )?building at STEP)"
            r"\S.*\bexit(?:ed)? (?:code|status|with) [1-9]"
        ),
        words="make|ninja|exited|failure(|terminated|failed|error|knows of no",
        yields_to=("permission-unclear",),
        why="A build tool stopped on an error of one of its commands.",
        example="make: *** [Makefile:53: all] Error 2",
        not_when=[
            (
                "unknown",
                (
                    "patch: **** can't create '/var/folders/T/p': Permission denied\n"
                    "make: *** [all] Error 1"
                ),
            ),
            # buildah tells a step of the image's own, and one of the package, alike.
            (
                "unknown",
                'Error: building at STEP "RUN ./setup.sh": while running runtime: exit status 1',
            ),
        ],
    ),
    rule(
        "dune-test-status",
        FailureReason.TEST,
        r"^[\w.+-]{1,60} alias (?:\S*/)?runtest\S* \(exit (?!130\)|137\)|143\))[1-9]\d{0,2}\)$",
        words=" alias ",
        why="dune of before 2.0 tells in one line which command failed, and for which alias.",
        example="        test alias test/runtest (exit 1)",
    ),
    rule(
        "dune-status",
        _BUILD,
        (
            r"^(?:ocaml\w*(?:\.opt)?|menhir|cppo|js_of_ocaml|odoc|gcc|g\+\+|clang|cc|ppx\S{0,60}"
            r"|[\w/-]{1,60}\.(?:exe|bc|sh)) \S.{0,600}"
            r" \(exit (?!130\)|137\)|143\))[1-9]\d{0,2}\)$"
        ),
        words="(exit ",
        why="The same of a command that builds a file.",
        example="      ocamlc src/.a.objs/byte/a__X.{cmi,cmo,cmt} (exit 2)",
        not_when=[
            ("unknown", "the job's agent stopped (exit 1)"),
        ],
    ),
    rule(
        "compiler-warned-only",
        _BUILD,
        r"^Error(?: \([^)]{1,80}\))?: \S",
        r"^error: \S",
        r"\berror: (?!RPC)",
        words="error",
        after=r'^(?:File "|\S+\.(?:c|h|ml|mli|v|cpp|rs):\d)|ERROR while compiling',
        why="An error after a place in a source file, in words that no stronger rule knows.",
        example=('File "x.mlpack", line 1:\nerror: cannot do this'),
    ),
    rule(
        WENT_ON,
        None,
        r"^-> installed \S+\.\d",
        words="installed",
        why="opam went on to install packages: what looked like a failure before was none yet.",
        example="-> installed mirage.2.9.1",
    ),
)
"""Weak words."""
