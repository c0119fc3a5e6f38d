"""Full disks and memory that ran out: the machine's fault, in the words of many tools."""

from opam_ci.core.classify.rule import Rule
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS, TEST_IDS
from opam_ci.core.outcome import Cause

DISK: tuple[Rule, ...] = (
    rule(
        "disk-full-tool",
        Cause.DISK_FULL,
        r"^(?>[EW]: |Err\S*?: |Get:\d.*?: ).*No space left on device",
        (
            r"^(?>(?:\[?(?:ERROR|error|Error|FATAL|fatal|failed)\]?\b|dpkg|apk|git|tar|cp"
            r"|mv|install|mkdir|mktemp|ln|touch|rm|cat|dd|tee|sed|gzip|bzip2|xz|unzip|patch"
            r"|rsync|curl|wget|gcc|as|ar|ranlib|collect2|sh|bash|opam|dune|podman"
            r"|buildah|strip|objcopy|cargo|rustc|npm|write|mount|zfs|btrfs|pkg|brew"
            r"|yum|dnf|rpm|pacman|zypper|sudo|time"
            r"|(?:apt|cc1|ld|\S+?/ld|clang|make|/bin/|/usr/bin/|ocaml|docker|python|java)"
            r"[^\s:(]{0,200}+)[:( ]).{0,700}[Nn]o space left on device"
        ),
        (
            r"(?:Sys_error|Failure|Unix_error|I/O error|IOException|OSError"
            r"|IOError)\b.{0,600}[Nn]o space left on device"
        ),
        r"Unix\.Unix_error\(Unix\.ENOSPC",
        r"\[Errno 28\]",
        r"\bENOSPC: no space left",
        r"\(28: No space left on device\)",
        r'" failed on .{1,400}: No space left on device',
        (
            r"(?:write error|write failed|[Cc]annot write|can't write|final close failed|error"
            r" writing).{0,300}[Nn]o space left on device"
        ),
        words="no space left on device|enospc|[errno 28]",
        why=(
            "A tool's own write failed for want of space. No package can cause that on a "
            "healthy machine, and every later error in the log may follow from it."
        ),
        example='Fatal error: Sys_error("/home/opam/.opam/log/x.env: No space left on device")',
        not_when=[
            (
                "failed",
                (
                    'File "test/disk.ml", line 9, characters 2-9:\n'
                    "9 |   fail \"cp: error writing 'x': No space left on device\"\n"
                    "Error: Unbound value fail"
                ),
            ),
            (
                "failed",
                (
                    'File "t.t", line 1, characters 0-0:\n'
                    "diff --git a/_build/default/t.t b/t.t\n"
                    "--- a/_build/default/t.t\n"
                    "+++ b/_build/default/t.t.corrected\n"
                    "@@ -1 +1 @@\n"
                    "-  ok\n"
                    "+  cp: error writing 'x': No space left on device"
                ),
            ),
        ],
    ),
    rule(
        "disk-full-packager",
        Cause.DISK_FULL,
        r"[Yy]ou don't have enough free space in /",
        r"more space needed on the /",
        r"^error: Partition / too",
        r"[Nn]ot enough free (?:disk )?space",
        r"[Nn]ot enough space (?:left on|(?:on|in) (?:the )?(?:disk|device|drive|file ?system|/))",
        r"filesystem is full",
        r"needs \d+\s?\w?B? (?:more space )?on the / filesystem",
        r"[Dd]isk quota exceeded",
        r"^Disk Requirements:",
        r"[Ii]nsufficient (?:disk space|space (?:on|in) (?:the )?(?:disk|device|/))",
        r"[Oo]ut of disk space",
        r"disk is full",
        r"not enough inodes",
        r"no free inodes",
        r"cannot write .*: ENOSPC",
        r": out of space$",
        r"[Dd]isk-space (?:low|still low)",
        r"There is not enough (?:disk space|space (?:on|in) )",
        words="space|inodes|quota exceeded|is full|too full|disk requirements",
        yields_to=TEST_IDS,
        why=(
            "A package manager, file system or worker counts the free space and finds too little."
        ),
        example="E: You don't have enough free space in /var/cache/apt/archives/.",
        not_when=[
            ("failed", "[FAIL]  quota  1  disk quota exceeded is reported"),
            (
                "failed",
                (
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make test\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    '# Fatal error: exception Failure("Not enough space in buffer")'
                ),
            ),
        ],
    ),
    rule(
        "disk-full-words",
        Cause.DISK_FULL,
        r"[Nn]o space left on device\b",
        words="no space left on device",
        yields_to=PROOF_IDS,
        why="The kernel's words for a full disk, from a program that no other rule knows.",
        example="mirror-tool: snapshot of x: No space left on device",
        not_when=[
            (
                "failed",
                ("simulated fault: No space left on device\nnot ok 4 - survives a full disk"),
            ),
        ],
    ),
)
"""Full disks."""

MEMORY: tuple[Rule, ...] = (
    rule(
        "oom-kernel",
        Cause.OUT_OF_MEMORY,
        (
            r"\b(?:Memory cgroup out of memory|Out of memory: Kill(?:ed)? process|oom-kill:"
            r"|oom_reaper:|invoked oom-killer|OOMKilled|oom-killed|OOM killer|Killed process"
            r" \d+)"
        ),
        words="oom|out of memory: kill|memory cgroup|killed process",
        why=("The kernel's or the container engine's own record of a process killed for memory."),
        example="Memory cgroup out of memory: Killed process 4211 (ocamlopt.opt)",
    ),
    rule(
        "process-killed",
        Cause.OUT_OF_MEMORY,
        r"^(?:.{0,200}[\s:)])?Killed(?: \(program \S+\)|: 9)?$",
        r"\*\*\* .{0,300}\] Killed(?: *$|: )",
        # A shell names its script and line, the job's number and its command.
        r": line \d+: +\d+ Killed\b",
        r"Main process exited, code=killed, status=9/KILL",
        r"\bmake(?:\[\d+\])?: \S{3,8} .{0,300}\] Error 137$",
        r"Killed signal terminated program",
        r"got signal KILL\b",
        r"\(signal: 9, SIGKILL",
        r"\bsignal(?:led|:)? ?-7\b",
        r"killed by signal (?:9|-7|KILL)",
        r"was killed by SIGKILL",
        r"^signalled +-7\b",
        r"^exit-code +(?:137|-7)\b",
        r"signal: killed",
        (
            r"(?:[Ee]xit (?:code|status):?|exited with(?: code| status| exit code)?|non-zero code:"
            r"|error code|returned a non-zero code:) (?:137|-7)\b"
        ),
        r"\bfailed with signal -7",
        words="killed|signal|137|-7",
        yields_to=TEST_IDS,
        why=(
            "SIGKILL, which OCaml numbers -7 and shells report as 137. A package does not "
            "kill its own compiler: the kernel did, for memory, or the worker."
        ),
        example="make: *** [Makefile:12: all] Killed",
        not_when=[
            ("failed", ("worker 3 was Killed\n[FAIL]  pool  2  restarts a killed worker.")),
        ],
    ),
    rule(
        "out-of-memory-host",
        Cause.OUT_OF_MEMORY,
        r"[Cc]annot fork",
        r"[Cc]annot allocate memory",
        r"^fork: (?:retry: )?Resource temporarily unavail",
        r"virtual memory exhausted",
        r"(?:cc1\w{0,20}|as|ld[^\s:]{0,40}): out of memory",
        r"[Nn]ot enough memory",
        r"fork: (?:: )?Resource temporarily unavailable",
        # Cygwin's fork needs its libraries at the same addresses again, which may be taken.
        r"\bchild_info_fork::abort: ",
        r"\bfork_copy: linked dll ",
        r"Unix\.Unix_error\(Unix\.ENOMEM",
        r"failed to create new OS thread",
        r"pthread_create failed",
        words="fork|memory|bad_alloc|enomem|os thread|pthread_create",
        yields_to=PROOF_IDS,
        why=("The machine has no memory, process or thread left to give: a limit of the worker."),
        example="sh: 0: Cannot fork",
        not_when=[
            ("failed", ("Cannot fork: refused\nnot ok 2 - forks")),
        ],
    ),
    rule(
        "out-of-memory-unclear",
        None,
        r"^(?:Fatal error: |Error: )?(?:exception )?[Oo]ut[ _]of[ _]memory\b",
        r"Out of memory during evaluation",
        r"Fatal error: (?:exception )?Out_of_memory",
        r"java\.lang\.OutOfMemoryError",
        r"LLVM ERROR: out of memory",
        r"std::bad_alloc",
        r"memory allocation of \d+ bytes failed",
        r"JavaScript heap out of memory",
        r"Fatal error: out of memory",
        words="memory|bad_alloc",
        yields_to=PROOF_IDS,
        why=(
            "A program ran into its own memory limit: too greedy, or the limit too small. "
            "The words do not tell which."
        ),
        example="Fatal error: out of memory.",
        not_when=[
            ("failed", ("Out of memory\nnot ok 2 - copes with little memory")),
        ],
    ),
    rule(
        "illegal-instruction",
        Cause.IMAGE,
        # A shell's, make's and gdb's words; an assembler says the same of a source line.
        r"(?:^|[\]:\d] +)Illegal instruction(?: \(core dumped\)|: 4|\b(?! [`'\"\w]))",
        r"^Fatal glibc error: .{0,80}\bCPU\b",
        r"\bsignal(?:led|:)? ?-5\b",
        r"(?:by|got|received|signal|[45],?) \(?SIGILL\b",
        r"got signal ILL\b",
        r"^exit-code +132\b",
        r"exit (?:code|status):? 132\b",
        words="illegal instruction|glibc error|signal|sigill|132",
        yields_to=TEST_IDS,
        why=(
            "A binary of the image or of the build cache was made for another processor than "
            "this worker has."
        ),
        example="Illegal instruction (core dumped)",
        not_when=[
            ("failed", ("Illegal instruction\n[FAIL]  asm  1  traps.")),
            (
                "failed",
                (
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# checking for SIGILL handling... yes\n"
                    "# x.s:12: Error: illegal instruction `vmovups'"
                ),
            ),
        ],
    ),
)
"""Memory, processes and processors."""
