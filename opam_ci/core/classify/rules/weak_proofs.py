"""Weaker proof against a package: what fails in these words may follow from something else.

A missing command or library is the package's fault, unless an earlier step could not be
downloaded; so these rules come after all that could be to blame instead.
"""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.generic import WENT_ON
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.outcome import FailureReason

_BUILD = FailureReason.BUILD

WEAK_PROOFS: tuple[Rule, ...] = (
    rule(
        "ocaml-inconsistent",
        _BUILD,
        r"make inconsistent assumptions over (?:interface|implementation)",
        r"^Parse error: ",
        r"is not a compiled interface",
        r"^Preprocess(?:or|ing) error",
        r"^camlp[45]\S*: .*error",
        r"^Syntax error:? ",
        r"^Camlp4: Uncaught",
        r"exception Sys_error\(\"[^\"]+\.(?:ml[ily]?|cm\w+|eliom|re|in): No such file",
        r"^make: don't know how to make ",
        words=(
            "sys_error|know how to|inconsistent|parse error|not a compiled|preprocess|camlp"
            "|syntax error|camlp4"
        ),
        why="Messages of the OCaml tools about the code that they were given.",
        example="Parse error: [fun_binding] expected after [ipatt]",
        not_when=[
            ("unknown", 'let e = "Parse error: x"'),
        ],
    ),
    rule(
        "library-missing",
        _BUILD,
        r"^ocamlfind: Package [`'\"]\S+ not found",
        r"^(?:No package '|Package ')\S+' .*found",
        r": error while loading shared libraries: ",
        r"Library not loaded: ",
        r"was not found in the pkg-config search path",
        r"^Package \S+ not found\b",
        r"^E: Cannot find (?:findlib package|external tool)",
        r"^Fatal error: Required .* not found",
        r"^ocamlfind: \[?(?:ERROR|Error)",
        r"^findlib: (?!\[WARNING\])",
        r"^ocamlfind: \S+: No such file",
        r"^configure: error: ",
        (
            r"^(?:ERROR|Error|error): (?:Could not find|Cannot find|Missing) (?:the"
            r" )?(?:library|header|package|C library|required)"
        ),
        r"^checking for \S+\.\.\. (?:not found|no)\. *(?:abort|exit)",
        r"^(?:One or several |Some )?required (?:tools|libraries|packages|programs) are missing",
        words="found|cannot find|ocamlfind|findlib|configure: error|missing|checking for"
        "|loading shared|not loaded",
        why=(
            "A library or tool that the package's build looks for is not among its "
            "dependencies, or its configure script gives up."
        ),
        example="ocamlfind: Package `lablgtk2.glade' not found",
        overtaken_by=(WENT_ON,),
        not_when=[
            (
                "unknown",
                "- ocamlfind: Package `lablgtk2' not found\n-> installed ocamlgraph.1.8.7",
            ),
            ("skipped", ("ERROR: unable to select packages:\n  foo-dev (no such package):")),
        ],
    ),
    rule(
        "command-missing",
        _BUILD,
        r"^make(?:\[\d+\])?: \S+: (?:Command not found|No such file or directory|not found)$",
        r"\[ERROR\] Command not found: ",
        r'^"?[\w.+/-]+"?: command not found\.?$',
        r"^bwrap: execvp \S+: ",
        r"^(?:/bin/)?(?:ba|da|z)?sh: (?:line )?(?:\d+: )?[\w.+/-]+: (?:command )?not found$",
        r"^env: [^:]{1,80}: No such file or directory$",
        r"\*\*\* No rule to make target",
        r"^Unable to find \S+ in (?:the )?PATH",
        words="not found|no such file|execvp|no rule to make|unable to find",
        yields_to=("sandbox-bwrap",),
        why=(
            "A build command of the package, or one that it calls, does not exist: a missing "
            "dependency of the package."
        ),
        example="make: autoconf: No such file or directory",
        not_when=[
            (
                "errored",
                (
                    "bwrap: Creating new namespace failed: Operation not permitted\n"
                    "bwrap: execvp make: No such file or directory"
                ),
            ),
        ],
    ),
    rule(
        "patch-failed",
        _BUILD,
        r"These patches didn't apply\b",
        r"[Aa]pplication of \S+\.(?:patch|diff) failed",
        r"^Hunk #\d+ FAILED",
        r"^\d+ out of \d+ hunks? (?:FAILED|failed)",
        r"^patch: \*{4} (?:malformed|Only garbage|Can't find file)",
        r": Bad hash for extra-file",
        r": Missing extra-file for",
        r"^Some files in .* couldn't be installed",
        r"String expansion failed for these files",
        words=(
            "patches didn|application of|hunk|patch:|extra-file|couldn't be installed|string"
            " expansion"
        ),
        why=(
            "opam applies the package's patches and checks its extra files and .install "
            "file: these are parts of the package."
        ),
        example="These patches didn't apply at ~/.opam/5.3/.opam-switch/build/x.1:",
    ),
    rule(
        "outside-prefix",
        _BUILD,
        (
            r"^(?:cp|install|mkdir|mv|ln|rm|touch|tee|/usr/bin/install"
            r"|/bin/cp)\b.{0,200}.?/(?:usr|etc|opt|bin|sbin|lib|var/lib|root"
            r"|home/\w+/\.(?!opam))\S{0,200}: (?:Permission denied|Read-only file system)"
        ),
        r"Unix_error\(Unix\.EROFS",
        r'^Sys_error\("[^"]+: Read-only file system"\)',
        words="permission denied|read-only file system|erofs",
        why=(
            "The package writes outside its own prefix and build directory, which the "
            "sandbox and ordinary permissions forbid."
        ),
        example="cp: cannot create regular file `/usr/bin/tool': Permission denied",
    ),
    rule(
        "sandbox-read-only",
        _BUILD,
        r"^(?!bwrap)(?!(?>.*?/(?:build|\.opam)/).*[Rr]ead-only).*\b[Rr]ead-only file system\b",
        words="read-only file system",
        inside=True,
        why=(
            "opam's sandbox keeps all but the package's own directories read-only: a build "
            "command that writes elsewhere is the package's fault."
        ),
        example=(
            "# command  ~/.opam/opam-init/hooks/sandbox.sh build npm ci\n"
            "# cannot save the cache: Read-only file system (os error 30)"
        ),
        not_when=[
            ("unknown", "cannot save the cache: Read-only file system (os error 30)"),
            (
                "unknown",
                (
                    "# command  ~/.opam/opam-init/hooks/sandbox.sh build make\n"
                    "# /home/o/.opam/5.3/.opam-switch/build/a.1/x.o: Read-only file system"
                ),
            ),
        ],
    ),
    rule(
        "uncaught-exception",
        _BUILD,
        (
            r"^(?:\S+: )?Fatal error: exception (?!.{0,200}(?:No space left|ENOSPC"
            r"|Out_of_memory|Unix\.E))"
        ),
        (
            r"^Fatal error: exception Unix\.Unix_error\(Unix\.(?:ENOENT|EACCES|EROFS|EPERM"
            r"|EEXIST)"
        ),
        r"^E: Failure\(\"(?!Command ')",
        r"^Uncaught exception: ",
        r"^Exception: \S",
        r"^Traceback \(most recent call last\):$",
        r"got signal (?:SEGV|ABRT|BUS|FPE)",
        r"^Stack overflow",
        r"^Aborted \(core",
        r": Assertion .{1,300} failed",
        words="exception|failure(|traceback|got signal|stack overflow|aborted|assertion",
        after=(
            r"ERROR while (?:compiling|installing)|^(?:exit-code|command) +\S|Leaving directory"
            r"|^ocaml|^make|^\(cd _build|Command exited|^[+\-] "
        ),
        why="A program of the package dies of its own exception.",
        example=(
            "make: Entering directory 'x'\nFatal error: exception Invalid_argument(\"Gc.finalise\")"
        ),
    ),
)
"""Missing commands and libraries, refused patches, exceptions."""
