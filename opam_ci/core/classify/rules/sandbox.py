"""Sandboxes, containers, images and file systems that the CI sets up around a build."""

from opam_ci.core.classify.rule import OUTSIDE_PACKAGE_CODE, Rule
from opam_ci.core.classify.rules.generic import PACKAGE_REPORT
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import Cause

SANDBOX: tuple[Rule, ...] = (
    rule(
        "sandbox-bwrap",
        Cause.SANDBOX,
        r"\bbwrap: (?!execvp )",
        r"[Ss]andboxing is not working",
        r"'bwrap' command was not found",
        r"[\"']?bwrap[\"']?: (?:command )?not found",
        r"sandbox-exec: (?!execvp)",
        r"sandbox_apply: ",
        r"Missing dependencies --.*\bbwrap\b",
        r"unshare(?: failed)?: .*(?:not permitted|denied)",
        r"clone\(CLONE_NEW",
        r"[Uu]ser namespaces? .*(?:not enabled|disabled|not available)",
        r"^sandbox\.sh: .*(?:denied|not found)",
        # bubblewrap of before 0.2 does not say its name.
        r"^Failed to make / slave",
        r"^(?:Creating new namespace failed|No permissions to creat(?:e|ing) (?:a )?new namespace)",
        r"^setting up [ug]id map: ",
        r"newuidmap: ",
        words="bwrap|sandbox|unshare|clone(|user namespace|newuidmap|/ slave|new namespace|id map",
        why="The sandbox around the build does not start; the package's command never ran.",
        example="bwrap: No permissions to create a new namespace",
    ),
    rule(
        "container-runtime",
        Cause.SANDBOX,
        r"OCI runtime ",
        r"runc(?: run failed|:|\b.*container_linux)",
        r"container_linux\.go:\d+",
        r"^crun: ",
        r"^ctr: ",
        r"starting container process caused",
        r"unable to start container process",
        r"cgroups? in hybrid",
        r"failed to create (?:shim|containerd|runc)",
        r"failed to start (?:shim|container)",
        r"nsenter: ",
        r"(?:cannot|failed to) (?:set|create|join|apply) .{0,40}(?:cgroup|namespace)",
        r"cgroup(?:fs|v2)?: (?:cannot|failed|no such)",
        r"conmon\b.*(?:failed|error)",
        # buildah's helper, before it starts the command: its exit code stands in other words.
        r"^error running (?:container|subprocess): ",
        r"creating new (?:mount|user|PID|network) namespace for \[",
        r"^Error: ?netavark",
        r"error (?:setting|configuring) (?:up )?(?:CNI|network (?:namespace|interface))",
        r"failed to (?:create|setup|set up) (?:network|endpoint|veth|bridge)",
        r"could not find an available.{0,30}IPv4 address pool",
        words=(
            "oci runtime|runc|container|crun|ctr: |cgroup|shim|nsenter|namespace|conmon|netavark"
            "|cni|network|endpoint|veth|bridge|address pool|running subprocess"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The container engine could not start the build's process.",
        example="OCI runtime create failed: runc create failed: unable to start container process",
        not_when=[
            ("failed", ("failed to create network: stub\nnot ok 2 - makes a network")),
        ],
    ),
    rule(
        "docker-daemon",
        Cause.IMAGE,
        r"Error response from daemon",
        r"Cannot connect to the Docker daemon",
        r"error during connect: ",
        r"Is the docker daemon running",
        r"docker\.sock\b.*(?:refused|denied|no such)",
        r"^Got permission denied while trying to connect to the Docker",
        r"failed to receive status: rpc error",
        (
            r"rpc error: code = (?:Unavailable|NotFound|Unknown|Internal|DeadlineExceeded"
            r"|Canceled|ResourceExhausted)(?!.{0,400}(?:did not complete|executor failed))"
        ),
        r"no such job \w",
        r"failed to (?:register|extract|pull|export|commit|unpack) (?:layer|image|blob)",
        r"error (?:pulling|creating) (?:image|overlay|aufs|build cache|zfs|btrfs)",
        (
            r"failed to (?:solve|resolve source metadata|authorize|fetch (?:anonymous|oauth)"
            r" token)(?!.{0,400}(?:did not complete|executor failed))"
        ),
        r"httpReadSeeker",
        r"toomanyrequests",
        r"pull rate limit",
        r"manifest (?:unknown|for \S+ not found|invalid)",
        r"pull access denied",
        r"repository does not exist or may require",
        r"unauthorized: authentication required",
        r"layer does not exist",
        r"image .{0,120}(?:not found|does not exist)",
        (
            r"failed to (?:prepare|mount|walk|copy|commit|push) (?:sha256|snapshot|layer|image"
            r"|overlay|/)"
        ),
        r"failed to (?:get (?:layer|stream)|create LLB)",
        r"open /\S+/(?:overlay2|docker|containers?|buildkit)/\S+: no such file",
        r"(?:error|Error)(?: response)?:? (?:from registry|pulling|pushing)",
        r"denied: requested access to the resource",
        # The title that BuildKit gives a failed step of its own.
        r"^\[internal\] .{1,200}:$",
        r"No such (?:image|container):",
        (
            r"Error: (?:initializing source|writing blob|copying system image|reading blob"
            r"|creating build container|committing|mounting|unable to pull|short-name)"
        ),
        (
            r"failed to (?:load cache key|compute cache key|prepare (?:extraction )?snapshot"
            r"|mount (?:overlay|/))"
        ),
        r"unknown blob",
        r"^HTTP code: [45]\d\d$",
        r"ImagePull",
        r"unable to (?:pull|prepare context)",
        r"invalid reference format",
        r"[Ee]rror parsing reference: ",
        r"buildx component is missing",
        r"max depth exceeded",
        r" is a manifest list$",
        r"^docker: '.{1,40}' is not a docker command",
        words=(
            "daemon|docker|rpc error|no such job|error during connect|failed to|error pulling"
            "|error creating|httpreadseeker|toomanyrequests|rate limit|manifest|access denied"
            "|repository does|denied: |[internal]|overlay2|buildkit|containers|unauthorized"
            "|layer does|image|container:|error: |unknown blob|http code"
            "|unable to|invalid reference|parsing reference|buildx|docker command|max depth"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        overtaken_by=(PACKAGE_REPORT,),
        why=(
            "The container engine or its registry failed: pulling, storing or building an "
            "image is no work of the package."
        ),
        example="Error response from daemon: mkdir /var/lib/docker/tmp/x: no such device",
        not_when=[
            ("failed", ("Error response from daemon: stub\n[FAIL]  docker  1  talks to dockerd.")),
            ("unknown", 'failed to solve: process "/bin/sh -c make" did not complete successfully'),
            (
                "unknown",
                (
                    "failed to solve: rpc error: code = Unknown desc = executor failed running"
                    " [/bin/sh -c make]: exit code: 2"
                ),
            ),
        ],
    ),
    rule(
        "exec-format",
        Cause.IMAGE,
        r"[Ee]xec format error",
        r"Bad CPU type in executable",
        r"qemu-\w+(?:-static)?: Could not open '",
        r"qemu: (?:uncaught target signal|unhandled)",
        # The emulator's own assertions and crashes; they name its sources.
        r"\bQEMU internal SIG",
        r"[Aa]ssert.{0,300}(?:translate-all\.c|accel/tcg/|linux-user/)",
        r"(?:translate-all\.c|accel/tcg/|linux-user/).{0,300}[Aa]ssert",
        (
            r"^(?:/\S*/)?(?:opam|curl|wget|git|tar|bwrap|apt[^\s:]{0,40}|dpkg|apk|dnf|sudo|gcc|as|ld|sh|bash)"
            r": (?:error while loading shared|.{0,200}GLIBC_[\d.]+. not found)"
        ),
        r"cannot execute binary file",
        r"^FATAL: kernel too old",
        words=(
            "exec format|bad cpu|qemu|cannot execute binary|glibc_|loading shared|kernel too"
            "|library not loaded|translate-all|accel/tcg/|linux-user/"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="A program of the image does not run on this machine at all.",
        example='standard_init_linux.go:211: exec user process caused "exec format error"',
        not_when=[
            ("failed", ("cannot execute binary file\n[FAIL]  exec  1  refuses scripts.")),
        ],
    ),
    rule(
        "snapshot-store",
        Cause.STORAGE,
        (
            r"^(?:umount|mount|losetup|zfs|zpool|btrfs|mkfs\S*|lvcreate|dmsetup|diskutil"
            r"|hdiutil)\b.{0,200}(?:busy|failed|cannot|error|not (?:mounted|found|exist)|in use"
            r"|denied|refused|invalid)"
        ),
        (
            r"^cannot (?:open|mount|unmount|create|destroy|promote|rename|clone|receive|import)"
            r" (?:snapshot )?'?\S+'?: "
        ),
        r"creating zfs mount",
        # obuilder quotes each word of the host's command that failed.
        (
            r"^(?>.*?\\?\"(?:/[^\s\"]*/)?(?:zfs|zpool|btrfs|rsync|ctr|chown|rm|cp|mv|umount|mount|docker|runc"
            r"|tar|qemu-img|qemu-system[^\s\"]{0,40}|ssh|jail|pkill|useradd|userdel|diskutil"
            r"|xfs[^\s\"]{0,40}|sync)\\?\" ).*\bfailed with exit (?:status|code) \d"
        ),
        r"^Uncaught exception: \(?Failure\b.{0,1000}failed with (?:exit|signal)",
        r"^Archive fetcher encountered a system error",
        r"[Ff]ailed to (?:create|delete) HCN namespace",
        r"dataset (?:is busy|already exists|does not exist)",
        (
            r"^ERROR: (?:[Cc]annot|[Cc]ould not|not a) (?:snapshot|subvolume|btrfs|statfs"
            r"|create subvolume|delete)"
        ),
        r"Failed to (?:prepare|commit|create|delete) snapshot",
        r"Failed to get chain ID",
        r"[Dd]evice or resource busy",
        r"Could not find mapping for",
        r"[Tt]arget is busy",
        r"[Rr]esource busy -- try",
        r"Build result \S+ not found",
        r"No layerinfo found",
        r"^rsync error: ",
        r"^rsync: .*(?:failed|error)",
        r"pool I/O is currently suspended",
        r"Sqlite3: .*(?:BUSY|locked|malformed|full)",
        r"database (?:is locked|disk image is malformed)",
        words=(
            "failed with|archive fetcher|hcn namespace|umount|mount|losetup|zfs|zpool|btrfs"
            "|mkfs|lvcreate|dmsetup|hdiutil|cannot "
            "|dataset|subvolume|snapshot|chain id|busy|mapping for|build result|layerinfo"
            "|rsync|statfs|suspended|sqlite|database"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        overtaken_by=(PACKAGE_REPORT,),
        why="The file system under the builds (ZFS, Btrfs, loop devices, snapshots) refused.",
        example="umount: /var/cache/obuilder/result: target is busy.",
        not_when=[
            ("failed", ("mount: x: failed as expected\nnot ok 5 - mounts an image")),
            (
                "failed",
                (
                    "[WARNING] Rsync partially failed:\n"
                    "          rsync error: some files/attrs were not transferred (code 23)\n"
                    "#=== ERROR while installing a.1 ===#\n"
                    "# command              ocaml setup.ml -configure\n"
                    "# exit-code            2\n"
                    "### stderr ###\n"
                    "# Cannot find file ./setup.ml."
                ),
            ),
        ],
    ),
    rule(
        "storage-broken",
        Cause.STORAGE,
        r"[Ss]tale (?:NFS )?file handle",
        r"Unix\.Unix_error\(Unix\.(?:EIO|ESTALE)",
        r": Input/output error",
        r"Structure needs cleaning",
        r"Transport endpoint is not connected",
        r"(?:EXT4-fs|BTRFS|XFS|ZFS)\S{0,60} ?(?:error|critical|warning)",
        r"Buffer I/O error",
        r"\bI/O error, dev ",
        r"Remote I/O error",
        r"[Tt]oo many open files in system",
        r"/(?:var/(?:lib|cache)|run|obuilder|mnt)/\S{0,300}+ ?:? .{0,30}Read-only file system",
        words=(
            "file handle|unix.e|input/output|structure needs|transport endpoint|ext4|btrfs|xfs|zfs"
            "|i/o error|too many open|read-only"
        ),
        yields_to=PROOF_IDS,
        why="The machine's disks or network file systems are broken.",
        example="cp: error reading 'x': Input/output error",
        not_when=[
            ("failed", ("x: Input/output error\nnot ok 6 - reports a bad disk")),
        ],
    ),
    rule(
        "virtual-machine",
        Cause.IMAGE,
        r"qemu-system\S{0,40}: ",
        r"Could not access KVM",
        r"VBoxManage: error",
        r"The virtual machine or container exited unexpectedly",
        r"[Tt]imeout running healthcheck",
        # The CI's own programs are missing from its image.
        (
            r"(?:/bin/opam(?:-[\d.]+|-dev)?|\bopam-(?:[\d.]+|dev)|\bbwrap)'?:"
            r" (?:(?:command )?not found|No such file or directory)$"
        ),
        # A program that was downloaded, and is a server's page about an error.
        r": (?:line )?\d+: [`']<(?:\?xml|!DOCTYPE|!doctype|html)\b",
        r"exec: \"?(?:opam|bash|sh|sudo)\"?: (?:executable file )?not found",
        r"xcrun: error: ",
        r"xcode-select: error: ",
        r"died waiting for dll loading",
        r"\*\*\* fatal error - (?:unable to remap|cygheap|couldn't|add_item)",
        r"unable to remap \S+ to same address",
        r"healthcheck failed",
        r"provisioning resources",
        r"Failed to (?:pull|import|create) (?:image|base image|VM|virtual machine)",
        r"getting base image",
        r"sudo: (?:a (?:password|terminal) is required|no tty)",
        r"sudo: /etc/sudo",
        r"Failed to download action",
        r"Unable to resolve action",
        r"runner provisioning",
        # OpenStack's and nodepool's.
        r"Launch (?:attempt \d+/\d+ )?failed for node ",
        r"No valid host was found",
        r"Quota exceeded (?:for|,) ",
        r"No hosted parallelism",
        r"requested labels? .{0,400} not found",
        r"The process cannot access the file because it is being used",
        words=(
            "not found|no such file|xcrun|xcode-select|dll loading|fatal error - |to remap"
            "|qemu|kvm|vboxmanage|virtual machine|healthcheck|provisioning|failed to"
            "|base image|sudo|unable to resolve action|hosted|labels|being used"
            "|for node|valid host|quota exceeded|: `<|: '<"
        ),
        phases=OUTSIDE_PACKAGE_CODE,
        yields_to=PROOF_IDS,
        why="The machine or image in which the build should run could not be made ready.",
        example="Failed to pull image ocaml/opam:debian-12: timeout",
        not_when=[
            ("failed", ("qemu-system-x86_64: stub\nnot ok 1 - boots")),
        ],
    ),
)
"""Sandboxes, containers, images, snapshots."""
