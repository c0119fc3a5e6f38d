"""What a build may try against the machine and its neighbours: system calls, and commands.

None of them may succeed, but for the controls, without which a broken table would pass. One that
succeeds does no harm: it sets what is set already, or looks whether it could.
"""

import shlex
from collections.abc import Collection

SYSTEM_CALLS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void show(const char *name, long result) {
  int why = errno;
  if (result < 0 && result > -4096 && result != -1) { why = -result; result = -1; }
  printf("%s %s\n", name, result == -1 ? strerrorname_np(why) : "done");
}
#define TRY(name, ...) do { errno = 0; show(name, syscall(__VA_ARGS__)); } while (0)
#define SOCKET(name, family, type, protocol) TRY(name, SYS_socket, family, type, protocol)

#ifdef __x86_64__
/* The other two entries of the kernel; arguments have 32 bits. */
static long i386(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c)
                   : "memory", "r8", "r9", "r10", "r11");
  return result;
}
static unsigned vsock[3] = {40, 1, 0};
#endif

static char page[4096];
static long number = 1;

int main(void) {
  setvbuf(stdout, NULL, _IONBF, 0);
  struct iovec ours = {page, 8}, theirs = {&number, 8};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  struct { unsigned type, size; unsigned long config[16]; } counter = {1, 128, {0}};
  unsigned map[18] = {2, 4, 4, 1};

  /* Controls. */
  TRY("control-getpid", SYS_getpid);
  SOCKET("control-inet", AF_INET, SOCK_STREAM, 0);
  SOCKET("control-unix", AF_UNIX, SOCK_STREAM, 0);
  SOCKET("control-route", AF_NETLINK, SOCK_RAW, 0);
  TRY("control-ptrace", SYS_ptrace, 0, 0, 0, 0);

  /* Keys of the kernel, which belong to a user and not to a job. */
  TRY("add_key", SYS_add_key, "user", "x", "y", 1, -2);
  TRY("request_key", SYS_request_key, "user", "x", 0, -2);
  TRY("keyctl-session", SYS_keyctl, 1, 0);
  TRY("keyctl-get", SYS_keyctl, 0, -4, 1);
  TRY("keyctl-persistent", SYS_keyctl, 22, -1, -2);

  /* Large surfaces of the kernel. */
  TRY("io_uring_setup", SYS_io_uring_setup, 1, page);
  TRY("io_uring_enter", SYS_io_uring_enter, 0, 0, 0, 0, 0, 0);
  TRY("io_uring_register", SYS_io_uring_register, 0, 0, 0, 0);
  TRY("userfaultfd", SYS_userfaultfd, 0);
  TRY("userfaultfd-user-mode", SYS_userfaultfd, 1);
  TRY("bpf-map", SYS_bpf, 0, map, sizeof map);
  TRY("bpf-program", SYS_bpf, 5, map, sizeof map);
  TRY("perf_event_open", SYS_perf_event_open, &counter, 0, -1, -1, 0);
  TRY("perf_event_open-all", SYS_perf_event_open, &counter, -1, 0, -1, 0);
  TRY("fanotify_init", SYS_fanotify_init, 0x200, 0);
  TRY("lookup_dcookie", 212, 0, page, 0);

  /* The kernel's code, disks, clock and log. */
  TRY("init_module", SYS_init_module, page, 4096, "");
  TRY("finit_module", SYS_finit_module, 0, "", 0);
  TRY("delete_module", SYS_delete_module, "x", 0);
  TRY("kexec_load", SYS_kexec_load, 0, 0, 0, 0);
  TRY("swapon", SYS_swapon, "/tmp/x", 0);
  TRY("swapoff", SYS_swapoff, "/tmp/x");
  TRY("quotactl", SYS_quotactl, 0x80000500, "/dev/vda", 0, page);
  TRY("quotactl_fd", SYS_quotactl_fd, 0, 0, 0, page);
  TRY("acct", SYS_acct, "/tmp/x");
  TRY("settimeofday", SYS_settimeofday, &now, 0);
  TRY("clock_settime", SYS_clock_settime, CLOCK_REALTIME, &now);
  TRY("syslog-read", SYS_syslog, 3, page, 4096);
  TRY("vhangup", SYS_vhangup);
  TRY("open_by_handle_at", SYS_open_by_handle_at, 0, page, 0);

  /* What capabilities decide. */
  TRY("mount-bind", SYS_mount, "/", "/mnt", 0, MS_BIND, 0);
  TRY("mount-tmpfs", SYS_mount, "x", "/mnt", "tmpfs", 0, 0);
  TRY("mount-remount", SYS_mount, 0, "/proc/sys", 0, MS_REMOUNT | MS_BIND, 0);
  TRY("fsopen", SYS_fsopen, "ext4", 0);
  TRY("open_tree", SYS_open_tree, -100, "/", 1);
  TRY("umount2", SYS_umount2, "/proc", MNT_DETACH);
  TRY("pivot_root", SYS_pivot_root, "/", "/");
  TRY("chroot", SYS_chroot, "/");
  TRY("unshare-mounts", SYS_unshare, CLONE_NEWNS);
  TRY("unshare-network", SYS_unshare, CLONE_NEWNET);
  TRY("sethostname", SYS_sethostname, "x", 1);
  TRY("setdomainname", SYS_setdomainname, "x", 1);
  TRY("mknod-block", SYS_mknodat, -100, "/tmp/vda", S_IFBLK | 0600, 0xfe00);
  TRY("mknod-memory", SYS_mknodat, -100, "/tmp/mem", S_IFCHR | 0600, 0x101);
  TRY("setuid", SYS_setuid, 0);
  TRY("setgid", SYS_setgid, 0);
  TRY("setgroups", SYS_setgroups, 1, &number);
  TRY("setpriority", SYS_setpriority, 0, 0, -10);
  TRY("chown", SYS_fchownat, -100, "/etc/passwd", 1000, 1000, 0);

  /* The first process of the sandbox, which is root's. */
  TRY("kill", SYS_kill, 1, SIGSTOP);
  TRY("ptrace-attach", SYS_ptrace, 16, 1, 0, 0);
  TRY("ptrace-seize", SYS_ptrace, 0x4206, 1, 0, 0);
  TRY("process_vm_readv", SYS_process_vm_readv, 1, &ours, 1, &theirs, 1, 0);
  TRY("process_vm_writev", SYS_process_vm_writev, 1, &ours, 1, &theirs, 1, 0);
  long first = syscall(SYS_pidfd_open, 1, 0);
  TRY("pidfd_getfd", SYS_pidfd_getfd, first, 0, 0);
  TRY("pidfd_send_signal", SYS_pidfd_send_signal, first, SIGSTOP, 0, 0);
  TRY("setns", SYS_setns, first, CLONE_NEWNS);
  TRY("kcmp", SYS_kcmp, 1, getpid(), 0, 0, 0);

  /* Sockets. */
  SOCKET("socket-vsock", AF_VSOCK, SOCK_STREAM, 0);
  SOCKET("socket-packet", AF_PACKET, SOCK_RAW, 0);
  SOCKET("socket-algorithms", AF_ALG, SOCK_SEQPACKET, 0);
  SOCKET("socket-can", AF_CAN, SOCK_RAW, 1);
  SOCKET("socket-bluetooth", AF_BLUETOOTH, SOCK_RAW, 1);
  SOCKET("socket-raw", AF_INET, SOCK_RAW, 1);
  SOCKET("netlink-netfilter", AF_NETLINK, SOCK_RAW, 12);
  SOCKET("netlink-audit", AF_NETLINK, SOCK_RAW, 9);
  SOCKET("netlink-devices", AF_NETLINK, SOCK_RAW, 15);
  SOCKET("netlink-generic", AF_NETLINK, SOCK_RAW, 16);
  TRY("high-bits", SYS_socket, AF_VSOCK | (1L << 32), SOCK_STREAM, 0);
  TRY("typing", SYS_ioctl, 0, 0x5412, "x");
  TRY("typing-high-bits", SYS_ioctl, 0, 0x5412 | (1L << 32), "x");
#ifdef __x86_64__
  TRY("iopl", SYS_iopl, 3);
  TRY("ioperm", SYS_ioperm, 0x70, 2, 1);
  show("i386-socket-vsock", i386(359, 40, 1, 0));
  show("i386-socketcall-vsock", i386(102, 1, (long)vsock, 0));
  show("i386-keyctl", i386(288, 0, -4, 1));
  show("i386-add_key", i386(286, 0, 0, 0));
  show("i386-io_uring_setup", i386(425, 1, (long)page, 0));
  show("i386-userfaultfd", i386(374, 1, 0, 0));
  TRY("x32-keyctl", 0x40000000 + SYS_keyctl, 0, -4, 1);
#endif

  /* As root of a user namespace of its own, where capabilities permit much. */
  if (syscall(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)) return 1;
  SOCKET("root-packet", AF_PACKET, SOCK_RAW, 0);
  SOCKET("root-netfilter", AF_NETLINK, SOCK_RAW, 12);
  SOCKET("root-generic", AF_NETLINK, SOCK_RAW, 16);
  SOCKET("root-vsock", AF_VSOCK, SOCK_STREAM, 0);
  TRY("root-bpf", SYS_bpf, 0, map, sizeof map);
  TRY("root-perf", SYS_perf_event_open, &counter, -1, 0, -1, 0);
  TRY("root-keyctl", SYS_keyctl, 0, -4, 1);
  TRY("root-mknod", SYS_mknodat, -100, "/tmp/mem", S_IFCHR | 0600, 0x101);
  TRY("root-settimeofday", SYS_settimeofday, &now, 0);
  TRY("root-quotactl", SYS_quotactl, 0x80000500, "/dev/vda", 0, page);
  TRY("root-init_module", SYS_init_module, page, 4096, "");
  return 0;
}
"""
"""Prints a line for each: its name, and `done` or the name of the error."""

REFUSALS = frozenset({"EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESRCH"})
"""Errors of what is refused whatever the arguments; others may be of the arguments."""

_AS_ROOT = "unshare --user --map-root-user --mount --net --cgroup --"

_MOUNT = "/tmp/m"  # noqa: S108 - of a build root

MOUNT = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

int main(int count, char **words) {
  if (count == 2) return umount2(words[1], MNT_DETACH) != 0;
  unsigned long flags = !strcmp(words[1], "bind") ? MS_BIND | MS_REC
                      : !strcmp(words[1], "remount") ? MS_REMOUNT | MS_BIND : 0;
  return mount(words[2], words[3], words[1], flags, words[4]) != 0;
}
"""
"""Mounts `TYPE SOURCE TARGET [OPTIONS]`, or unmounts: images have no such program."""

COMMANDS = {
    "control-write": "touch /tmp/mine",
    "control-namespace": f"{_AS_ROOT} {_MOUNT} tmpfs x /mnt",
    "control-cgroup": f"{_AS_ROOT} {_MOUNT} cgroup2 x /mnt",
    # Mounts.
    "mount-proc": f"{_MOUNT} proc x /mnt",
    "mount-bind": f"{_MOUNT} bind / /mnt",
    "mount-tmpfs": f"{_MOUNT} tmpfs x /mnt",
    "mount-cgroup": f"{_MOUNT} cgroup2 x /mnt",
    "mount-disk": f"{_MOUNT} ext4 /dev/vda /mnt",
    "remount-sys": f"{_MOUNT} remount x /proc/sys",
    "umount-proc": f"{_MOUNT} /proc",
    "root-mount-disk": f"{_AS_ROOT} {_MOUNT} ext4 /dev/vda /mnt",
    "root-debugfs": f"{_AS_ROOT} {_MOUNT} debugfs x /mnt",
    "root-securityfs": f"{_AS_ROOT} {_MOUNT} securityfs x /mnt",
    "root-devices": f"{_AS_ROOT} {_MOUNT} devtmpfs x /mnt",
    "root-sysfs": (f"{_AS_ROOT} sh -c '{_MOUNT} sysfs x /mnt && test -w /mnt/power/state'"),
    "root-sysrq": f"{_AS_ROOT} sh -c 'test -w /proc/sysrq-trigger'",
    "root-core-pattern": f"{_AS_ROOT} sh -c 'test -w /proc/sys/kernel/core_pattern'",
    "root-settings": f"{_AS_ROOT} sh -c 'test -w /proc/sys/kernel/hostname'",
    "root-new-proc": (
        "unshare --user --map-root-user --mount --pid --fork -- sh -c "
        f"'{_MOUNT} proc x /mnt && test -w /mnt/sys/kernel/core_pattern'"
    ),
    "root-umount-sys": f"{_AS_ROOT} sh -c '{_MOUNT} /proc/sys && test -w /proc/sys/vm/swappiness'",
    "root-umount-proc": f"{_AS_ROOT} {_MOUNT} /proc",
    "root-release-agent": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup x /mnt memory && test -w /mnt/release_agent'"
    ),
    "root-memory-limit": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup x /mnt memory && test -w /mnt/memory.limit_in_bytes'"
    ),
    "root-processes-limit": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup x /mnt pids && test -w /mnt/pids.max'"
    ),
    "root-leave-group": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup x /mnt pids && mkdir /mnt/x && rmdir /mnt/x'"
    ),
    "root-unified-limit": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup2 x /mnt && test -w /mnt/memory.max'"
    ),
    "root-unified-leave": (
        f"{_AS_ROOT} sh -c '{_MOUNT} cgroup2 x /mnt && mkdir /mnt/x && rmdir /mnt/x'"
    ),
    "root-device": f"{_AS_ROOT} sh -c 'mknod /tmp/vda b 254 0 && head -c 1 /tmp/vda'",
    # Bounds of the job.
    "raise-namespaces": "test -w /proc/sys/user/max_user_namespaces",
    "raise-inotify": "test -w /proc/sys/user/max_inotify_instances",
    "oom-score": "echo -1000 > /proc/self/oom_score_adj",
    "nice": "test $(nice -n -5 nice) -lt 0",
    "real-time": "chrt --fifo 10 true",
    "idle-class": "ionice --class 1 true",
    # Processes of others.
    "environment-1": "cat /proc/1/environ",
    "root-1": "ls /proc/1/root/",
    "directory-1": "ls /proc/1/cwd/",
    "memory-1": "head -c 1 /proc/1/mem",
    "descriptors-1": "ls /proc/1/fd/",
    "maps-1": "cat /proc/1/maps | grep .",
    "namespaces-1": "readlink /proc/1/ns/mnt",
    "enter-mounts": "nsenter --target 1 --mount true",
    "enter-network": "nsenter --target 1 --net true",
    "enter-processes": "nsenter --target 1 --pid true",
    "enter-users": "nsenter --target 1 --user true",
    "signal-1": "kill -STOP 1",
    "terminate-1": "kill -KILL 1",
    "more-processes": "ls -d /proc/[0-9]* | wc -l | grep -v '^.$'",
    "host-process": "cat /proc/[0-9]*/comm | grep -x python3",
    # Users.
    "become-root": "setpriv --reuid=0 true",
    "su": "su -c true",
    "setuid-copy": "cp /bin/sh /tmp/sh && chown 0 /tmp/sh && chmod 4755 /tmp/sh",
    "shadow": "cat /etc/shadow",
    "chroot": "chroot / true",
    "chown": "chown opam /etc/passwd",
    "write-etc": "touch /etc/written",
    "write-usr": "touch /usr/bin/written",
    "write-root": "ls /root",
    "write-policy": "touch /usr/sbin/policy-rc.d",
    # Devices and the kernel.
    "memory": "head -c 1 /dev/mem",
    "kernel-log": "head -c 1 /dev/kmsg",
    "dmesg": "dmesg | grep .",
    "disk": "head -c 1 /dev/vda",
    "kvm": "test -w /dev/kvm",
    "tunnel": "test -w /dev/net/tun",
    "fuse": "test -w /dev/fuse",
    "loop": "test -w /dev/loop-control",
    "kernel-memory": "head -c 1 /proc/kcore",
    "sysrq": "test -w /proc/sysrq-trigger",
    "core-pattern": "test -w /proc/sys/kernel/core_pattern",
    "sys": "find /sys -type f -writable | grep .",
    "cgroups": "find /sys/fs/cgroup -writable | grep .",
    "clock": "date --set=@$(date +%s)",
    # The network.
    "interfaces": "tail -n +3 /proc/net/dev | grep -v '^ *lo:'",
    "routes": "tail -n +2 /proc/net/route | grep .",
    "loopback": "bash -c ': < /dev/tcp/127.0.0.1/$LISTENER'",
    "names": "getent hosts opam.ocaml.org",
    "abstract-sockets": "grep @ /proc/net/unix",
    # What the worker gave along.
    "descriptors": "ls /proc/self/fd | sort -n | tail -n +5 | grep .",
    "terminal": "tty",
    "secrets": "env | grep secret-of-the-worker",
    "options": "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -e '^[-]-bind' -e '^[-]-setenv'",
    "ipc": "ipcs --all | grep 0x",
}
"""Commands that exit with 0 if they succeed."""


def script(*, leave_out: Collection[str] = ()) -> str:
    """Returns a script that prints the names of the commands that succeed, or are not there."""
    programs = sorted({command.split()[0] for command in COMMANDS.values()})
    lacks = [f"command -v {name} > /dev/null || echo lacks {name}" for name in programs]
    lines = [
        f"timeout 10 sh -c {shlex.quote(command)} > /dev/null 2>&1 < /dev/null && echo {name}"
        for name, command in COMMANDS.items()
        if name not in leave_out
    ]
    return "\n".join([*lacks, *lines, "echo end"])
