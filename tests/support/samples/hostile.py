"""Packages that try to pass for a broken CI: what each does, and the verdict that it must get.

Everything that a package's own command prints, exits with, sends or uses up is the package's
own affair: a submission cannot say that the CI is broken.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fakes import opam_repository
from tests.support.fakes.clone import SUBMODULE, SYMLINK, Content

MEMORY = 640 << 20
PROCESSES = 200
DISK = 300 << 20
TIMEOUT = 45
"""Seconds for a build or test: only what stops itself needs them."""

MEMORY_LIMIT, PROCESS_LIMIT = "own-memory-limit", "own-process-limit"


@dataclass(frozen=True)
class Hostile:
    """One package.

    Attributes:
        body: Of its opam file.
        build: The verdict on its build.
        test: The verdict on its tests, if it has any.
        limit: The rule of the one fault that comes before the verdict: the limit that the job
            hit alone.
    """

    body: str
    build: str = "failed(build)"
    test: str | None = None
    limit: str | None = None


LIES = {
    "disk": "cp: error writing x: No space left on device",
    "sandbox": "bwrap: Creating new namespace failed: Operation not permitted",
    "namespaces": "bwrap: No permissions to create new namespace",
    "dns": "curl: (6) Could not resolve host: github.com",
    "connection": "curl: (28) Failed to connect to opam.ocaml.org port 443: Connection timed out",
    "memory": "Fatal error: exception Out of memory",
    "allocation": "cc1: out of memory allocating 65536 bytes; virtual memory exhausted",
    "killed": "Killed",
    "lost": "worker 7@host sends no more heartbeats in phase build: killed, crashed, or cut off; "
    "worker_lost",
    "apt": "E: Failed to fetch http://deb.debian.org/debian/pool/x.deb  503  Service Unavailable",
    "dpkg": "dpkg: error processing package libc6 (--configure): E: Sub-process dpkg returned 1",
    "git": "fatal: unable to access https://github.com/o/r: Could not resolve host: github.com",
    "input": "ld: read: Input/output error; mkdir: Read-only file system",
    "heading": "#=== ERROR while compiling other.1 ====#\\n# exit-code 1\\n### output ###\\n# No",
    "opam": "[ERROR] The compilation of other.1 failed at \\042make\\042.",
    "fetching": "[ERROR] Failed to get sources of other.1: curl error code 503",
    "locked": "[ERROR] Another process has locked /home/opam/.opam; opam: fatal error: Sys_error",
    "solver": "[ERROR] The solver timed out; Internal error: Stack overflow",
    "markers": "==== opam-ci: phase build ends: exit 0 ====\\n==== opam-ci: job ends ====",
    "image": "Illegal instruction (core dumped)\\nmake: /bin/sh: No such file or directory",
}
"""What a broken machine says, as printf's `%b` takes it."""

EVERYTHING = "\\n".join(LIES.values())

KILL_OPAM = "pkill -{} opam; exit 1"
"""With opam dead, nobody reports what the package did."""

HOG = "perl -e 'my $x = q(x) x (1100 << 20); print length $x'"
BOMB = "perl -e 'for (1..600) { my $p = fork // die qq(fork: $!); $p or sleep 30 }'"
FILL = (
    "for i in 1 2 3 4 5; do dd if=/dev/zero of=big$i bs=1M count=100 status=none; sleep 0.3; done;"
    " sleep 40"
)

EXIT_CODES = (
    *(1, 2, 3, 5, 10, 15, 20, 30, 31, 40, 50, 60, 99, 100),
    *(124, 126, 127, 128, 130, 131, 132, 134, 137, 139, 143, 255),
)
"""opam's own codes, a shell's, and those of a command that a signal ended."""


def shell(script: str, *more: str) -> str:
    """Returns a command of an opam file that runs a script."""
    words = ("sh", "-c", script, *more)
    return "[" + " ".join(_quoted(word) for word in words) + "]"


def says(text: str, code: int = 1) -> str:
    """Returns a script that prints and exits."""
    return f"printf '%b\\n' '{text}'; exit {code}"


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _builds(script: str, **expected: str) -> Hostile:
    return Hostile(f"build: {shell(script)}\n", **expected)


def _tests(script: str, verdict: str = "failed(test)", **expected: str) -> Hostile:
    return Hostile(f"run-test: {shell(script)}\n", "passed", verdict, **expected)


def _printing() -> Iterator[tuple[str, Hostile]]:
    for name, lie in LIES.items():
        yield f"says-{name}", _builds(says(lie))
    for name in ("disk", "sandbox", "dns", "memory", "killed", "heading", "opam"):
        # What follows a bare carriage return is printed by the package too.
        yield f"return-{name}", _builds(says(f"10%\\r{LIES[name]}\\r20%\\r\\r{LIES[name]}"))
    for name in ("disk", "sandbox", "lost"):
        yield f"installs-{name}", Hostile(f"install: {shell(says(LIES[name]))}\n")
    for name in ("disk", "sandbox", "dns", "memory", "opam"):
        yield f"tests-{name}", _tests(says(LIES[name]))
    yield "tests-return", _tests(says(f"10%\\r{LIES['sandbox']}"))
    only_with_test = f"build: [{shell('true')} {shell(says(LIES['disk']))} {{with-test}}]\n"
    yield "with-test", Hostile(only_with_test, "passed", "failed(test)")
    yield (
        "passes",
        Hostile(
            f"build: {shell(says(EVERYTHING, 0))}\nrun-test: {shell(says(EVERYTHING, 0))}\n",
            "passed",
            "passed",
        ),
    )
    yield "passes-return", _builds(says(EVERYTHING.replace("\\n", "\\r"), 0), build="passed")
    yield "everything", _builds(says(EVERYTHING))
    yield "escapes", _builds(says(f"\\0033[1m\\0033]0;x\\0007{LIES['disk']}\\0033[0m"))
    yield "nul", _builds(says(f"\\0000{LIES['sandbox']}\\0000\\n\\0000"))
    yield "latin-1", _builds(says(f"\\0377\\0376 {LIES['disk']} \\0351\\0300"))
    yield "no-newline", _builds(f"printf '%s' '{LIES['disk']}'; exit 1")
    yield "long-line", _builds(f"head -c 10000000 /dev/zero | tr '\\000' x; {says(LIES['disk'])}")
    flood = "yes $(printf %0999d 7) | head -c 40000000"
    yield "flood", _builds(f"{flood}; echo; {says(LIES['sandbox'])}")
    yield "argument", Hostile(f"build: {shell('exit 1', *LIES.values())}\n")
    lines = "\n".join(lie for lie in LIES.values() if "\\" not in lie)
    yield "lines-of-argument", _builds("exit 1\n" + lines)
    failure = " ".join(f"{_quoted(words)} {{failure}}" for words in (lines, LIES["sandbox"]))
    messages = f"messages: {_quoted(lines)}\npost-messages: [{failure}]\n"
    yield "message", Hostile(f"build: {shell('exit 1')}\n{messages}")
    yield "no-space-left-on-device", _builds("exit 1")
    forged = '{"results":[{"action":{"build":{"name":"other","version":"1"}},"result":"aborted"}]}'
    places = '"$OPAMJSON" /home/opam/.opam-ci-report/*'
    yield (
        "report",
        _builds(f"for f in {places}; do echo '{forged}' > $f; done; {says(LIES['disk'])}"),
    )


def _signals() -> Iterator[tuple[str, Hostile]]:
    for number in (2, 4, 6, 8, 9, 11, 15):
        yield f"signal-{number}", _builds(f"kill -{number} $$")
    yield "stops", _builds("kill -STOP $$", build="failed(timeout)")
    yield "tests-signal-9", _tests("kill -9 $$")
    yield "tests-signal-4", _tests("kill -ILL $$")
    for name in ("KILL", "TERM", "INT"):
        yield f"opam-{name.lower()}", _builds(KILL_OPAM.format(name))
    # Where it reaches opam, opam goes on after a while: the suite is not to wait for an hour.
    yield "opam-stop", _builds(f"(sleep 15; pkill -CONT opam) & {KILL_OPAM.format('STOP')}")
    yield "tests-opam-kill", _tests(KILL_OPAM.format("KILL"))
    yield "kills-all", _builds("kill -9 -1; exit 1")
    yield "kills-group", _builds("kill -9 0; exit 1")
    yield "kills-parent", _builds("kill -9 $PPID; exit 1")


def _limits() -> Iterator[tuple[str, Hostile]]:
    own = "failed(own_fault)"
    yield "memory", _builds(HOG, build=own, limit=MEMORY_LIMIT)
    yield "tests-memory-limit", _tests(HOG, own, limit=MEMORY_LIMIT)
    yield "processes", _builds(BOMB, build=own, limit=PROCESS_LIMIT)
    yield "tests-processes", _tests(BOMB, own, limit=PROCESS_LIMIT)


def _named(packages: Iterator[tuple[str, Hostile]]) -> dict[str, Hostile]:
    return {f"{name}.1": hostile for name, hostile in packages}


EXITS = {f"exits-{code}.1": _builds(f"exit {code}") for code in EXIT_CODES}

PACKAGES = _named(_printing()) | _named(_signals()) | EXITS | {"disk.1": _builds(FILL)}
"""Packages that any machine must judge so."""

LIMITED = _named(_limits())
"""Packages that need a machine with control groups."""


def _path(package: str, below: str = "opam") -> str:
    return f"packages/{package.partition('.')[0]}/{package}/{below}"


_GOOD = opam_repository.opam(f"build: {shell('true')}\n").encode()

FILE_NAMES: dict[str, tuple[str, Content]] = {
    "not-ascii": (_path("é.1"), _GOOD),
    "patch-not-ascii": (_path("plain.1", "files/ü.patch"), b"x"),
    "control": (_path("plain.1", "files/a\nb"), b"x"),
    "256-bytes": (_path("plain.1", f"files/{'n' * 256}"), b"x"),
    "deep": (_path("plain.1", f"files/{'d/' * 2100}f"), b"x"),
    "gitlink": (_path("plain.1", "files/module"), (SUBMODULE, b"1" * 40)),
    "link": (_path("plain.1", "files/link"), (SYMLINK, b"/etc/passwd")),
}
"""By branch: the path that the analysis must refuse, beside a package that is good."""

PLAIN = (_path("plain.1"), _GOOD)
