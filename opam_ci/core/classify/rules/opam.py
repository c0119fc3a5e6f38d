"""opam's own troubles: its root, its repositories. Messages as in opam 1.2 to 2.5."""

from opam_ci.core.classify.rule import OUTSIDE_PACKAGE_CODE, Rule
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason

_BEFORE = (Phase.CHECKOUT, Phase.SETUP, Phase.SOLVE, Phase.DEPEXTS, Phase.FETCH)

OPAM: tuple[Rule, ...] = of_opam(
    rule(
        "opam-exit-status",
        Cause.OPAM_INTERNAL,
        (
            r"(?:^|\\?\" |\bopam\b.{0,200})(?:failed|exited) with (?:exit )?(?:status|code)"
            r" (?:15|50|99)$"
        ),
        (
            r"^(?:Error: |\[ERROR\] )?The process '\S*opam(?:\.exe)?' failed with exit code"
            r" (?:2|15|50|99)$"
        ),
        words="failed with|exited with",
        quoted=True,
        yields_to=PROOF_IDS,
        why=(
            "The CI's shell passes opam's exit code on, and these mean one thing: a locked "
            "root, a wrong configuration, a bug of opam."
        ),
        example='        exit 1" failed with exit status 99',
        not_when=[
            (
                "failed",
                'File "a.ml", line 1:\nError: x\n        exit 1" failed with exit status 99',
            ),
        ],
    ),
    rule(
        "opam-exit-killed",
        Cause.UNKNOWN,
        (
            r"(?:^|\\?\" |\bopam\b.{0,200})(?:failed|exited) with (?:exit )?(?:status|code)"
            r" (?:137|143)$"
        ),
        words="failed with|exited with",
        quoted=True,
        yields_to=("job-cancelled", "opam-interrupted", *PROOF_IDS),
        why=(
            "opam itself was killed: the code is that of a signal, which a shell passes on. A "
            "package's command that is killed makes opam exit with 31."
        ),
        example='        exit 1" failed with exit status 137',
        not_when=[
            (
                "failed",
                'File "a.ml", line 1:\nError: x\n        exit 1" failed with exit status 137',
            ),
        ],
    ),
    rule(
        "opam-repository-update",
        Cause.REPOSITORY_STATE,
        r"Initial (?:repository fetch|download of repository) failed",
        r"Could not (?:update|fetch|read|initialise) repo(?:sitory)?\b",
        r"Failed to regenerate",
        r"Initiali[sz]ation of repository failed",
        r"^\[ERROR\] (?:Could not|Cannot) (?:get|fetch|read) (?:remote|the) repo",
        r"while downloading\s+\S*(?:urls\.txt|index\.tar\.gz|/repo\b)",
        r"^\S+/(?:urls\.txt|index\.tar\.gz)$",
        r"fetching sources failed: ",
        r"repository .{0,80} (?:is corrupt|not found at)",
        r"Update failed(?: for|:)",
        r"Could not update repositor",
        r"No repositories could be",
        r"repo(?:sitory)? update failed",
        r"Errors? (?:occurred )?while updating repos",
        r"^\[WARNING\] Errors while (?:updating|parsing) repos",
        words="repo|regenerate|urls.txt|index.tar.gz|sources failed|update failed",
        phases=_BEFORE,
        yields_to=("opam-file-unreadable", *PROOF_IDS),
        why=(
            "opam could not refresh its copy of the package repository, which is the CI's affair."
        ),
        example='[ERROR] Could not update repository "default": "curl" exited with code 22',
        not_when=[
            (
                "failed",
                (
                    "[ERROR] Could not read file /ci/repo/packages/a/a.1/opam. skipping:\n"
                    "[ERROR] Could not update repository pr: Strict mode: aborting"
                ),
            ),
            (
                "failed",
                (
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# Failed to regenerate parser.ml: menhir is too old"
                ),
            ),
        ],
    ),
    rule(
        "opam-unknown-package",
        Cause.REPOSITORY_STATE,
        (
            r"^\[ERROR\] (?:No package named (?P<package>\S+?) found|Package \S+ has no version"
            r" |\S+: (?:unknown package|no package named)"
            r"|\S+ is not a (?:valid|known)(?: versioned)? package)"
        ),
        r"^\[ERROR\] (?:No packages? match(?:ing|es)|Unknown package)",
        r"unknown package$",
        r"the package no longer exists",
        words="package",
        phases=_BEFORE,
        yields_to=("opam-file-unreadable", *PROOF_IDS),
        why=(
            "The job names a package of the submission itself: if opam does not know it, the "
            "repository that it was given is wrong."
        ),
        example="[ERROR] No package named cppo found.",
        not_when=[
            (
                "failed",
                (
                    "[ERROR] Could not read file /ci/repo/packages/a/a.1/opam. skipping:\n"
                    "At a.1/opam:3:0: Parse error\n"
                    "[ERROR] No package named a found."
                ),
            ),
        ],
    ),
    rule(
        "opam-locked",
        Cause.OPAM_INTERNAL,
        r"[Aa]nother process has locked \S+",
        # opam 1.2, and those before it.
        r"Timeout trying to acquire \w+ lock to\b",
        r"\bAn ?other process \(\d+\) has already locked ",
        words="has locked|trying to acquire|has already locked",
        yields_to=PROOF_IDS,
        why="Two runs share an opam root, which must never be.",
        example="[ERROR] Another process has locked /home/opam/.opam/lock and non blocking mode",
        not_when=[
            ("failed", ("Another process has locked x\n[FAIL]  lock  1  is fair.")),
        ],
    ),
    rule(
        "lock-words",
        Cause.OPAM_INTERNAL,
        r"Could not (?:acquire|get) .{0,40}lock",
        # cargo blocks on a lock of its own jobs.
        r"(?<!Blocking )waiting for .{0,40}lock",
        r"^cannot (?:un)?lock \S+",
        words="lock",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="Something of the CI waits for a lock of the CI. Package code has locks of its own.",
        example="Could not acquire the lock of the cache",
        not_when=[
            ("failed", ("waiting for the lock\n[FAIL]  lock  1  is fair.")),
            (
                "failed",
                (
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# waiting for the database lock\n"
                    "# giving up"
                ),
            ),
        ],
    ),
    rule(
        "opam-root",
        Cause.OPAM_INTERNAL,
        r"is not (?:a valid|an) opam root",
        r"[Oo]pam has not been initiali[sz]ed",
        r"Switch broken\?",
        # opam's own backtraces.
        r"(?:Called from|Raised (?:at|by)|Re-raised at|exception)\b.{0,80}\bfile \"src/\S*opam",
        r"(?i:exception file) \"src/\S*opam",
        r"is an unknown compiler switch",
        r"[Cc]ompiler switch \S+ is not installed",
        r"[Ss]witch .{0,60}is (?:corrupt|broken|not installed|incomplete)",
        # The second form is that of opam 1.0, whose internal errors cite the system's.
        r'(?:^|\()(?:[^\s(]*[/\\])?opam(?:\.exe)?: "\w+" failed on ',
        r"Fetch_fail\(\"(?:OpamSystem|Sys_error|Unix|Failure|End_of_file|Not_found)",
        r"OpamSystem\.(?:File_not_found|Locked|Internal_error)",
        (
            r"^Fatal error:\s*(?:Sys_error|Unix|Not_found|Failure|OpamSystem|OpamFormat|OpamPp"
            r"|End_of_file|Stack_overflow|Invalid_argument|$)"
        ),
        r"Actions cancelled because of",
        r"requires? '?--confirm-level",
        r"opam(?: init)?: unknown (?:option|command)",
        r"opam requires .{0,60}(?:upgrade|newer)",
        r"^\[ERROR\] Your version of (?:OPAM|opam) \S+ is not recent enough",
        r"opam: (?:unknown|unrecognized) ",
        r"^(?:\S*/)?opam(?:-\w+)?: internal error, uncaught exception",
        # cmdliner's, about the command line that the CI wrote.
        (
            r"^(?:\S*/)?opam: (?:opam\S*: )?(?:[A-Z]+(?:…|\.\.\.)? arguments?|option |invalid "
            r"|required |[Tt]oo many)"
        ),
        r"^(?:\S*/)?opam: .{1,80} was (?:added|removed) in version \S+ of the opam CLI",
        r"^Usage: opam\S* [a-z-]+ ",
        # opam changed its root's format, and stops.
        r"^Update done, please now retry your command",
        r"^\[ERROR\] .{1,120} can ?not be (?:specified at the same time|updated using `opam)",
        r"^\[ERROR\] Error in configuration file",
        r"^\[ERROR\] (?:File does not exist: |Directory \S+ already exists\. Please remove it)",
        (
            r"^\[ERROR\] (?:No switch is currently set|No switch named|The selected switch"
            r"|No option named|No configured repositories|Version control url not supported"
            r"|Initiali[sz]ation failed|State (?:file|cache)|Internal (?:error|inconsistency)"
            r"|opam is not)"
        ),
        words=(
            "opam|fetch_fail|switch|exception|fatal error|actions cancelled|confirm-level"
            "|format upgrade|error|please"
        ),
        yields_to=("opam-rejects-package", *PROOF_IDS),
        phases=(*_BEFORE, Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST, Phase.VERIFY),
        why="opam's root, state or arguments are wrong: the CI sets them.",
        example="[ERROR] /home/opam/.opam is not a valid opam root",
        not_when=[
            (
                "failed",
                (
                    "# exit-code 2\n"
                    "# make: Entering directory 'x'\n"
                    '# Fatal error: exception Invalid_argument("index out of bounds")'
                ),
            ),
        ],
    ),
    rule(
        "opam-rejects-package",
        FailureReason.BUILD,
        r"appears as a library dependency in",
        r"^- .{0,200}defines the libraries \{",
        r"attempted to install a file outside",
        r"\.install file escaping",
        words="library dependency|defines the libraries|install",
        why="opam refuses what the package's own files say.",
        example="[ERROR] extlib appears as a library dependency in /b/cudf.config, but:",
    ),
    rule(
        "opam-file-unreadable",
        FailureReason.OPAM_FILE,
        r"Could not read file \S*packages/\S+/opam",
        r"Strict mode: aborting",
        r"Parse error in \S*packages/",
        r"^\[ERROR\] Invalid opam file in ",
        # A format that is too new is the fault of the opam that reads it.
        r"^\[ERROR\] At \S*packages/\S+/(?:opam|url):[\d:-]+ (?!unsupported)",
        r"^(?:\* )?\*{0,2}error +\d+:(?:\*\*)? File format error",
        r"^\[ERROR\] Undefined filter variable \S+ in dependencies of ",
        words="packages/|strict mode|invalid opam file|file format error|undefined filter",
        why=(
            "opam cannot parse an opam file of the repository: the submission's, since the "
            "base was readable."
        ),
        example=(
            "[ERROR] Could not read file /ci/repo/packages/a/a.1/opam. skipping:\n"
            "At /ci/repo/packages/a/a.1/opam:3:0-3:1::\n"
            "Parse error"
        ),
    ),
    rule(
        "opam-lint",
        FailureReason.LINT,
        r"^\S+: Errors\.$",
        (
            r"^(?:\* )?\*{0,2}error +\d{1,2}:(?:\*\*)? "
            r"(?:Missing field|Fields? |Invalid |Unexpected|Unrecogni[sz]ed"
            r"|Undefined|Unknown|Package |Synopsis|Inconsistent|Deprecated|Cannot|Strange)"
        ),
        # The repository's own check of a package.
        (
            r"^Error in [a-z][\w+-]*\.[v\d][\w.+~-]*: +(?:error +\d|The field |Your dune-project "
            r"|Weak checksum|pin-depends |extra-files |No package source|Failed to parse dune"
            r"|Unexpected file |Forbidden permission|There is no way|An upper bound|package with )"
        ),
        r"^[\w+-]+\.opam: changes needed:$",
        words="errors.|error |changes needed",
        yields_to=PROOF_IDS,
        why=(
            "What opam lint, or another check of opam files, calls an error is in the submitted "
            "opam file."
        ),
        example="pkg.opam: Errors.\n             error 23: Missing field 'maintainer'",
        not_when=[
            ("unknown", "pkg.opam: Warnings.\n           warning 25: Missing field 'authors'"),
        ],
    ),
    rule(
        "merge-conflict",
        FailureReason.MERGE_CONFLICT,
        r"^CONFLICT \(",
        r"[Aa]utomatic merge failed",
        r"Cannot merge to master",
        r"^error: could not apply \w+",
        r"Merge conflict in ",
        r"^error: Failed to merge in the changes",
        words="conflict|merge|could not apply",
        phases=(Phase.CHECKOUT,),
        yields_to=(),
        why="The head does not merge into its base.",
        example="CONFLICT (content): Merge conflict in packages/a/a.1/opam",
    ),
    rule(
        "opam-parse-unclear",
        None,
        r"^Parse error \[skipped\]",
        r"No valid package definition found",
        r"^\[ERROR\] At \S+\.opam:\d+",
        words="parse error|no valid package|.opam:",
        yields_to=("opam-file-unreadable",),
        why=(
            "An opam file inside a source tree is unreadable: wrong in the archive, or "
            "damaged on this worker. The words are the same."
        ),
        example="[ERROR] No valid package definition found for tls",
        not_when=[
            (
                "failed",
                (
                    "[ERROR] Could not read file /ci/repo/packages/a/a.1/opam. skipping:\n"
                    "Parse error [skipped]"
                ),
            ),
        ],
    ),
)
"""opam."""

BEFORE_PACKAGE_CODE = _BEFORE
"""Phases before any package code runs."""
