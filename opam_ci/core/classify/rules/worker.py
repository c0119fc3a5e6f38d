"""Workers that were lost, stopped or ran out of the time that the CI grants."""

from opam_ci.core.classify.rule import OUTSIDE_PACKAGE_CODE, Rule
from opam_ci.core.classify.rules.generic import OPAM_COMMAND_FAILED, PACKAGE_REPORT
from opam_ci.core.classify.rules.make import of_opam, rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import Cause

WORKER: tuple[Rule, ...] = (
    rule(
        "job-cancelled",
        Cause.WORKER_LOST,
        r"^Job cancelled\b",
        r"^(?:Auto-)?[Cc]ancel+ing(?: job)?: ",
        r"[Aa]uto-cancel+ing job",
        r"^(?:Cancelled by user|The operation was canceled|Job was cancell?ed)",
        r"^The workflow run was cancell?ed",
        r"ERROR: Job failed: (?:canceled|aborted)",
        r"^Build was (?:aborted|cancell?ed)",
        r"^Aborted by ",
        r"^Finished: ABORTED",
        r"^Cancelled$",
        r"^Cancelled (?:at unexpected|waiting for)",
        r"^Canceling since a higher priority",
        r"^(?>.*?JOB \d+ ).*CANCELLED AT",
        r"^Sending interrupt signal to process",
        r"^Interrupted by ",
        r"^Build cancelled\b",
        r"^[Jj]ob (?:has been|was) (?:superseded|aborted)",
        words="cancel|abort|interrupt|superseded",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=("time-limit",),
        why="Somebody, or the CI itself, stopped the job; it says nothing about the package.",
        example=("Cancelling: Auto-cancelling job because it is no longer needed\nJob cancelled"),
        not_when=[
            ("errored", ("Cancelling: Timeout (1.00 hour)\nJob cancelled")),
        ],
    ),
    *of_opam(
        rule(
            "opam-interrupted",
            Cause.WORKER_LOST,
            r"^\[ERROR\] User interruption",
            words="user interruption",
            why=(
                "opam got SIGINT, which nobody but us can send; it then names a package as failed."
            ),
            example="[ERROR] User interruption",
        ),
    ),
    rule(
        "worker-lost",
        Cause.WORKER_LOST,
        (
            r"(?:[Ll]ost|lost its) connection (?:to|with) (?:the )?(?:worker|scheduler|agent"
            r"|node|server)"
        ),
        r"lost communication with the server",
        r"has received a shutdown signal",
        r"[Aa]gent lost\b",
        (
            r"(?:[Aa]gent|[Ss]lave|[Nn]ode|[Ww]orker|[Rr]unner) (?:\S+ )?(?:went|is|has gone"
            r"|was marked) (?:offline|down|dead)"
        ),
        r"[Ww]orker (?:\S+ )?(?:disconnected|died|crashed|is shutting down|shut down)",
        r"ChannelClosedException",
        r"ClosedChannelException",
        r"Cannot contact \S+: ",
        r"Capnp.{0,30}[Dd]isconnected",
        r"^(?:Failed: )?(?:Exception: )?Disconnected\b",
        r"[Ss]witch turned off",
        r"Builder shutting down",
        r"(?:spot|instance) (?:interruption|terminat)",
        r"preempt(?:ed|ion)",
        r"[Pp]od (?:was )?(?:evicted|deleted)",
        r"\bEvicted\b",
        r"reason: NodeLost",
        r"[Uu]nexpected termination of the channel",
        r"System (?:is going down|shutdown|halted)",
        r"The system (?:is going down|will (?:reboot|power off))",
        r"hudson\.remoting\.\S+Exception",
        # Jenkins' words for its agents, and Cirrus CI's.
        r"^(?:INFO: )?Ping failed\. Terminating the channel",
        r"The channel is closing down or has closed down",
        r"Issue with creating launcher for agent",
        r"^(?:CI )?[Aa]gent stopped responding",
        r"[Nn]o space on worker",
        # GitLab's, of its own part of a job; and Azure's.
        r"runner system failure",
        r"^(?:ERROR: )?Job failed \(system failure\)",
        r"^(?:##\[error\])?We stopped hearing from agent ",
        r"\bconnection to (?:the )?worker\b.{0,40}lost",
        r"\bworker\b.{0,60}\b(?:vanished|unreachable|not responding|rebooted)",
        r"Received (?:SIGTERM|signal 15)\b.{0,40}(?:shut|stop|terminat)",
        words=(
            "lost|shutdown|shutting|shut down|offline| down| dead|disconnect|died|crashed"
            "|channelclosed|closedchannel|cannot contact|turned off|interruption|terminat"
            "|preempt|evicted|deleted|nodelost|going down|halted|will |hudson."
            "|system failure|hearing from"
            "|no space on|vanished|unreachable|not responding|rebooted|sigterm|signal 15"
            "|ping failed|closing down|creating launcher|stopped responding"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The machine that ran the job went away in the middle of it.",
        example="The self-hosted runner: r1 lost communication with the server.",
        not_when=[
            ("failed", ("client: Disconnected\n[FAIL]  rpc  3  reconnects.")),
        ],
    ),
    rule(
        "process-terminated",
        Cause.WORKER_LOST,
        r"^(?:.{0,200}[\s:])?Terminated(?:: 15)?$",
        r"\*\*\* .{0,300}\] Terminated",
        r"got signal TERM\b",
        r"\bsignal(?:led|:)? ?-11\b",
        r"killed by signal (?:15|-11|TERM)",
        r"\(signal: 15, SIGTERM",
        r"^exit-code +143\b",
        r"(?:exit (?:code|status):?|exited with(?: code)?|error code) 143\b",
        r"^\S+: signal: terminated",
        words="terminated|signal|143",
        yields_to=PROOF_IDS,
        why=("SIGTERM, which OCaml numbers -11 and shells report as 143, comes from a supervisor."),
        example="make: *** [Makefile:3: all] Terminated",
        not_when=[
            ("failed", ("child Terminated\n[FAIL]  proc  1  ends its child.")),
        ],
    ),
    rule(
        "time-limit",
        Cause.UNKNOWN,
        r"exceeded the maximum (?:time limit|execution time|allowed time)",
        r"maximum allowed time for",
        r"reached the maximum (?:allowed )?time",
        r"execution took longer than \d",
        r"DUE TO TIME LIMIT",
        r"[Ee]xceeded (?:the )?timeout of",
        r"^(?:Cancel+ing: )?Timeout \(\d",
        r"^(?:Job|Build|Step) (?:has )?timed? ?out\b",
        r"Timed out!$",
        r"^Timeout (?:has been )?exceeded",
        r"^\+\+\+ Timeout!! ",
        r"Build timed out \(after",
        r"[Jj]ob's maximum time",
        r"has timed out after \d+ min",
        r"^Cancel+ing: .*[Tt]ime ?out",
        r"\bstep exceeded (?:the )?(?:time limit|timeout)",
        r"context deadline exceeded",
        r"ran (?:for )?longer than the (?:time )?limit",
        r"hit the time limit of the (?:job|build|CI)",
        words="exceeded|maximum|longer than|time limit|timeout|timed out|time out",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why=(
            "The CI's own time limit for the whole job was over: the queue, a slow worker "
            "and the build share it, and it does not tell them apart."
        ),
        example="The job exceeded the maximum time limit for jobs, and has been terminated.",
        not_when=[
            ("failed", "FAILED: Cases: 4 Tried: 4 Errors: 0 Failures: 1 Skip: 0 Timeouts: 0."),
            ("failed", ("Error: Timeout (10 s) in test 3\nTimeout (10 s)\nnot ok 3 - answers")),
            (
                "failed",
                (
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build make test\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# rpc 3: context deadline exceeded\n"
                    "# Timed out!"
                ),
            ),
        ],
    ),
    rule(
        "worker-internal-error",
        Cause.WORKER_LOST,
        r"Job failed: (?:Failed: )?(?:Internal error|Uncaught|Cancelled|Exception)",
        r"\bFailed: Internal error\)*$",
        # ocurrent, of an exception in a step of its own.
        r"Job failed: .{1,600} -- Raised (?:by|at) ",
        (
            r"worker +\[(?:WARNING|ERROR)\] Build failed: (?:Unix\.Unix_error|Sys_error|End_of_file"
            r"|Not_found|Invalid_argument)"
        ),
        r"Build ended without setting a log",
        r"^(?:fatal )?[Ii]nternal (?:CI )?error: (?:worker|agent|runner|builder)",
        # cmdliner's words, of the CI's own services.
        (
            r"^(?:\S*/)?(?:base[_-]images|obuilder|(?:ocaml|opam-repo|docs|mirage)-ci[^\s:]{0,40}"
            r"|ocluster[^\s:]{0,40}|ocurrent[^\s:]{0,40}|solver-(?:worker|service))"
            r": internal error, uncaught exception"
        ),
        words=(
            "uncaught exception|job failed|build failed|failed: internal|without setting a log"
            "|internal"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The worker's own program failed, not a command of the job.",
        example="2021-06-15 22:14.54: Job failed: Failed: Internal error",
        not_when=[("failed", "Job failed: Internal error\nnot ok 2 - survives a bad job")],
    ),
    rule(
        "worker-exception",
        Cause.WORKER_LOST,
        # ocluster's worker, of its own exceptions; programs of Jane Street's break the line.
        (
            r"(?:^|\[WARNING\] )Uncaught exception: \(?(?:Invalid_argument|Failure|Not_found"
            r"|Sys_error(?!\(\"[^/\"]{1,200}: No such file)|End_of_file|Unix\.Unix_error|Sqlite"
            r"|Lwt_io|Stack_overflow|Assert_failure|Match_failure)"
        ),
        words="uncaught exception",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=(PACKAGE_REPORT, OPAM_COMMAND_FAILED, *PROOF_IDS),
        why=(
            "The worker's own program died of an exception. In the report of a package's command, "
            "which opam 1 does not mark as such, it is the package's."
        ),
        example='capnp-rpc [WARNING] Uncaught exception: Unix.Unix_error(Unix.EPIPE, "write", "")',
        not_when=[
            (
                "failed",
                (
                    "# command              coq_makefile -f Make -o Makefile\n"
                    "# exit-code            2\n"
                    "### stderr ###\n"
                    '# Uncaught exception: Sys_error("/src/Make: No such file or directory")'
                ),
            ),
            ("unknown", 'Uncaught exception: Sys_error("Make: No such file or directory")'),
        ],
    ),
    rule(
        "service-traceback",
        Cause.WORKER_LOST,
        (
            r"^File \"/(?>\S*?/(?:site|dist)-packages/(?:zuul|nodepool|buildbot(?:_worker)?|gear"
            r"|jenkins_jobs|diskimage_builder)/)\S+\.py\", line \d+, in "
        ),
        r"^File \"/opt/(?>\S*?(?:/nodepool/|/zuul/))\S+\.py\", line \d+, in ",
        words="zuul/|nodepool/|buildbot|/gear/|jenkins_jobs|diskimage_builder",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        overtaken_by=(PACKAGE_REPORT,),
        why=(
            "The backtrace goes through the program of a CI that runs on the machine; no "
            "build of a package calls it."
        ),
        example=(
            "Traceback (most recent call last):\n"
            '  File "/usr/lib/python3.6/site-packages/zuul/zk.py", line 213, in storeNode'
        ),
        not_when=[
            (
                "unknown",
                'File "/src/zuul/tests/unit/test_git_driver.py", line 118, in test_refreshed',
            ),
            (
                "failed",
                (
                    'File "/usr/lib/python3/dist-packages/zuul/zk.py", line 2, in store\n'
                    "not ok 3 - stores a node"
                ),
            ),
        ],
    ),
    rule(
        "kernel-trouble",
        Cause.WORKER_LOST,
        r"blocked for more than \d+ seconds",
        r"soft lockup",
        r"hard LOCKUP",
        r"[Kk]ernel panic",
        r"\bBUG: unable to",
        r"\bOops: ",
        r"general protection fault",
        r"[Hh]ardware [Ee]rror",
        r"Machine check",
        r"rcu_sched self-detected",
        r"hung_task",
        r"watchdog: BUG",
        words=(
            "blocked for|lockup|panic|bug: |oops|protection fault|hardware error"
            "|machine check|rcu_|hung_task"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The worker's kernel reports that it is stuck or broken.",
        example="INFO: task ocluster-worker:602217 blocked for more than 120 seconds.",
        not_when=[
            ("failed", ("kernel panic simulated\n[FAIL]  boot  1  panics.")),
        ],
    ),
    rule(
        "stalled",
        None,
        r"^No output has been received in the last",
        r"potentially indicates a$",
        r"^stalled build or",
        r"^Too long with no output",
        r"^no output for \d+ min",
        words="no output|stalled|potentially",
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why=("A build without output was stopped: a stuck test and a stuck worker look the same."),
        example="No output has been received in the last 10m0s",
        not_when=[
            ("failed", ("[FAIL]  loop  1  ends.\nNo output has been received in the last 10m")),
        ],
    ),
)
"""Workers."""
