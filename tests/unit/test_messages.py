"""Every message that our own code gives to users, to be read in one place.

The texts are taken from the source: in braces is what is filled in. A message is changed here, too:
`./opam-ci test tests/unit/test_messages.py -n0 --inline-snapshot=fix`. What each needs: say what is wrong, then
what to do; in the field's words (docs/glossary.md).
"""

import ast
from functools import cache
from pathlib import Path

from inline_snapshot import snapshot

PRODUCT = Path(__file__).resolve().parents[2] / "opam_ci"


def template(node: ast.expr) -> str | None:
    """Returns the text of an expression, None if it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(filler(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = template(left), template(right)
            return None if None in texts else "".join(map(str, texts))
    return None


def filler(part: ast.expr) -> str:
    """Returns a part of a formatted text: what is filled in by the name that the code has for it."""
    match part:
        case ast.Constant(value=text):
            return str(text)
        case ast.FormattedValue(value=ast.Name(id=name) | ast.Attribute(attr=name)):
            return f"{{{name}}}"
    return "{…}"


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """Returns all calls of the product, by the last part of what is called."""
    return [
        (ast.unparse(node.func).rpartition(".")[2], node)
        for path in sorted(PRODUCT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def raised(*names: str) -> list[str]:
    """Returns the texts of exceptions of some classes."""
    found = {
        text
        for name, call in calls()
        if name in names
        # The first text: a refusal has a status code before it.
        if (text := next(filter(None, map(template, call.args)), None))
    }
    return sorted(found)


def given_as(*keywords: str) -> list[str]:
    """Returns the texts that are handed over as some argument."""
    found = {
        text
        for _, call in calls()
        for keyword in call.keywords
        if keyword.arg in keywords
        if (text := template(keyword.value))
    }
    return sorted(found)


def test_of_usage() -> None:
    assert raised("UsageError", "FilterError", "BadParameter") == snapshot(
        [
            "--all needs a pull request, --platform, --package, --kind, --revdep or --job",
            "--checks needs one of {…}",
            "--checks: no such family {word}; there are: {known}",
            "--exit-code and --phase need a LOG; --batch has them in its lines",
            "--head needs a pull request",
            "--head needs one pull request: give OWNER/REPO/NUMBER, and not --all-heads",
            "--kind {kind}: a build is one of {…}",
            "--markdown and --check are about a whole file: give no other option",
            "--platform, --outcome, --cause, --since, --wrong-verdicts and --fail-on-flip need --replay",
            "--server and --temporal exclude each other",
            "--server is for these commands alone: {…}",
            "--wrong-verdicts excludes --platform, --outcome, --cause and --since",
            "--{name} is empty; leave it out to take all",
            "OPAM_CI_GITHUB_CHECKS needs a GitHub App: only Apps have check runs",
            "OPAM_CI_GITHUB_CLONE_URL is not an https, ssh, git or file URL without a password: git reads credentials from its own configuration (docs/github.md)",
            "OPAM_CI_GITHUB_HEALTH_PACKAGES asks for builds each night, and --lint-only builds nothing: leave out one of them",
            "OPAM_CI_GITHUB_{variable}: cannot read {file}: {strerror}",
            "OPAM_CI_INDEX is not the URL of an index: give sqlite:///FILE or postgresql://USER@HOST/DATABASE",
            "OPAM_CI_METRICS={text} is not an address: use an IP address and a port, such as 127.0.0.1:9464",
            "OPAM_CI_RUNNER is not a setting any more, since each pool has one runner: unset it, and name pools with OPAM_CI_POOLS, such as '[\"linux-amd64-containers\"]', or none for all that this machine can serve",
            "OPAM_CI_STORE is not the URL of a store: give file:///DIRECTORY or s3://BUCKET/PREFIX (credentials are in variables of their own)",
            "a URL with a user name or a password, which logs would show",
            "a filter has {LENGTH} characters and {_WORDS} words at most",
            "a line needs `base` and `head`, or `merge`",
            "a server's URL has no user name or password: set OPAM_CI_TOKEN",
            "an index on PostgreSQL needs the Python package psycopg: install psycopg[binary]",
            "another check of {title} has taken this one's place",
            "cannot connect to the Temporal server at {temporal} ({reason}): check the address, and TLS and key in the variables TEMPORAL_… (docs/operations.md)",
            "cannot listen on {host}:{port} ({strerror}): choose another {options}",
            "cannot read {filename} for the connection to Temporal ({strerror}): check the variables TEMPORAL_TLS_…",
            "cannot serve metrics on {host}:{port} ({strerror}): choose another address with OPAM_CI_METRICS",
            "cannot write to the state directory {home}: {strerror}; set {HOME} to another",
            "commit {…} has no packages folder: give a clone of opam-repository",
            "commit {…} is not a merge: it has no parents",
            "git cannot reach {url}: {error}",
            "git {…}.{…} is too old: install 2.38 or a newer one",
            "give a pull request: a server restarts the jobs of one at a time",
            "give either --pr NUMBER or --branch NAME",
            "give either --write or --suggestion",
            "give either a pull request or --incident",
            "give one of --pr NUMBER, --branch NAME and --batch FILE",
            "give one of packages, --all, --batch and --opam-batch",
            "give one of: a LOG file (- for standard input), --batch FILE, --rules, --replay",
            "give the job: words of its id, --job, --kind, --platform or --revdep; `opam-ci jobs {title}` lists them",
            "give what to restart: a pull request, --cause, --platform, --package, --kind, --revdep, --job or --incident",
            "incident {number} was resolved at {resolved_at} UTC by {resolved_by}; `opam-ci restart --incident {number}` restarts what is left",
            "invalid filter {…}: use words of the title, author:NAME, or is: with one of {…}",
            "invalid glob {…}: use characters of names, * and ?",
            "invalid key of a stored object: {…}",
            "invalid page cursor {…}: use what the page before returned",
            "invalid time {text}: write 90m, 24h, 7d, or 2026-05-04T12:00",
            "invalid value {…} of {key}: {error}",
            "invalid word {…}",
            "name the packages to lint, such as cppo.1.8.0, or give --all",
            "no Temporal server responds at {temporal} ({reason}); start one with `opam-ci up`, or choose another with --temporal ADDRESS",
            "no credentials: set OPAM_CI_GITHUB_APP_ID and OPAM_CI_GITHUB_PRIVATE_KEY_FILE, or OPAM_CI_GITHUB_TOKEN_FILE (see docs/github.md)",
            "no incident {number} (any more); `opam-ci incidents --all` lists them",
            "no index at {path} yet; check something first, or name the index of a fleet with OPAM_CI_INDEX=postgresql://USER@HOST/DATABASE",
            "no job of {title} at {…} matches; it has: {…}. `opam-ci jobs {title}` lists them",
            "no platform matches; `opam-ci platforms` lists all",
            "no platform of the file is built in the pool {pool}",
            "no platform of the file uses the root file system runner, which is the default; name others with --platform, as `opam-ci platforms` lists them",
            "no repository: set OPAM_CI_GITHUB_REPOSITORY to OWNER/NAME, such as ocaml/opam-repository (see docs/github.md)",
            "no running check {workflow_id} on this server; `opam-ci status` lists them",
            "no such package in this repository: {name}; {hint}",
            "no such platform: {pattern}{…}",
            "no such pool: {pool}; the file of platforms has: {…}",
            "no such version in this repository: {package}; the newest: {newest}",
            "no such waiver: {number}; `opam-ci waivers` lists them",
            "no test of {title} in the index (yet); `opam-ci status` lists the checks of this server",
            "no token: set OPAM_CI_TOKEN to a personal access token of GitHub's; it needs no permission",
            "no webhook secret: set OPAM_CI_GITHUB_WEBHOOK_SECRET_FILE to a file with the secret of the webhook on GitHub",
            "not a commit: {text}; give its hash, or the first seven characters of it",
            "not a commit: {…}: use {_SHORTEST} or more of its hexadecimal digits",
            "not a pull request: {text}; write OWNER/REPO/NUMBER as `opam-ci status` does, or OWNER/REPO/heads/BRANCH for a branch of a clone",
            "not the URL of a server: {url}; write it as a browser shows it, such as https://ci.example.org",
            "nothing matches at the current heads of open pull requests; `opam-ci errors` shows what is errored",
            "nothing was restarted: all pull requests refused",
            "platforms: {path}: {…}",
            "port {port} is in use by {…}; choose another with {option}, or end that program",
            "port {port} needs more rights; choose one above 1023 with {option}",
            "several commits begin with {head}: use more of its digits",
            "sign-in needs https: {url} would send cookies that others can read; put a proxy with TLS before it, and set OPAM_CI_PAGES_URL to its address",
            "the GitHub App's private key cannot be read: give the .pem file as downloaded",
            "the GitHub App's private key is missing: set OPAM_CI_GITHUB_PRIVATE_KEY_FILE to the .pem file",
            "the GitHub App's private key is not an RSA key",
            "the Temporal server of {home} already runs with {option} {…}; use that, or stop it with `opam-ci down`",
            "the Temporal server rejects our search attributes ({message}); an operator must add them: see docs/operations.md",
            "the Temporal server rejects the schedule canary/{pool} ({message}); allow it, or disable canaries with OPAM_CI_CANARY=false",
            "the Temporal server rejects the schedule {RETENTION} ({message}); allow it, and pause it to keep everything",
            "the clone has no pull request {number}: run `git fetch origin pull/{number}/head:refs/pull/{number}/head` in it",
            "the embedded Temporal server does not run; start it with `opam-ci up`",
            "the filter has more than {TERMS} values: shorten it",
            "the filter is longer than {LENGTH} characters: shorten it",
            "the head does not merge into the base",
            "the repository has no branch or commit {…}: fetch it first",
            "the repository has no commit {name}: fetch it first",
            "the shallow clone lacks the commit at which {…} left its base: run `git fetch --unshallow` in it",
            "the store {url} does not exist: create it, or correct OPAM_CI_STORE",
            "the store {url} refuses this process: give it credentials that may store, list, read and delete there, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "the variables TEMPORAL_… or the file that they name are invalid: {…}",
            "this machine can serve no pool of the file of platforms ({listed})",
            "this needs a GitHub App: a plain token cannot list or repeat deliveries",
            "to sign in takes both OPAM_CI_GITHUB_CLIENT_ID and OPAM_CI_GITHUB_CLIENT_SECRET_FILE: set the other one (docs/github.md)",
            "two pull requests, {pull_request} and {pr}: give one",
            "unknown key {…}: the keys are {known}",
            "waiver {number} {how} on {ends_at} already",
            "your account has no name: give in --by who decides that",
            "{SETTING}: {_path} is not opam {OPAM_VERSION}, whose lint authors are judged by; `--version` prints {…}",
            "{WAIVERS_LIMIT} waivers are in force, which is the most; remove one first",
            "{_OTHERS} exclude each other",
            "{_package} does not depend on {only}; its dependencies: {close}",
            "{argument} is not a package: write NAME.VERSION, such as cppo.1.8.0",
            "{client_secret_file} is empty: write the secret into it",
            "{clone} is a bare clone: give one with a work tree",
            "{id} has no {missing}; there are attempts: {existing}",
            "{log} cannot be read: {…}",
            "{name} is built by a worker of its pool, {pool}: name another one with --platform",
            "{name} is not a pull request on GitHub: a server acts on these alone",
            "{number} jobs of {title} match: {…}{more}. Give more words, or narrow with --kind, --platform, --revdep or --job",
            "{option} selects errored jobs: it excludes {_OTHERS}",
            "{path} was changed meanwhile: it is not written",
            "{program} is missing: install opam-ci with its dependencies",
            "{root} is not a package repository: it has no directory `packages`. Give the path of a clone with --repo, and for a bare one a branch with --rev",
            "{shown} cannot be read: {reason}",
            "{text}: check --server, or OPAM_CI_SERVER",
            "{trouble}, or set {SETTING} to the path of an opam {OPAM_VERSION}",
            "{url} has no API of this opam-ci's version ({what}): check --server, or OPAM_CI_SERVER",
            "{url} is not https: others could read the token",
            "{url}: {detail}",
            "{webhook_secret_file} is empty: write the secret into it",
            "{workflow_id} has ended (closed, or a one-off check that is done); nothing was changed",
            "{workflow_id} is of a version without updates; send it the signal `{signal}` (`temporal workflow signal --workflow-id {workflow_id} --name {signal}`), or wait for its next head",
            "{…} has tables that are not an index's: give another file",
            "{…} is not a commit id",
            "{…} is not the name of a branch",
            "{…} is not the name of a branch or commit",
            "{…} platforms match {name} ({names}, …): name one of them",
            "{…} was written by a newer opam-ci (schema {found}, this one knows {SCHEMA_VERSION}): update opam-ci, or give another index",
            "{…} was written by an opam-ci that is too old (schema {found}, this one migrates {…} and newer): move it away, or give another index",
        ]
    )


def test_of_refusals() -> None:
    """Of what people ask for by pages and by the API."""
    assert raised("RefusedError") == snapshot(
        [
            "GitHub did not confirm the account: sign in again",
            "GitHub does not know the token (any more): make another one",
            "GitHub was not allowed to name the account: sign in again",
            "a form is sent as {_FORM}",
            "no incident {incident} (any more): {PREFIX}/incidents lists them",
            "no job {…} of this head: its jobs are listed at …/jobs",
            "no such attempt of {…}: its page lists all of them",
            "no such attempt: the job has a list of its attempts",
            "no such job of this head",
            "no such testing (any more): {PREFIX}/testings lists them",
            "no test of {repository}#{number} (yet)",
            "no test of {…} of {repository} (yet): /api/v1/pulls lists what there is",
            "not a personal access token: {HINT}",
            "send JSON, with the content type application/json",
            "sign in, or {HINT}",
            "the attempt has no verdict yet: it is running",
            "the body broke off",
            "the body is larger than 1 MiB",
            "the form broke off",
            "the form cannot be read: load the page again",
            "the form is larger than 64 KiB",
            "the form is outdated or not of this session: load the page again",
            "the parameter {…} is given {…} times",
            "the request came from another site: nothing was done",
            "the session has ended, and nothing was done: sign in again",
            "the session has expired: sign in again",
            "the session is not valid: sign in again",
            "the sign-in lacks GitHub's code: sign in again",
            "the verdict is {expected} already",
            "this CI acts on {repository} alone",
            "this resource has no parameters",
            "this sign-in was not begun here, or over ten minutes ago: sign in again",
            "too many requests at the moment: repeat it in {wait} s",
            "{login} may not do that: it takes triage rights in {repository}",
            "{login} may not do that: it takes triage rights in {repository}, or to be the author of the pull request",
        ]
    )


def test_of_infrastructure() -> None:
    assert raised("InfrastructureError") == snapshot(
        [
            "GitHub cannot confirm the account: {status}",
            "GitHub has a server error: {status} at {what}",
            "GitHub is not reachable: {__name__}",
            "GitHub is not reachable: {__name__} at {method} {…}: {error}",
            "GitHub no longer has commit {…} of pull request {number}: {branch}",
            "GitHub rejects our credentials at {what} ({message}): check the App's id and private key, or the token",
            "GitHub's list continues on another host: {host}",
            "GitHub's list {path} has more than {_MOST_PAGES} pages",
            "GitHub's rate limit at {what}: {message}",
            "GitHub's rate limit: nothing is sent before {_resume_at} UTC",
            "Temporal cannot describe the task queue {queue}: {message}",
            "Temporal cannot list the schedules: {message}",
            "Temporal cannot {what}: {message}",
            "Temporal failed for {workflow_id}: {message}",
            "`opam --version` fails on this machine: install opam",
            "`{…}` ended with {returncode}; run this by hand: {by_hand}",
            "apt-get succeeded, but these packages are missing: {…}",
            "cannot fetch {what} from {url}: {message}",
            "cannot follow {key}",
            "cannot make the directory of {database}: {error}",
            "cannot write to {directory}: {strerror}",
            "cannot {what}: {text}",
            "container {name} cannot be removed: {errors}",
            "container {name} does not end",
            "container {name} does not start: {…}",
            "container {name} runs on another machine, where its network cannot be confined: run the worker beside the engine, or name a network with OPAM_CI_CONTAINER_NETWORK",
            "could not start {…}: {…}",
            "could not write the example: {…}",
            "git cannot be started: {error}",
            "git {…} exited with code {returncode}: {message}",
            "git {…} took over {timeout} s",
            "image {name} cannot be pulled: {errors}",
            "invalid URL of an archive mirror {url}: correct the setting",
            "invalid response of GitHub to {path}: {…}",
            "invalid response of GitHub to {…}: {…}",
            "log {key} is not open",
            "merging again gives {tree} instead of {merge_tree}",
            "no control group can be made for a job: {error}",
            "no job root can be made in {where}: {error}",
            "no such image after a pull: {name}",
            "no user namespace can be made for a job ({…}): allow user namespaces, and in a container a writable /proc/sys, e.g. docker's --privileged",
            "no worker has accepted the request for {workflow_id} within {seconds} s; check `opam-ci workers`, then repeat it: nothing is done twice",
            "no workflow {workflow_id} on the server (any more)",
            "opam can read {known} of the {…} packages of the base repository",
            "opam has {count} packages, {…} of them submitted; the merge has {package_count}, {overlay_packages} submitted",
            "opam lint ended with {…}: {end}",
            "opam lint took longer than {_timeout} for {count} files",
            "opam lint wrote no result for {…} of {count} files",
            "opam lint wrote no usable result ({unusable}): {output}",
            "opam's list of installed packages could not be written ({how})",
            "opam's own sandbox is off in the build root: bubblewrap does not work nested on this machine (user namespaces must be allowed: sysctl user.max_user_namespaces)",
            "opam's sandbox in the build root has no PID namespace of its own: its script, hooks/sandbox.sh, has a form that this CI does not know",
            "opam's switch state after the build is missing or invalid",
            "over {…} GiB of memory were needed",
            "packages installable with {package} could not be computed ({how})",
            "packages installable with {package} were not computed within {time_limit} s",
            "processes in {directory} do not end",
            "processes of a build do not end within {_DEATH_TIMEOUT} s: look for stuck disks, or restart the machine",
            "processes of {_whose} may be left after {title}: end them, or restart the machine",
            "storing the end of a log took over {…} s",
            "the GitHub App is not installed on {repository}, or lacks access ({error}): install it there, or end its suspension",
            "the Temporal server ended; its log is {…}",
            "the Temporal server has been unavailable for {_GIVE_UP_AFTER}: {message}; the check continues there, see `opam-ci status`",
            "the analysis made no merged tree",
            "the archive mirror {url} cannot be read by the user of a build: chmod -R a+rX {path}",
            "the archive mirror {url} is not a directory of this machine: correct the setting, or make the mirror",
            "the base layer's list of installed packages is missing or invalid",
            "the clock shows {now} UTC, but the root file system was made at {not_before} UTC: set the clock, e.g. with timedatectl set-ntp true",
            "the disk usage of {_directory} cannot be counted",
            "the filter of system calls cannot be made ({error}): apt-get install libseccomp2",
            "the index at {…} does not work: {message}",
            "the index did not answer within {_TIMEOUT} s",
            "the job's container has ended",
            "the network of builds cannot be made: {problem}",
            "the query of the workflow {workflow_id} failed: {error}",
            "the root file system has no apt package lists",
            "the sandbox of builds does not work {place} ({last}): {…}",
            "the sandbox of lint did not start: {end}",
            "the sandbox of the build root did not start: {last_line}",
            "the solution could not be frozen: {title} failed ({how})",
            "the submission's archive {key} cannot be unpacked",
            "the switch with {…} is empty",
            "the update of {workflow_id} failed: {…}",
            "the user of a job cannot write to {home} ({text}): choose another directory with OPAM_CI_CACHE, one that all users may enter, such as /var/cache/opam-ci",
            "the workflow returned no state of this check",
            "the workflow {workflow_id} ended with undecided jobs; see the Web UI",
            "this machine lacks Debian's keys: apt-get install debian-archive-keyring",
            "this worker does not run {kind} jobs",
            "this worker keeps no clones of GitHub",
            "this worker lints with opam {…}, and authors are judged by the lint of opam {OPAM_VERSION}",
            "this worker runs no jobs {what}",
            "{client} {…} failed{how}: {errors}",
            "{detail}: make room, or set another home",
            "{lack}: make room, or set {HOME} to another directory",
            "{listing} is not a list of reverse dependencies",
            "{lists} has no package lists: remove {parent}, and the image is made anew",
            "{path} cannot be given to {name}",
            "{path} cannot be removed: {…}",
            "{title} printed over {_CAPTURE_LIMIT} bytes",
            "{url}: {detail}",
            "{what} cannot be copied ({how}): {…}",
            """\
{what} {problem}; the end of its log, {log}:
{…}\
""",
            "{workflow_id} did not return a preview in time",
            "{workflow_id} did not return a preview in time: the index may be unavailable; nothing was changed",
            "{…} is damaged or not an index ({message}): move the file away to begin with an empty one, or restore it from a backup",
            "{…} of {…} pull requests did not answer; repeat the command: what was restarted is left alone",
        ]
    )


def test_of_values_that_are_refused() -> None:
    """In configuration, platform files, payloads: pydantic adds where."""
    assert raised("ValueError", "_RefusedError", "FormatError", "UnprovenError") == snapshot(
        [
            "Builds do not fetch {…}, a source in {…} (expecting http, https, ftp or git+https)",
            "Duplicate field {name}",
            "Duplicate section {kind}",
            "File {…} too big ({size} bytes)",
            """\
Format errors detected in {package}:
{errors}\
""",
            "Invalid field {name}",
            "Invalid section {kind}",
            "Mismatch between package dir name {…} and parent directory name {…}",
            "Package {…} uses unsupported opam version {opam_version} (need >= 2)",
            "Unexpected path {…} in packages directory (expecting 'packages/name/name.l.m.n/{opam,files/*}')",
            "X-GitHub-Event or X-GitHub-Delivery is missing or invalid",
            "a URL with a user name or a password, which would be shown",
            "a check run has either a status or a conclusion",
            "a name has control characters",
            "a packed list ends early, or holds over {MAX_BYTES} bytes",
            "a platform has an image exactly if its runner is container",
            "a pull request has either a number or a branch",
            "a revdep job, and only such a job, has a reverse dependency",
            "a revision belongs to either a pull request or a branch",
            "an attempt has an outcome exactly if it has ended",
            "give either a number or a branch",
            "impossible",
            "invalid directory {home}: remove commas, colons, quotes, backslashes and spaces",
            'invalid duration {value}; write "90 s", "15 min" or "2 h"',
            "invalid endpoint {text}: HOST, HOST:PORT, or [ADDRESS]:PORT for IPv6",
            "invalid {what} {value}; {form}",
            "it is one of {…}",
            "it is {what}",
            "larger than 25 MiB",
            "no package code runs in phase {phase}",
            "no such {what}: {value}; there is: {…}",
            "not a URL that starts with https://",
            "not a packed list: {error}",
            "not a path beneath a root: {path}",
            "not a path of {HOME}: {path}",
            "not a verdict; one of: {…}",
            "not between the years {_FIRST_YEAR} and {_LAST_YEAR}",
            "opened_at needs repository, head, and a number or a branch",
            "set the webhook's content type to application/json",
            "the body broke off",
            "the dependencies of {…} are uncertain",
            "the head of a log cannot be longer than its cap",
            "the list is empty",
            "the longest wait before a retry is shorter than the first one",
            "the signature is missing or wrong: check the secret",
            "two contexts have the same name",
            'write true, false, "all", "direct" or "none"',
            'write versions in quotes, as "5.4", and not as the number {value}',
            "{id}: a verdict of {verdict} needs its cause or reason in brackets",
            "{text} is not a package: write NAME.VERSION, such as cppo.1.8.0",
            "{value} has no time zone ({name})",
            "{…} is not a valid package name (in {…}): {failure}",
            "{…} is not a valid package name.version (in {…}): {failure}",
            "{…}: not a verdict: {…}",
        ]
    )


def test_of_submissions() -> None:
    assert raised("SubmissionError", "UnknownImageError", "GitHubRefusedError") == snapshot(
        [
            "image {image}: registry {host} does not have it, or denies access: HTTP {status_code}",
            "image {image}: registry {host} refuses this machine's login: HTTP {status_code}; log in again: podman login {host}",
            "image {image}: {client} has no digest for it",
            "image {image}: {errors}",
            "the account",
            "the sign-in",
        ]
    )


def test_of_verdicts() -> None:
    """The one line that explains an outcome where no line of the log does."""
    assert given_as("detail") == snapshot(
        [
            "GitHub no longer has commit {…}: {branch}",
            "every command succeeded, but nothing checked whether the package is installed",
            "every reported command succeeded, but the run did not reach its end",
            "no phase was started",
            "no worker for the {what} {…}",
            "opam exited {exit_code}",
            "opam {OPAM_VERSION}",
            "the host check failed: {error}",
            "the job took down {…} workers: {…}",
            "the system package lists could not be refreshed",
            "waits for {title}, which errored",
            "worker {worker} was shut down in the middle of the job",
            "{home} has {free_inodes} inodes free and needs {free_inodes}",
            "{home} has {…} MiB free and needs {…}",
            "{own} needs a system package that does not exist here",
            "{own} needs what cannot be the name of a system package",
            "{package} has no opam file in the merged tree",
            "{package}: {…} instead of {wanted}",
            "{title} ended with {…}",
            "{…} MiB of memory are available, and builds need {…}",
        ]
    )


def test_of_restarts_and_cancellations() -> None:
    assert given_as("refusal") == snapshot(
        [
            "an author may restart jobs {restarts_an_hour} times an hour: repeat it after {at} UTC, or ask somebody with triage or write access",
            "automatic restart limit reached: restart the errored jobs with `opam-ci restart`",
            "head {head} is superseded by {…}; nothing was done",
            "no head was tested yet",
            "no job is under way: there is nothing to cancel",
            "superseded by a newer head, or closed, before it was done",
            "the analysis is under way: all jobs are about to be started anyway",
            "the analysis is under way: until it ends only all jobs can be cancelled",
        ]
    )


def test_notes_on_standard_error() -> None:
    assert raised("note") == snapshot(
        [
            "a mirror on this machine cannot be read: {…}",
            "all sources are on this machine: nothing to fetch",
            "could not cancel the check: {error}; try `opam-ci cancel`",
            "dependency cycle: {…}",
            "falling back to `opam list`",
            "interrupted: cancelling the check and its builds",
            "more: --after {following}",
            "no other package becomes uninstallable",
            "no package changes",
            "no pages: {error}",
            "no such package in this repository: {…}",
            "not a system package: {…}",
            "opam-ci: {error}",
            "opam-ci: {text}",
            "other jobs may fetch the same: {…}",
            "page: {url}{…}",
            "refused: {failure}",
            "the repository has no ocaml-base-compiler of OCaml {…}",
            "the store of sources cannot be read: {…}",
            "waiting before {host} is asked again",
            "waiting for another job that fetches the same",
            "what was fetched cannot be kept: {…}",
            "{platform}: {summary}",
            "{pool}: {…}",
            "{taken} archives from this machine's store of sources",
            "{wanted}: {line}",
            "{what}, {…} ago: {…}",
            "{…}; {…} shown",
        ]
    )


def test_help_of_options() -> None:
    assert given_as("help") == snapshot(
        [
            "A branch or commit of the clone, as the head.",
            "A clone of opam-repository: its work tree counts, uncommitted or not.",
            "A local clone of opam-repository.",
            "A log file, or - for standard input.",
            "Address of Temporal's Web UI, to link to it for operators.",
            "Address of a Temporal server; default: the embedded one.",
            "Address of the Temporal server [env: OPAM_CI_TEMPORAL, TEMPORAL_ADDRESS].",
            "Address to listen on.",
            "All jobs.",
            "Also build in this process.",
            "Also resolved ones and those of a single fault.",
            "Also run workflows, analysis and lint, and write the index.",
            "Analyse the `base` and `head`, or the `merge`, of each JSON line; - for stdin.",
            "Ask this server instead of Temporal, index and store, for: {…} [env: OPAM_CI_SERVER, and OPAM_CI_TOKEN for actions].",
            "At an older head: its hash, or seven characters of it.",
            "Attempts of a job that meets a CI fault.",
            "Build for this pool; may be repeated.",
            "Build on this platform only: name or glob; may be repeated.",
            "Build on this platform, name or glob; may be repeated. Default: all of the file.",
            "Build packages.",
            "Build reverse dependencies too; default: as the named platform sets it.",
            "Build with no package whose sources are missing in the mirror.",
            "Build with the lowest versions too; default: as the named platform sets it.",
            "Build, or test, this reverse dependency with the package.",
            "Changed before.",
            "Changed since: 90m, 24h, 7d, a date.",
            "Check the example pull request; default: unless this version has checked it.",
            "Classify JSON lines (text, optional exit_code and phase; .gz too; - for standard input) and print each with its verdict.",
            "Classify stored attempts again and list verdicts that change.",
            "Clone of opam-repository: the files of its work tree are linted.",
            "Count them instead.",
            "Download archives and compare their checksums.",
            "Exit code of the command that wrote the log.",
            "Failed jobs.",
            "Families of checks, with commas: opam, publication, archive.",
            "Glob of the package that fails, such as lwt, 'coq-*' or 'lwt.5.*': of a reverse dependency, if it is one.",
            "How far back: 90m, 24h, 7d, or a date (UTC).",
            "How many to list.",
            "Jobs that were not run because others fail alike.",
            "Jobs to build at once; default: one a core.",
            "Keep what has changed in this many days; default: OPAM_CI_RETENTION_DAYS.",
            "Lint all packages.",
            "Lint the `opam` text of each JSON line, without a repository; - for stdin.",
            "Lint the `package` (and `new`) of each JSON line; - for stdin.",
            "Lint this branch or commit of the clone, not its work tree.",
            "List the rules.",
            "Lists incidents; `show` and `resolve` take one. In a pipe, tabs separate: #, cause, where, first, last, faults, jobs, prs, state.",
            "Lists waivers of known failures, which are shown and do not count; `add` and `remove` one. In a pipe, tabs separate: #, failures, by, state, because.",
            "Local clone of opam-repository, bare or not.",
            "NAME.VERSION, NAME for all its versions, or the path of either.",
            "NAME.VERSION, or NAME for its newest version.",
            "Not only current heads of open pull requests.",
            "Number of a pull request in it: fetched, or merged.",
            "Number of a pull request.",
            "Number of the incident.",
            "Number of the waiver.",
            "OWNER/REPO/NUMBER.",
            "OWNER/REPO/NUMBER; none for all that match.",
            "OWNER/REPO/NUMBER; none for all.",
            "OWNER/REPO/NUMBER; none lists all.",
            "Of this attempt; default: the last one.",
            "Of this round: a restart begins another one.",
            "On this platform; default: the first that needs no image.",
            "One of {…}; default: build.",
            "Only errors with this cause, such as disk_full.",
            "Only failures for this reason, such as build.",
            "Only failures that look the same: what follows `group:` in a page's filter.",
            "Only if this is the head under test: its hash, or seven characters of it.",
            "Only jobs that this incident hit.",
            "Only of this pool, or glob; may be repeated.",
            "Only on platforms of this glob.",
            "Only on this platform.",
            "Only on this reverse dependency.",
            "Only packages of this glob, such as 'ppx_*'.",
            "Only platforms of this glob.",
            "Only print how to do it by hand, with no opam-ci.",
            "Only print what it would do.",
            "Only the job with this id, in full.",
            "Only these jobs, such as errored, failed, passed.",
            "Only these: names or globs.",
            "Only this architecture, or glob; may be repeated.",
            "Only this distribution, or glob; may be repeated.",
            "Only this kind of jobs, such as build, test, revdep.",
            "Only this package, or version of it.",
            "Only those whose last attempt this worker ran.",
            "Or a branch, tag or commit.",
            "Percent of the jobs with a known verdict that run all the same, to compare both.",
            "Phase of the job that the log comes from.",
            "Port for its Web UI (PORT + 1000).",
            "Port for pages; default: the one after --port.",
            "Port for the Temporal server (7233).",
            "Port for the embedded server.",
            "Port to listen on.",
            "Print JSON lines.",
            "Print JSON.",
            "Print JSON; the batch form always does.",
            "Print one line a message.",
            "Print suggestions for a review on GitHub instead of the patch.",
            "Print the page docs/platforms.md, of the whole file.",
            "Print what is added until the attempt ends.",
            "Remove every entry that no running build uses.",
            "Reuse compiled dependencies of earlier builds.",
            "Seconds before the first retry; tripled each time.",
            "Seconds without a heartbeat after which a worker counts as lost.",
            "Show what passed and what was skipped, too.",
            "Stop after analysis and lint.",
            "TOML file of platforms and pools [env: OPAM_CI_PLATFORMS].",
            "Take the verdicts of earlier jobs with the same inputs; default: yes.",
            "The CI of opam-repository: it distinguishes a broken package from a broken CI.",
            "The base; default: that of OPAM_CI_GITHUB_REPOSITORY and …_BRANCH.",
            "The branch into which it is merged.",
            "The branch on which the work tree is based; default: master, or else HEAD.",
            "The branch or commit into which it is merged.",
            "The dependency at fault; default: find out which.",
            "The next page of a listing.",
            "The same as the argument.",
            "The set-up of GitHub.",
            "URL of an opam archive mirror for sources; may be repeated.",
            "Validate a file, and print its errors, one a line.",
            "When they count again: 30d, or 2026-12-24; 180 days at most.",
            "Whether the packages are the first version under their name. Default: those that have no other version in the repository.",
            "Who decides that; default: your account.",
            "Why the failures do not count: a link is best.",
            "With --replay: attempts whose verdicts maintainers reported as wrong.",
            "With --replay: exit code 1 if a verdict changes, or is still reported as wrong.",
            "With --replay: only attempts begun since then: 90m, 24h, 7d, a date.",
            "With --replay: only attempts with this outcome.",
            "With --replay: only faults with this cause.",
            "With --replay: only this one.",
            "With this OCaml, such as 5.4; may be repeated. Default: those of the platforms.",
            "Words of the job's id, such as `test cppo.1.8.0`.",
            "Write the bounds into the opam file of the work tree.",
        ]
    )
