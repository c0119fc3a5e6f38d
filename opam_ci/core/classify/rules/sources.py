"""Sources that are not where the opam file says, or not what it says."""

from opam_ci.core.classify.rule import NETWORK_PHASES, Rule
from opam_ci.core.classify.rules.generic import OPAM_COMMAND_FAILED, PACKAGE_REPORT
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason

_FETCHING = (Phase.CHECKOUT, Phase.SETUP, Phase.FETCH, Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST)

SOURCES: tuple[Rule, ...] = of_opam(
    rule(
        "source-checksum",
        FailureReason.CHECKSUM,
        r"^\[ERROR\] Wrong checksum for",
        r"[Bb]ad checksum",
        r"^checksum, expected$",
        r"[Cc]hecksum mismatch(?! for bottle)",
        r": Wrong checksum",
        r"^- \S{32,} \[(?:expected|actual) result\]",
        r"Conflicting file hashes",
        r"[Mm]issing checksum\b",
        r"^(?:MD5|SHA\d+)\b.{0,200} differ:?$",
        r"[Cc]hecksum (?:differs|does not match|verification failed)",
        words="checksum|result]|file hashes| differ",
        phases=_FETCHING,
        yields_to=PROOF_IDS,
        why="The archive is there and is not the one that the opam file describes.",
        example="[ERROR] Failed to get sources of a.1: Bad checksum",
        not_when=[
            ("failed", "[FAIL]  download  3  Bad checksum, expected sha256=00"),
        ],
    ),
    rule(
        "ref-missing",
        FailureReason.SOURCE,
        r"[Cc]ouldn't find remote ref (?!(?:refs/)?pull/)",
        r"[Rr]emote branch \S+ not found",
        r"pathspec '.*' did not match",
        r"(?:^|\(|\] )(?:Branch|Commit|Tag) \S+ not found",
        r"Could not find (?:branch|commit|tag|reference) ",
        r"unknown revision",
        words="remote ref|remote branch|pathspec|not found|could not find|unknown revision",
        phases=_FETCHING,
        yields_to=PROOF_IDS,
        why="The branch, tag or commit that the opam file names does not exist.",
        example="fatal: Couldn't find remote ref v1.0",
        not_when=[
            ("failed", ("fatal: Couldn't find remote ref x\n[FAIL]  git  1  clones.")),
        ],
    ),
    rule(
        "submodule-missing",
        FailureReason.SOURCE,
        r"^Fetched in submodule path '[^']+', but it did not contain",
        r"^Unable to checkout '\w+' in submodule path",
        words="submodule path",
        phases=_FETCHING,
        yields_to=("git-refused", "dns", "connection", *PROOF_IDS),
        why=(
            "The server has the repository of a submodule, and not the commit that is named. "
            "Where git could not ask the server, this says nothing."
        ),
        example="Fetched in submodule path 'lib', but it did not contain 1fa8a3f7fb20.",
        not_when=[
            (
                "errored",
                (
                    "fatal: remote error: access denied or repository not exported\n"
                    "Fetched in submodule path 'lib', but it did not contain 1fa8a3f7fb20."
                ),
            ),
        ],
    ),
    rule(
        "repository-gone",
        FailureReason.SOURCE,
        r"(?:^|\")fatal: repository '.*' not found",
        r"^remote: (?:Repository|Project) not found",
        r"could not read Username for",
        r"^(?:ERROR|remote): Repository not found",
        words="not found|username",
        phases=_FETCHING,
        yields_to=PROOF_IDS,
        why="The repository that the opam file names does not exist, or is private.",
        example="fatal: repository 'https://github.com/x/gone/' not found",
        not_when=[
            ("failed", ("fatal: repository 'x' not found\n[FAIL]  git  1  clones.")),
        ],
    ),
    rule(
        "repository-archive-gone",
        Cause.REPOSITORY_STATE,
        (
            r"(?:code|error) (?:40[0134]|410|451) .{0,40}"
            r"\bhttps?://\S+/archives/[^\s/]{1,80}\+opam\.tar\.gz"
        ),
        words="opam.tar.gz",
        phases=_FETCHING,
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why=(
            "opam 1 asks the repository's server first, for an archive that the server made; a "
            "repository that is too old names archives that are gone."
        ),
        example=(
            "[ERROR] curl: code 404 while downloading "
            "https://opam.ocaml.org/archives/a.1+opam.tar.gz"
        ),
        not_when=[
            (
                "failed",
                (
                    "[ERROR] curl: code 404 while downloading "
                    "https://opam.ocaml.org/archives/a.1+opam.tar.gz\n"
                    "[ERROR] curl: code 404 while downloading https://x.org/a.1.tar.gz"
                ),
            ),
        ],
    ),
    rule(
        "repository-archive-refused",
        Cause.REPOSITORY_STATE,
        r"^curl: 40\d is not a valid return code",
        words="valid return code",
        after=r"^(?:\S+ +)?Downloading \S+/archives/\S+\+opam\.tar\.gz",
        phases=_FETCHING,
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why="The same, as opam 1.0 says it.",
        example=(
            "Downloading http://opam.ocaml.org/archives/a.1+opam.tar.gz.\n"
            "curl: 404 is not a valid return code."
        ),
        not_when=[
            (
                "failed",
                (
                    "Downloading http://opam.ocaml.org/archives/a.1+opam.tar.gz.\n"
                    "curl: 404 is not a valid return code.\n"
                    "[ERROR] curl: code 404 while downloading https://x.org/a.1.tar.gz"
                ),
            ),
        ],
    ),
    rule(
        "repository-tool-failed",
        Cause.REPOSITORY_STATE,
        r'^(?:\[\d+\] )?ERROR: Command "opam-(?:curl|rsync|git|darcs)-(?:init|update|download) ',
        words="error: command",
        phases=_FETCHING,
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why=(
            "The first opam had a program of its own for each kind of repository, which asks the "
            "repository's server for lists and for the archives that the server made."
        ),
        example=(
            '[41] ERROR: Command "opam-rsync-download /mnt/opam a.1" failed (see log/1.err)\n'
            "Fatal error: exception Globals.Exit(1)"
        ),
        not_when=[
            (
                "failed",
                (
                    '[41] ERROR: Command "opam-curl-download http://x.org a.1" failed\n'
                    "[ERROR] curl: code 404 while downloading https://x.org/a.1.tar.gz"
                ),
            ),
        ],
    ),
    rule(
        "script-download",
        Cause.IMAGE,
        r"^(?:\d\S+ \d\S+ )?ERROR (?:40[0134]|410): ",
        r"^HTTP request sent, awaiting response\.\.\. 40[34]",
        r"^curl: \(22\) .*40\d",
        words="40|410",
        # As a shell traces it, or docker; opam traces the whole path, and each word quoted.
        after=r"^(?:\++ ?|RUN |Step \d+/\d+ : RUN )(?:sudo )?(?:wget|curl) (?!\")",
        phases=NETWORK_PHASES,
        yields_to=(PACKAGE_REPORT, OPAM_COMMAND_FAILED, *PROOF_IDS),
        why="A script of the CI asked for a file that is not there; no package named that file.",
        example=(
            "+ sudo wget https://example.org/opam-2-linux -O /usr/local/bin/opam\n"
            "2024-01-01 00:44:53 ERROR 404: Not Found."
        ),
        not_when=[
            (
                "failed",
                (
                    "#=== ERROR while installing a.1 ===#\n"
                    "# opam-version 1.2.2\n"
                    "# exit-code    8\n"
                    "### stderr ###\n"
                    "# + wget https://example.org/data.tgz\n"
                    "# 2024-01-01 00:44:53 ERROR 404: Not Found."
                ),
            ),
        ],
    ),
    rule(
        "source-not-found",
        FailureReason.SOURCE,
        (
            r"code (?:40[0134]|410|451) while downloading"
            r"(?! \S+/archives/[^\s/]{1,80}\+opam\.tar\.gz)"
        ),
        r"\bcurl error code (?:40[0134]|410|451)\b",
        r"HTTP (?:error )?(?:code )?(?:40[0134]|410|451)",
        r"returned error: (?:40[0134]|410|451)",
        r"ERROR (?:40[0134]|410): ",
        r"^(?:Error )?404:? Not Found",
        r"^(?:curl: )?\(22\) .*40\d",
        r"^HTTP/\S+ 404",
        r"response\.\.\. 40[34]",
        words="40|41|451",
        phases=_FETCHING,
        yields_to=("opam-repository-update", *PROOF_IDS),
        why=("The host answered, and has no such file: the URL in the opam file is wrong or dead."),
        example='Fetch_fail("https://x.org/a.tgz (curl: code 404 while downloading x)")',
        not_when=[
            (
                "errored",
                (
                    "[ERROR] curl: code 404 while downloading https://x.org/urls.txt\n"
                    "[ERROR] Could not fetch repo"
                ),
            ),
            (
                "failed",
                ('File "http.t", line 1, characters 0-0:\n+++ http.t.corrected\n+  404: Not Found'),
            ),
        ],
    ),
    rule(
        "source-archive",
        FailureReason.SOURCE,
        r"Could not extract archive",
        r"Unknown archive type",
        # tar's and gzip's words, in a message of opam's.
        (
            r"^(?>\[ERROR\] |.*?(?:Fetch_fail|exited with code)).*(?:not in gzip format"
            r"|[Uu]nrecognized archive|not look like a tar archive|file format not recognized"
            r"|Archive .{1,200} is empty)"
        ),
        words="archive|gzip|format not",
        phases=_FETCHING,
        yields_to=PROOF_IDS,
        why="What was downloaded is no archive.",
        example='Fetch_fail("Could not extract archive: Unknown archive type: /tmp/a")',
        not_when=[
            ("failed", ("Unknown archive type\n[FAIL]  tar  1  reads.")),
            (
                "unknown",
                (
                    "+ tar -t /ci/image.tar\n"
                    "tar: This does not look like a tar archive\n"
                    "tar: Exiting with failure status due to previous errors"
                ),
            ),
        ],
    ),
    rule(
        "fetch-disk",
        Cause.DISK_FULL,
        r"curl: \(23\)",
        r"exited with code 23\b",
        words="23",
        phases=(Phase.FETCH, Phase.SETUP, Phase.DEPEXTS),
        yields_to=PROOF_IDS,
        why="curl's code 23: it could not write what it received.",
        example='curl failed: "/usr/bin/curl" exited with code 23',
        not_when=[
            ("failed", ("curl: (23)\n[FAIL]  x  1  writes.")),
        ],
    ),
    rule(
        "download-tool",
        Cause.IMAGE,
        r"\(download failed\)",
        r"[Nn]o download tool",
        r"curl (?:or wget )?(?:is|are) required",
        words="download|curl ",
        phases=(Phase.FETCH, Phase.SETUP),
        yields_to=PROOF_IDS,
        why="opam found no program to download with: the image lacks curl.",
        example='Fetch_fail("https://x.org/a.tgz (download failed)")',
        not_when=[
            ("failed", ("x (download failed)\n[FAIL]  x  1  y.")),
        ],
    ),
    rule(
        "download-command",
        Cause.NETWORK,
        r"Download command failed",
        r"[Cc]url failed\b",
        r"^Failed to download\b",
        r"curl error \d+\b",
        r"Download command succeeded, but resulting file not found",
        r"Downloaded file not found",
        words="download|curl",
        phases=(Phase.FETCH, Phase.SETUP, Phase.DEPENDENCIES, Phase.BUILD, Phase.TEST),
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why="The download program itself failed: no host answered it with a refusal.",
        example="[ERROR] Failed to get sources of a.1: Download command failed",
        not_when=[
            (
                "failed",
                (
                    "[ERROR] Failed to get sources of a.1: curl failed\n"
                    "curl: code 404 while downloading https://x.org/a.tgz"
                ),
            ),
        ],
    ),
    rule(
        "many-sources",
        Cause.NETWORK,
        r"^(?:\W{1,2} ){0,2}fetch +[\w+~-]+ +\S+$",
        r"^\[ERROR\] Failed to get sources of ",
        r"^Cannot download http",
        words="fetch|failed to get sources|cannot download",
        at_least=4,
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why=(
            "Sources of many packages could not be had at once: that is the network, or a mirror."
        ),
        example=(
            "The following actions failed\n- fetch a 1\n- fetch b 1\n- fetch c 2\n- fetch d 3"
        ),
        not_when=[
            (
                "failed",
                (
                    "curl: code 404 while downloading https://x.org/a.tgz\n"
                    "- fetch a 1\n"
                    "- fetch b 1\n"
                    "- fetch c 1\n"
                    "- fetch d 1"
                ),
            ),
            ("unknown", "- fetch a 1"),
        ],
    ),
    rule(
        "many-sources-listed",
        Cause.NETWORK,
        r"^[a-z][\w+-]*\.(?:v?\d|dev|base|transition)[\w.+~-]*$",
        words=".",
        after=r"^\[ERROR\] The sources of the following couldn't be obtained",
        at_least=4,
        yields_to=("source-not-found", "source-checksum", *PROOF_IDS),
        why=(
            "opam 2.0 lists the packages whose sources it could not get, mostly without a reason: "
            "so many at once are the network's doing."
        ),
        example=(
            "[ERROR] The sources of the following couldn't be obtained, aborting:\n"
            "          - a.1\n          - b.2\n          - c.3\n          - d.v0.4"
        ),
        not_when=[
            (
                "failed",
                (
                    "curl: code 404 while downloading https://x.org/a.tgz\n"
                    "[ERROR] The sources of the following couldn't be obtained, aborting:\n"
                    "          - a.1\n          - b.2\n          - c.3\n          - d.4"
                ),
            ),
            (
                "unknown",
                (
                    "[ERROR] The sources of the following couldn't be obtained, aborting:\n"
                    "          - a.1\n          - b.2"
                ),
            ),
        ],
    ),
    rule(
        "source-unclear",
        None,
        r"^\[ERROR\] \S+ is not available$",
        r"Could not download archives? of",
        r"Could not get the source",
        r"^\[ERROR\] Failed to get (?:extra )?sources?\b",
        r"^\[ERROR\] Download failed: ",
        r"couldn't be obtained",
        r"Cannot download \S+(?!, please)",
        words="not available|could not|failed to get|download failed|obtained|cannot download",
        yields_to=(PACKAGE_REPORT, *PROOF_IDS),
        why=(
            "A source could not be had, and the log does not say why: a dead link and a dead "
            "network look the same."
        ),
        example="[ERROR] https://x.org/a.tgz is not available",
        not_when=[
            ("failed", ("[ERROR] x is not available\n[FAIL]  x  1  y.")),
            (
                "failed",
                (
                    "===== ERROR while installing a.1 =====\n"
                    "Could not get the source for a.1:\n"
                    "OpamGlobals.Exit(66)\n"
                    "===== ERROR while installing b.1 =====\n"
                    "# command              make\n"
                    "# exit-code            2"
                ),
            ),
        ],
    ),
)
"""Sources."""
