"""Package managers of the platforms: mirrors that fail, are stale, or serve broken packages."""

from opam_ci.core.classify.rule import NETWORK_PHASES, Rule
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import Cause

MIRRORS: tuple[Rule, ...] = (
    rule(
        "lists-missing",
        Cause.PACKAGE_MIRROR,
        # FreeBSD's pkg goes on without the repository, and then knows no package.
        r"\bRepository \S+ (?:cannot be opened|missing)\. 'pkg update' required",
        r"^Unable to update repository ",
        r"^Error updating repositories!",
        # apt does the same with its indexes, pacman with its databases, dnf with a repository.
        r"Some index files failed to download",
        r"database file for '\S+' does not exist",
        r"^(?:Warning: )?Ignoring repositories: \S",
        words=(
            "pkg update|update repository|updating repositor|index files|database file"
            "|ignoring repositor"
        ),
        phases=NETWORK_PHASES,
        yields_to=PROOF_IDS,
        why=(
            "The package manager says that it works without its lists: that it then knows no "
            "package of some name proves nothing about that package."
        ),
        example=(
            "pkg: Repository FreeBSD cannot be opened. 'pkg update' required\n"
            "pkg: No packages available to install matching 'gmp' have been found"
        ),
        not_when=[
            ("failed", ("Error updating repositories!\n[FAIL]  pkg  1  updates.")),
        ],
    ),
    rule(
        "mirror-apt",
        Cause.PACKAGE_MIRROR,
        (
            # OASIS, too, begins its messages with `E: ` and `W: `.
            r"^(?:E|W): (?:Failed to (?:fetch|download|stat|write|create|exec|get|open|parse|lock)"
            r"|Unable to (?:fetch|acquire|lock|correct|write|mkstemp|determine|parse|connect|stat"
            r"|find expected)|Some (?:index|packages)|The (?:repository '|package (?:lists|cache)"
            r"|list of sources|method |HTTP)|Release file|GPG error|Hash Sum|Could not (?:get|open"
            r"|connect|resolve|exec|read|write|perform|configure|load|create|lock|handle)|Couldn't"
            r" (?:create|make|download|rebuild|retrieve|stat|configure|access)|dpkg was|Sub-process"
            r"|Problem (?:opening|with|parsing|renaming|executing|unlinking|closing|syncing)"
            r"|Internal error|Invalid (?:operation|record|URI|archive|signature)|Encountered a"
            r"|Method |Unmet|Error, pkgProblem|Broken|Read error|Write error|Archives? director"
            r"|List directory|Clearsigned|At least one invalid|Opening /|There (?:are problems|were"
            r" unauth)|Packages were|Essential packages|Repository '|Type '|Malformed|Splitting up"
            r"|Can't (?:mkstemp|drop|write|find a source)|Conflicting distribution|Waited for|An"
            r" error occurred during|Prior errors|Trivial Only|You must put some|flAbsPath"
            r"|Download(?:ing)? (?:failed|is performed))"
        ),
        r"^(?:Err|Ign):\d+ ",
        # apt 3 writes its marks out.
        (
            r"^(?:Error|Warning|[EW]): ?(?:Failed to fetch |Unable to (?:fetch some archives"
            r"|acquire the dpkg|correct problems|satisfy dependencies)|Some index files failed"
            r"|The (?:repository '|package lists or|list of sources)|Sub-process |Release file for "
            r"|GPG error: |Could not (?:get lock|open lock|handshake)|dpkg was interrupted)"
        ),
        r"Hash Sum mismatch",
        r"Mirror sync in progress",
        r"unexpected size \(\d",
        r"does not have a Release file",
        r"NO_PUBKEY",
        r"EXPKEYSIG",
        r"is not valid yet",
        r"(?:is not|but it is not going to be) (?:installable|installed)$",
        r"Undetermined Error",
        r"^dpkg(?:-deb|-split)?: (?:error|warning: files list|.{0,80}(?:unrecoverable|corrupt))",
        r"^debconf: DbDriver .{0,80}(?:locked|could not)",
        r"dpkg: unrecoverable",
        r"\d{3} +\w[\w ]{1,60} \[IP: ",
        r"has unmet dependencies",
        r"held broken packages",
        r"Unable to connect to \S+:http",
        r"^The following packages have unmet dependencies",
        r"[Ss]ignature (?:couldn't be|verification)",
        words=(
            "installable|to fetch|unable to|some index|the repository|the package lists"
            "|the list of|sub-process|release file|gpg error|could not|interrupted"
            "|to be installed|e: |w: |err:|ign:"
            "|hash sum|mirror sync|unexpected"
            " size|release file|no_pubkey"
            "|expkeysig|not valid yet|undetermined|dpkg|[ip: |unmet|held broken|:http"
            "|signature"
        ),
        phases=NETWORK_PHASES,
        yields_to=("depext-unknown-apt", *PROOF_IDS),
        why="apt could not get lists or packages from its mirror, or dpkg broke on them.",
        example="E: Failed to fetch http://deb.example/libev4.deb  Hash Sum mismatch",
        not_when=[
            ("failed", ("E: Failed to fetch x: stub\n[FAIL]  apt  1  parses errors.")),
            ("skipped", ("E: Unable to locate package libfoo-dev\nE: Sub-process x")),
        ],
    ),
    rule(
        "key-server",
        Cause.PACKAGE_MIRROR,
        (
            r"(?:\b|\\n)gpg: keyserver (?:(?:receive|search|send|refresh) failed|timed out"
            r"|communications error|internal error)"
        ),
        r"^gpgkeys: key \S+ (?:can't be retrieved|not found on keyserver)",
        words="gpg",
        phases=NETWORK_PHASES,
        yields_to=PROOF_IDS,
        why="GnuPG could not get the key of a package mirror from its key server.",
        example="gpg: keyserver receive failed: No data",
        not_when=[
            ("failed", ("gpg: keyserver timed out\n[FAIL]  keys  1  are refreshed.")),
        ],
    ),
    rule(
        "mirror-apk",
        Cause.PACKAGE_MIRROR,
        r"temporary error \(try again later\)",
        (
            r"^WARNING: (?:Ignoring|opening|updating) .*(?:error|denied|BAD|UNTRUSTED|could not"
            r"|No such file|timed|unavailable)"
        ),
        r"package mentioned in index not found",
        (
            r"^ERROR: (?:Unable to lock database|Unable to read database|unable to open|Failed"
            r" to open apk|\S+: (?:BAD|UNTRUSTED|IO ERROR|network error|I/O|remote server"
            r"|operation timed|connection))"
        ),
        # A package with its version and release was found, and could not be had or unpacked.
        r"^ERROR: [\w.+-]{1,100}-\d[\w.]{0,60}-r\d+: ",
        r"BAD (?:signature|archive)",
        r"UNTRUSTED signature",
        r"IO ERROR\b",
        r"package integrity",
        r"^WARNING: (?:fetching|updating and opening) \S+: ",
        r"unable to (?:fetch|read) (?:index|APKINDEX)",
        r"\d errors; \d+ (?:MiB|distinct)",
        # The solver's, of packages that exist: what the image has and what the mirror has differ.
        r"^breaks: \S+\[",
        r"^masked in: (?:cache|@|http)",
        r"^\S+ \(virtual\):$",
        words=(
            "breaks: |masked in|(virtual)|integrity|unable to|temporary error|warning: "
            "|mentioned in|error: |bad |untrusted|io error| errors;"
        ),
        phases=NETWORK_PHASES,
        yields_to=PROOF_IDS,
        why=(
            "apk could not read its index or a package from the mirror; every package then "
            "looks as if it did not exist. Or the mirror's packages do not fit the image's."
        ),
        example=(
            "WARNING: Ignoring http://apk.example/APKINDEX.tar.gz: temporary error (try "
            "again later)\n"
            "ERROR: unsatisfiable constraints:\n"
            "  bash (missing):"
        ),
        not_when=[
            ("failed", ("WARNING: Ignoring x: error\n[FAIL]  apk  1  warns.")),
        ],
    ),
    rule(
        "mirror-rpm",
        Cause.PACKAGE_MIRROR,
        r"[Ff]ailed to download (?:metadata|packages?)",
        r"[Cc]annot download (?:\S*repomd|\S+\.rpm)",
        r"[Aa]ll mirrors were (?:already )?tried",
        r"No more mirrors to try",
        r"^(?:Error: )?Error downloading packages",
        r"One of the configured repositories failed",
        (
            r"[Cc]annot (?:find a valid baseurl|prepare internal mirrorlist|retrieve"
            r" (?:repository )?metadata)"
        ),
        r"GPG check FAILED",
        r"[Cc]ould not retrieve mirrorlist",
        r"^\[MIRROR\] ",
        r"Errors during downloading",
        r"repomd\.xml",
        r"[Rr]pmdb ",
        r"^(?:error: )?rpmdb",
        r"Error: Transaction (?:check|test)",
        r"Problem: .*(?:conflict|problem with installed|cannot install)",
        r"^Error: +Problem",
        r"Status code: \d{3} for",
        r"not found on medium",
        r"^Download \(curl\) error",
        r"[Vv]alid metadata not found",
        r"Repository '.*' is invalid",
        r"[Ss]kipping repository",
        r"System management is locked",
        r"Problem retrieving files",
        r"Could not refresh",
        r"Error code: (?:Connection|Curl)",
        r"[Ll]ibrepo error",
        r"[Ff]ailed to (?:synchronize|load metadata|retrieve|refresh|prepare internal)",
        r"does not contain the desired medium",
        r"No URLs in mirrorlist",
        r"Failed to open: /var/cache",
        r"[Cc]url error \(\d+\)",
        r"GPG key retrieval failed",
        r"GPG keys listed for .{0,200} are already installed but they are not correct",
        r"package \S+ .{0,160}conflicts with",
        r"Package \S+ is not signed",
        r"cpio: (?:read|Bad)",
        words=(
            "download|configured|mirror|baseurl|metadata|gpg check|repomd|rpmdb|transaction|problem"
            "|status code|medium|invalid|skipping|management|refresh|error code|curl error"
            "|gpg key|conflicts|signed|cpio|librepo|failed to|desired medium|urls in"
        ),
        phases=NETWORK_PHASES,
        yields_to=("depext-unknown-rpm", *PROOF_IDS),
        why=(
            "dnf, yum or zypper could not get metadata or packages, or the image's own "
            "packages contradict each other."
        ),
        example=(
            "Error: Failed to download metadata for repo 'appstream': Cannot prepare "
            "internal mirrorlist"
        ),
        not_when=[
            ("failed", ("Problem: conflicts with x\n[FAIL]  sat  1  explains.")),
            ("skipped", ("Error: Unable to find a match: foo-devel\n[MIRROR] x: ok")),
        ],
    ),
    rule(
        "mirror-other",
        Cause.PACKAGE_MIRROR,
        (
            # The prefix is packer's.
            r"^(?:==> \S+ )?error: (?:failed (?:retrieving file|to (?:synchronize"
            r"|commit transaction|prepare|update|init))|\S+: signature from|required key missing"
            r"|unable to lock database|could not (?:open file|satisfy|register|lock|find database)"
            r"|GPGME|invalid or corrupted|database file for|keyring is)"
        ),
        r"invalid or corrupted package",
        r"^pkg: (?!No packages available)",
        r"Unable to update (?:repository|catalogue)",
        r"[Ww]rong (?:OS|ABI)",
        r"newer FreeBSD version",
        r"Failed to (?:synchronize|download resource|fetch (?:file|https?:))",
        r"process has already been running",
        r"Another active Homebrew",
        r"[Tt]he `?brew link`? step did not",
        r"Your Command Line Tools are too (?:old|outdated)",
        r"Xcode alone is not sufficient",
        r"^Error: (?:An unsatisfied requirement|The following formula|.{1,80} already installed$)",
        r"^Error: (?:.{1,80}: )?(?:Bottle |bottle |undefined method|uninitialized constant)",
        r"[Cc]an't (?:get|fetch) list of download sites",
        r"connection error: \d+ fetching",
        r"setup(?:-x86(?:_64)?)?\.(?:ini|exe).{0,80}(?:failed|unable|error|corrupt)",
        r"^(?:mbox note: )?Mirror Error: ",
        r"Setup\.ini rejected\.",
        r"brew link\b.*(?:did not|failed)",
        # Homebrew's cellar in the image, which contradicts itself.
        r"^Error: (?:.{1,200} is not a valid keg$|No such keg: |Could not symlink |Cannot link )",
        r"cannot be installed from bottle",
        r"failure while executing; `(?:git|curl|/usr)",
        r"[Rr]epository \S+ (?:has|contains) (?:no|wrong)",
        (
            r"^Error: (?:Failed to download|Download failed|Failure while executing|Bottle"
            r"|.{1,60}is already locked|Cannot install .{0,80}because)"
        ),
        r"^nix: ",
        r"^error: unable to download '",
        r"[Cc]hecksum mismatch for bottle",
        r"Unable to get setup",
        r"^Fetching .*: (?:Operation|Connection|Host)",
        r"[Nn]o mirror could be",
        r"mirror (?:is )?(?:out of sync|down|unreachable)",
        r"bad mirror",
        words=(
            "error: |xcode|command line tools|download sites|setup|pkg: |unable to|wrong "
            "|newer freebsd|failed to|already been|homebrew"
            "|brew|bottle|failure while|repository|nix|fetching|mirror|corrupted"
        ),
        phases=NETWORK_PHASES,
        yields_to=("depext-unknown-other", *PROOF_IDS),
        why="pacman, pkg, Homebrew or another package manager could not get its packages.",
        example="error: failed retrieving file 'core.db' from mirror.example : Timeout",
        not_when=[
            ("failed", ("error: failed to commit transaction\n[FAIL]  db  1  commits.")),
            ("skipped", ("error: target not found: libfoo\nerror: failed to prepare transaction")),
        ],
    ),
    *of_opam(
        rule(
            "depexts-failed",
            Cause.PACKAGE_MIRROR,
            r"System package (?:install|update|upgrade) failed",
            r"OS package (?:update|install\w*) failed",
            r"These packages are still missing",
            r"^Package manager (?:failed|error)",
            # opam's plugin of that name is a package, too.
            r"^\[ERROR\] (?!The (?:compilation|installation) )(?:.{0,200}\s)?depexts? .*fail",
            r"depext command failed",
            r"Command failed: .*(?:apt-get|apk|dnf|yum|pacman|zypper|brew|pkg) ",
            # An image's own step: docker, BuildKit and podman name it in these words.
            (
                r"(?:error building at STEP \"RUN|process \"/bin/sh -c|The command '/bin/sh -c"
                r"|executor failed running \[/bin/sh -c|^The command \")"
                r" ?(?:sudo )?(?:apt(?:-get)?|apk|dnf|yum|zypper|pacman|pkg|brew)\b"
                r"(?!.{0,1000}(?:&&|;)[\s\\]*(?:sudo )?(?:opam|dune|make|\./configure)\b)"
            ),
            words="package|depext|command failed|/bin/sh -c|at step|the command",
            yields_to=(
                "depext-unknown-apt",
                "depext-unknown-apk",
                "depext-unknown-rpm",
                "depext-unknown-other",
                *PROOF_IDS,
            ),
            why=(
                "opam had found the system packages in the lists, and installing them failed all "
                "the same: that is the mirror's or the image's doing."
            ),
            example="[ERROR] System package install failed with exit code 100 at command:",
            not_when=[
                (
                    "skipped",
                    (
                        "E: Unable to locate package libfoo-dev\n"
                        "[ERROR] System package install failed with exit code 100 at command:"
                    ),
                ),
                ("failed", ("These packages are still missing: none\n[FAIL]  depexts  1  lists.")),
                ("failed", '[ERROR] The compilation of opam-depext failed at "make".'),
            ],
        ),
    ),
)
"""Mirrors."""
