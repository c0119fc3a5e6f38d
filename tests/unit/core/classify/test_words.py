"""Messages of many tools, each with its verdict: written from the tools' own sources."""

# ruff: noqa: E501 - messages stand here as the tools print them

import pytest

from opam_ci.core.classify import classify_text

ERRORED = r"""
./run.sh: line 8:    51 Killed                  make all
Jan 01 10:00:00 h systemd[1]: docker.service: Main process exited, code=killed, status=9/KILL
ERROR: unsatisfiable constraints:\n  musl-1.2.0-r1:\n    breaks: musl-dev-1.2.1-r0[musl=1.2.1-r0]
ERROR: unsatisfiable constraints:\n  .deps-0:\n    masked in: cache\n    satisfies: world[.deps]
# exit-code   1\n# output-file x\n### output ###\n# Creating new namespace failed: Invalid argument
[ERROR] curl: code 404 while downloading\n        https://opam.ocaml.org/1.2.2/archives/a.1+opam.tar.gz\n[ERROR] The sources of the following couldn't be obtained, aborting:\n          - a.1
[ERROR] No option named 'x' found. Use 'opam option [--global]' to list them
[ERROR] Version control url not supported for "git+file:///ci/config"
2024-01-01 10:00.00  worker [WARNING] Build failed: Unix.Unix_error(Unix.EMFILE, "pipe", "")
2024-01-01 10:00.00  capnp-rpc [WARNING] Uncaught exception: Unix.Unix_error(Unix.EPIPE, "write", "")
Uncaught exception: (Failure "Build ended without setting a log!")
2021-06-15 22:14.54: Job failed: Failed: Internal error
Job failed: Failed: Internal error
git-fetch failed with exit-code 128
fatal: remote error:\n  The unauthenticated git protocol on port 9418 is no longer supported.\nFetched in submodule path 'x', but it did not contain 1fa8a3f7fb20.
remote: Invalid username or password.\nfatal: Authentication failed for 'https://github.example/x/y/'
From 10.0.0.2 icmp_seq=1 Destination Host Unreachable
PING: transmit failed. General failure.
4 packets transmitted, 0 received, 100% packet loss, time 3072ms
base_images: internal error, uncaught exception:\n             Unix.Unix_error(Unix.EINVAL, "select", "")
ocluster-worker: internal error, uncaught exception:
[ERROR] At /ci/opamrc:1:5-1:7::\n        Parse error\n[ERROR] Strict mode: aborting\n[ERROR] Error in configuration file, fix it, use '--no-opamrc', or check your '--config FILE' arguments:
opam: --update-invariant was added in version 2.1 of the opam CLI, but version 2.0 has been requested, which is older.
[ERROR] Your version of OPAM (1.1.1) is not recent enough to read x
[ERROR] Package variables are read-only and cannot be updated using `opam var --global`
Format upgrade done.\nUpdate done, please now retry your command.
ERROR nodepool.NodeLauncher-1: Launch attempt 3/3 failed for node 0001616109:
error: RPC failed; curl 92 HTTP/2 stream 7 was not closed cleanly: CANCEL (err 8)
error: 10845 bytes of body are still expected
error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502
fatal: unable to access 'https://github.com/x/y/': Could not resolve host: github.com
fatal: unable to access 'https://github.com/x/y/': The requested URL returned error: 503
fatal: unable to access 'https://github.com/x/y/': gnutls_handshake() failed: Error in the pull function.
fatal: Unable to create '/ci/repo/.git/index.lock': File exists.
fatal: detected dubious ownership in repository at '/ci/repo'
fatal: write error: No space left on device
error: unable to write file packages/a/a.1/opam
fatal: sha1 file '<stdout>' write error: No space left on device
ssh: connect to host github.com port 22: Connection timed out
kex_exchange_identification: Connection closed by remote host
Host key verification failed.
remote: Internal Server Error
curl: error while loading shared libraries: libssl.so.1.1: cannot open shared object file
Could not resolve 'deb.example'
curl: (6) Couldn't resolve host 'github.com'
HTTP/1.1 503 Service Unavailable
error: The requested URL returned error: 429
[ERROR] Initial repository fetch failed
curl: (28) Operation timed out after 300000 milliseconds with 0 bytes received
curl: (35) OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to github.com:443
curl: (56) Recv failure: Connection reset by peer
curl: (60) SSL certificate problem: certificate has expired
curl: (22) The requested URL returned error: 503
curl: (23) Failure writing output to destination
wget: unable to resolve host address 'github.com'
Connecting to github.com (github.com)|140.82.121.4|:443... failed: Connection refused.
2024-01-01 10:00:00 ERROR 503: Service Unavailable.
Read error at byte 4096/80006 (Connection reset by peer). Retrying.
E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12 (apt-get)
E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?
E: The repository 'http://deb.example bookworm Release' does not have a Release file.
E: Release file for http://deb.example/InRelease is not valid yet (invalid for another 3h 5min 7s).
W: GPG error: http://deb.example bookworm InRelease: The following signatures couldn't be verified
Err:4 http://deb.example bookworm InRelease
Could not connect to deb.example:80 (151.101.2.132), connection timed out
E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.
dpkg: error processing archive /var/cache/apt/archives/x.deb (--unpack):
E: Sub-process /usr/bin/dpkg returned an error code (1)
tar: ./control: Cannot write: No space left on device
dpkg-deb: error: failed to write (No space left on device)
ERROR: https://apk.example/v3.20/main: temporary error (try again later)
WARNING: opening https://apk.example/v3.20/community: network error (check Internet connection and firewall)
WARNING: Ignoring https://apk.example/v3.20/main: No such file or directory
ERROR: gcc-13.2.1: package mentioned in index not found (try 'apk update')
ERROR: libcrypto3-3.3.0-r2: BAD signature
ERROR: Unable to lock database: Permission denied
ERROR: musl-dev-1.2.5-r0: IO ERROR
ERROR: gcc-13: No space left on device
Error: Failed to download metadata for repo 'appstream': Cannot prepare internal mirrorlist: No URLs in mirrorlist
[MIRROR] x.rpm: Curl error (28): Timeout was reached for https://mirror.example/x.rpm
[FAILED] x.rpm: No more mirrors to try - All mirrors were already tried without success
Error: Error downloading packages:
Error: GPG check FAILED
Error Summary\n-------------\nDisk Requirements:\n   At least 412MB more space needed on the / filesystem.
error: rpmdb: BDB0113 Thread/process 7/139 failed: BDB1507 Thread died in Berkeley DB library
Cannot find a valid baseurl for repo: base/7/x86_64
One of the configured repositories failed (Unknown),
error: failed retrieving file 'core.db' from mirror.example : The requested URL returned error: 404
error: failed to synchronize all databases (unable to lock database)
error: ocaml: signature from "A B <a@b>" is unknown trust
error: Partition / too full: 51200 blocks needed, 1000 blocks free
error: failed to commit transaction (invalid or corrupted package)
Download (curl) error for 'http://download.example/x': Error code: Connection failed
Repository 'oss' is invalid.
Valid metadata not found at specified URL
System management is locked by the application with pid 812 (zypper).
Problem retrieving files from 'Main Update Repository'.
pkg: http://pkg.example/FreeBSD:14:amd64/latest/meta.txz: No address record
pkg: Unable to update repository FreeBSD
pkg: https://pkg.example/x.pkg: Operation timed out
/: write failed, filesystem is full
pkg: sqlite error while executing INSERT: database is locked
Error: Failed to download resource "openssl@3"
Error: Another active Homebrew update process is already in progress.
curl: (22) The requested URL returned error: 502 Bad Gateway
Error: Failure while executing; `/usr/bin/curl --disable -fL` exited with 56.
ERROR: BuildKit is enabled but the buildx component is missing or broken.
docker: 'buildx' is not a docker command.
**E: Sub-process /usr/bin/dpkg returned an error code (1)**
Error: Unable to satisfy dependencies. Reached two conflicting assignments:
Warning: Failed to fetch http://deb.example/InRelease  Temporary failure
+++ Timeout!! (2 hours) +++
ctr: plugin type="nat" name="nat" failed (add): required env variables [CNI_NETNS] missing
FATAL: max depth exceeded
docker.io/x/staging@sha256:5926da014501 is a manifest list
Fatal glibc error: CPU lacks ISA 3.00 support (POWER9 or later required)
E:Failed to fetch http://deb.example/Packages  404  Not Found
The command "brew install opam gnu-time" failed and exited with 1 during .
[ERROR] Individual package and option '--packages' can not be specified at the same time.
[ERROR] File does not exist: /home/opam/.opamrc
OpamSolution.Fetch_fail("SWH fallback: curl is required for Software Heritage fallback")
opam-depext: internal error, uncaught exception:
! [new tag]         v2.7.1     -> cibranch  (unable to update local ref)
Error: error building at STEP "RUN zypper install -y x": error while running runtime: exit status 106
The command '/bin/sh -c apt-get update && apt-get install -y libfoo-dev' returned a non-zero code: 100
Uncaught exception: (Invalid_argument "option is None")
docker: Error response from daemon: Get https://registry.example/v2/: net/http: TLS handshake timeout.
Error response from daemon: toomanyrequests: You have reached your pull rate limit.
ERROR: failed to solve: ocaml/opam:debian-12: failed to resolve source metadata for docker.example: not found
failed to register layer: Error processing tar file(exit status 1): write /usr/lib/x: no space left on device
error pulling image configuration: download failed after attempts=6: dial tcp: i/o timeout
Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?
Error: initializing source docker://ocaml/opam:x: reading manifest x: manifest unknown
Error: writing blob: storing blob to file "/var/tmp/storage1": write /var/tmp/storage1: no space left on device
standard_init_linux.go:228: exec user process caused: exec format error
OCI runtime exec failed: exec failed: unable to start container process: error
runc run failed: unable to start container process: error during container init: error mounting "proc"
crun: cannot set limits without cgroups: OCI runtime error
failed to create shim task: OCI runtime create failed
ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF
cannot create snapshot 'tank/obuilder/x@snap': dataset already exists
cannot open 'tank/result/x': dataset does not exist
cannot mount '/var/cache/obuilder/x': failed to create mountpoint: Device or resource busy
cannot create 'tank/x': out of space
ERROR: cannot snapshot '/var/cache/obuilder/result/x': No space left on device
ERROR: Could not statfs: No such file or directory
ERROR: not a btrfs filesystem: /var/cache/obuilder
umount: /var/cache/obuilder/x: target is busy.
Failed to get chain ID for image ocaml/opam:debian-12-ocaml-5.2: error
Failed to pull image ocaml/opam: exit status 1
Failed to prepare snapshot for base sha256:abc: rsync failed
BTRFS error (device sdb): bdev /dev/sdb errs: wr 1, rd 0, flush 0, corrupt 0, gen 0
EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: reading directory lblock 0
blk_update_request: I/O error, dev sda, sector 1234
rsync: [receiver] write failed on "/x": No space left on device (28)
rsync error: error in file IO (code 11) at receiver.c(393) [receiver=3.2.3]
bwrap: setting up uid map: Permission denied
bwrap: Can't mount proc on /newroot/proc: Operation not permitted
bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted
sandbox-exec: sandbox_apply: Operation not permitted
gcc: fatal error: Killed signal terminated program cc1
c++: internal compiler error: Killed (program cc1plus)
Command got signal KILL.
error: could not compile `foo` (lib)\nprocess didn't exit successfully: `rustc` (signal: 9, SIGKILL: kill)
kernel: Out of memory: Killed process 4221 (ocamlopt.opt) total-vm:8000000kB
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x
virtual memory exhausted: Cannot allocate memory
cc1: out of memory allocating 65536 bytes after a total of 1 bytes
fork: retry: Resource temporarily unavailable
/usr/bin/ld: final link failed: No space left on device
/tmp/ccQ.s: Assembler messages:\nFatal error: can't write 12 bytes to section .text of x.o: 'No space left on device'
gcc: error: unable to write x.o: No space left on device
cp: error writing '_build/x': No space left on device
tar: x: Cannot mkdir: No space left on device
gzip: stdout: No space left on device
make: write error: stdout: No space left on device
/bin/sh: 1: cannot create x: No space left on device
Error: open(_build/log): No space left on device
Error: _build/.db: No space left on device
Fatal error: exception Unix.Unix_error(Unix.ENOSPC, "write", "")
[ERROR] Sorry, no time: resolution of the request timed out.
[ERROR] Another process has locked /home/opam/.opam/lock and non blocking mode is on
[ERROR] Could not update repository "default": OpamDownload.Download_fail(_, "curl failed")
Fatal error: exception Unix.Unix_error(Unix.EIO, "read", "")
[ERROR] Sandboxing is not working on your platform ubuntu:
The hosted runner: GitHub Actions 3 lost communication with the server.
##[error]The runner has received a shutdown signal. This can happen when the runner service is stopped.
##[error]The operation was canceled.
##[error]The job running on runner GitHub Actions 3 has exceeded the maximum execution time of 360 minutes.
##[error]No space left on device : '/home/runner/runners/2.300/_diag/Worker.log'
An error occurred while provisioning resources (Error Type: Failure).
Error: Unable to resolve action `ocaml/setup-ocaml@v3`, unable to find version `v3`
FATAL: Unable to delete script file /tmp/jenkins1.sh\nhudson.remoting.ChannelClosedException: Channel "x"
Cannot contact agent-3: java.lang.InterruptedException
Build timed out (after 60 minutes). Marking the build as aborted.
Sending interrupt signal to process
ERROR: Job failed: execution took longer than 1h0m0s seconds
ERROR: Job failed (system failure): Error response from daemon: conflict
The job exceeded the maximum time limit for jobs, and has been terminated.
slurmstepd: error: *** JOB 1234 ON node7 CANCELLED AT 2024-01-01T00:00:00 DUE TO TIME LIMIT ***
2024-05-23 11:16.46: Cancelling: Timeout (1.00 hour)
Failed: Exceeded timeout of 60 minutes
Lost connection to worker "m1-worker-03"
Capnp.RPC: Disconnected: Worker.vat is gone
npm ERR! network request to https://registry.example/x failed, reason: getaddrinfo EAI_AGAIN registry.example
Illegal instruction (core dumped)
Command got signal ILL.
INFO: task ocluster-worker:602217 blocked for more than 120 seconds.
Stale file handle
dial tcp: lookup registry.example on 10.0.0.2:53: server misbehaving
ConnectionResetError: [Errno 104] Connection reset by peer
Exception: Conduit_lwt_server: Connection refused
GitHub API error: 403 rate limit exceeded
error running subprocess: making mounts private to mount namespace for [/bin/sh -c make]: invalid argument
error running container: did not get container start message from parent: EOF
[ERROR] Timeout trying to acquire read lock to "/home/opam/.opam/lock",\n        is another opam process running ?
An other process (4711) has already locked "/home/opam/.opam/system/lock". Retrying in 1s (5/5)
Another process (12) has already locked "/home/opam/.opam/opam.pid". Retrying in 1s (1/5)
Error: /opt/homebrew/opt/gmp is not a valid keg
Error: No such keg: /usr/local/Cellar/opam
Error: Could not symlink bin/idle3\nTarget /usr/local/bin/idle3\nalready exists. You may want to remove it:
Error: Cannot link openssl\nAnother version is already linked: /usr/local/Cellar/openssl/1.0.2
x86_64-binfmt-P: QEMU internal SIGSEGV {code=MAPERR, addr=0x20}\nSegmentation fault (core dumped)
qemu-aarch64: ../accel/tcg/cpu-exec.c:954: cpu_exec: Assertion `cpu == current_cpu' failed.
**\nERROR:../accel/tcg/cpu-exec.c:928:cpu_exec_longjmp_cleanup: assertion failed: (cpu == current_cpu)
Assertion failed: start <= last (/build/qemu/linux-user/mmap.c: target_mmap: 12)\nSegmentation fault
Get https://registry.example/v2/: EOF
Head "https://registry.example/v2/ocaml/opam/manifests/x": context deadline exceeded
Error: pushing image: Put "https://registry.example/v2/x/blobs/uploads/1": write tcp 10.0.0.2:1->10.0.0.3:443: use of closed network connection
Post "https://auth.example/token": x509: certificate signed by unknown authority
(9/34) Installing gcc (12.2.1-r14)\nERROR: gcc-12.2.1_git20220924-r14: Resource temporarily unavailable
ERROR: musl-dev-1.2.4-r2: v2 package format error
ERROR: perl-5.36.1-r2: trying to overwrite usr/bin/perl owned by perl-base-5.36.0-r1.
W: Some index files failed to download. They have been ignored, or old ones used instead.\nE: Unable to locate package libfoo-dev
warning: database file for 'extra' does not exist (use '-Sy' to download)\nerror: target not found: libfoo
Ignoring repositories: updates\nNo match for argument: foo-devel
Unable to update repository FreeBSD\nError updating repositories!\npkg: No packages available to install matching 'x' have been found
INFO: Ping failed. Terminating the channel worker-7.
Channel "unknown": Remote call on worker-7 failed. The channel is closing down or has closed down
ERROR: Issue with creating launcher for agent worker-7. The agent has not been fully initialized yet
CI agent stopped responding!
2024-01-01 14:44.10: Job failed: Failure("no such pool") -- Raised at Stdlib.failwith in file "stdlib.ml", line 29, characters 17-33
Error downloading object: a.bin (1055e24): Smudge error: Error downloading a.bin (1055e24): batch response: Bad credentials
error: external filter 'git-lfs filter-process' failed\nfatal: a.bin: smudge filter lfs failed
batch response: Rate limit exceeded
mbox note: Mirror Error:  Setup.ini signature https://mirror.example/x86_64/setup.xz.sig from https://mirror.example/ failed to verify.
Possible corrupt mirror?  Setup.ini rejected.
Invoke-WebRequest : The remote name could not be resolved: 'example.org'
Start-BitsTransfer : The connection with the server was terminated abnormally
Internal error:\n  Cannot remove /home/o/.opam/4.00.1/build/a.1/src (opam: "rmdir" failed on /home/o/.opam/4.00.1/build/a.1/src: Directory not empty).
/usr/local/bin/opam: line 1: syntax error near unexpected token `newline'\n/usr/local/bin/opam: line 1: `<!DOCTYPE html>'
      0 [main] make 42 child_info_fork::abort: address space needed by 'dllx.so' (0x400000) is already occupied
Error: fork: : Resource temporarily unavailable
ERROR: Job failed (system failure): prepare environment: exit status 1.
##[error]We stopped hearing from agent pool-7.
gpgkeys: key 0123ABCD not found on keyserver
==> disk: error: core: signature from "A B <a@example.org>" is unknown trust
abort: stream ended unexpectedly (got 12 bytes, expected 4096)
abort: error: Connection refused
Invoke: The remote server returned an error: (407) Proxy Authentication Required.
/usr/local/bin/opam: line 1: '<?xml version="1.0"?>'
""".strip().split("\n")

SKIPPED = r"""
No solution has been found:\n - Missing foo
E: Package libfoo-codecs has no installation candidate
Error: Package 'i965-va-driver-shaders' has no installation candidate
Error: Unable to locate package libfoo-dev
E: Unable to locate package libfoo-dev
E: Package 'libfoo-dev' has no installation candidate
Error: Unable to find a match: foo-devel
No match for argument: foo-devel
error: target not found: foo
pkg: No packages available to install matching 'foo' have been found in the repositories
No provider of 'foo-devel' found.
Error: No available formula with the name "foo".
[ERROR] Package foo.1 depends on the unavailable system package 'libfoo-dev'. You can use `--no-depexts'
[ERROR] foo: unmet availability conditions: 'os != "win32"'
No solution found, exiting
[ERROR] No solution for foo: * Incompatible packages:
[ERROR] Your request can't be satisfied:
[ERROR] Package conflict!
* Missing dependency:\n- foo -> bar\nunknown package
The following dependencies couldn't be met:\n- foo -> bar\nnot available because it requires OCaml >= 4.02
foo is not available for your compiler or your OS.
[SKIP] Package not available
- bar.1 is in conflict with foo.2
A package failed and has been disabled for CI using the 'x-ci-accept-failures' field.
Error: Unable to solve dependencies for the following lock directories:\nLock directory dune.lock:\nCouldn't solve the package dependency formula.\nThe following packages couldn't be found: dune
Error:\nUnable to solve dependencies while generating lock directory: dune.lock
Error: Unable to solve dependencies in build context: default
The dependency b>=pinned of package a.pinned is not available because the package has been pinned.
""".strip().split("\n")

FAILED = r"""
┌─ The following actions failed\n│ λ build conf-gmp        4\n└─
The following actions failed\n  λ build a 1
$ ./test/test.native test Simple 0\n[ERROR]             Simple           0   no_dtd.
<stdin>:1:10: fatal error: doesnt_exist.h: No such file or directory
[ERROR] At ~/.opam/repo/default/packages/a/a.0.0.2/opam:9:45:\n  Not a recognised version-control URL
  - [a.1]\n    https://example.org/a.tbz (Bad\n    checksum, expected\n    sha512=00)
test_net: unexpected failure: "Unix.Unix_error(Unix.ENETUNREACH, \"send\", \"\")"\nTest 'join' in suite 'net' produced 'false'
[ERROR] curl: code 404 while downloading https://example.org/archives/a-1.tar.gz
pkg.opam: Errors.\n             error 36: Missing field 'bug-reports'
             error 71: Field 'url.checksum' contains duplicated checksums
Solver failed:\n  Ocamlbuild knows of no rules that apply to a target named a.mli.
Backtrace:\n  - Failed to build the target a.cma
File "a.ml", line 1, characters 0-3:\nError: Unbound value x
File "dune", line 3, characters 12-20:\nError: Library "foo" not found.
Error: Library "lwt.unix" not found.
File "src/dune", line 1, characters 0-0:\nError: No rule found for src/x.ml
Error: This expression has type int but an expression was expected of type string
Error (alert deprecated): module Foo.Bar
Error (warning 32 [unused-value-declaration]): unused value x.
x.c:12:10: fatal error: gmp.h: No such file or directory
x_stubs.c:3:1: error: unknown type name 'value_'
/usr/bin/ld: cannot find -lfoo: No such file or directory
ld: library 'foo' not found
clang: error: linker command failed with exit code 1 (use -v to see invocation)
collect2: error: ld returned 1 exit status
undefined reference to `caml_page_table_lookup'
ocamlfind: Package `lwt.unix' not found
configure: error: C compiler cannot create executables
No package 'gtk+-2.0' found
Package libfoo was not found in the pkg-config search path.
make: *** No rule to make target 'x', needed by 'all'.  Stop.
make: foo: Command not found\nmake: *** [Makefile:3: all] Error 127
/bin/sh: 1: camlp4o: not found
bash: line 1: jbuilder: command not found
# [ERROR] Command not found: gsl-config
E: Cannot find findlib package oUnit (>= 2.0.0)
These patches didn't apply at ~/.opam/5.3/.opam-switch/build/foo.1:
foo.1: Bad hash for extra-file
[ERROR] Failed to get sources of foo.1: Bad checksum
[ERROR] The compilation of foo.1 failed at "make".
#=== ERROR while compiling foo.1.2 ====#
Test Successful in 0.1s. 3 tests run.\n[FAIL]  a  0  b.\n1 failure! in 0.001s. 5 tests run.
FAILED 3 / 20 tests
Command [216] exited with code 125:
=-=- conf-ncurses.1 troobleshooting -=-=-=-=-=-=-=-=-=-=-=-=
<><> conf-ncurses.1 troubleshooting <><><><><><><><><><><><>
Makefile:172: recipe for target 'test' failed
Fetched in submodule path 'x/y', but it did not contain 5de5a4409794. Direct fetching of that commit failed.
[ERROR] Undefined filter variable with-nope in dependencies of with-nope.dev
[ERROR] Invalid opam file in x source from file:///src:
Error: Annotation check for zero_alloc failed.
Error: The process '/opt/tools/opam' failed with exit code 31
Ran: 268 tests in: 158.86 seconds.\nFAILED: Cases: 268 Tried: 268 Errors: 0 Failures: 4 Skip:  3 Todo: 0 Timeouts: 0.
Fatal error: exception Assert_failure("test/test.ml", 12, 2)
opam-repo-ci detected dependencies failing:  bar.1
error[E0433]: failed to resolve: use of undeclared crate or module `foo`
error: could not compile `foo` (lib) due to 3 previous errors
fatal: Couldn't find remote ref v1.0
fatal: Remote branch v1.0 not found in upstream origin
fatal: repository 'https://github.com/gone/gone/' not found
[ERROR] Failed to get sources of foo.1: HTTP error code 404
curl: code 404 while downloading https://x.org/a.tgz
File "./Caveats.v", line 100, characters 4-27:\nError: Tactic failure: No matching occurence.
Error: Program cppo not found in the tree or in PATH
Error: Version 3.20 of the dune language is not supported.
File "x.ml", line 3:\nError: Could not find the .cmi file for interface x.mli.
Error: The implementation src/x.ml does not match the interface src/x.cmi
[ERROR] Conflicting file hashes, or broken or compromised cache!\n- md5=00 (MISMATCH)\n[ERROR] Failed to get sources of foo.1: Checksum mismatch
foo.1/p.patch: Missing checksum, and `--require-checksums` was set.
[ERROR] In the opam file for foo.1 from repository default:\n- At packages/foo/foo.1/opam:11:2-11:13::\n'extra-files' has been ignored.\n[ERROR] The compilation of foo.1 failed at "test -f p".
sh: -c: line 2: syntax error: unexpected end of file\nmake: *** [all] Error 2
./test.exe: error while loading shared libraries: libfoo.so.1: cannot open shared object file
Format upgrade done.\nsudo: unable to resolve host x: Name or service not known\nconfigure: error: no acceptable C compiler
configure: error: curl library not found
cp: cannot create regular file '/usr/local/bin/x': Permission denied
error: alcotest test failed\nnot ok 3 - x
--- expected\n+++ actual\n1 of 3 tests failed
test `reverse is an involution` failed on ≥ 1 cases:\n[0; 1] (after 3 shrink steps)
test `parses what it prints` raised exception `Not_found`\non `(0, "")` (after 12 shrink steps)
* **`a.1`** has errors:\n\n  * **error 2:** File format error at line 3, column 1: Parse error
  * **error 23:** Missing field 'maintainer'
Error in a.1: Weak checksum algorithm(s) provided. Please use SHA-256 or SHA-512.
a.opam: changes needed:\n  "b" {>= 1}  [from src/a]
""".strip().split("\n")

UNKNOWN = r"""
    Blocking waiting for file lock on build directory
pkg.opam: Warnings.\n           warning 25: Missing field 'authors'
2024-01-01 10:00.00  worker [WARNING] Build failed: Failure("exited with 1")
powerpc64le-linux-gnu-gcc: internal compiler error: Segmentation fault signal terminated program cc1
The command '/bin/sh -c apt-get update && opam install -y a.1' returned a non-zero code: 100
Error: The process '/usr/bin/sudo' failed with exit code 100
Error: error building at STEP "RUN make": error while running runtime: exit status 2
  Cleanup     : dnf-1.1.9-2.fc24.noarch   98/182Failed to connect to bus: No such file or directory
findlib: [WARNING] Interface topdirs.cmi occurs in several directories: a, b
Public key for kernel-headers-3.18.34-20.el7.x86_64.rpm is not installed
ENV OPAMSOLVERTIMEOUT="500"
Done.
sudo: unable to resolve host ci-worker: Name or service not known
Format upgrade done.
This version of opam requires an update to the layout of /home/opam/.opam from version 2.0
std::bad_alloc
see foo.c:503 for an error in 429 lines
[ERROR] Download failed: foo.1: gone
Fatal error: out of memory.
No output has been received in the last 10m0s, this potentially indicates a stalled build
Segmentation fault (core dumped)
[ERROR] https://x.org/a.tgz is not available
failed to solve: process "/bin/sh -c opam install foo" did not complete successfully: exit code: 1
##[error]Process completed with exit code 1.
The command "./.travis-ci.sh" exited with 1.
script returned exit code 2
fatal: not a git repository (or any of the parent directories): .git
[WARNING] Running as root is not recommended
Job succeeded
Error: error building at STEP "RUN make": error while running runtime: exit status 2
Error: building at STEP "RUN make": while running runtime: exit status 2
File "./theories/Big.v", line 1145, characters 0-12:\nError: Out of memory.\n\nmake[1]: *** [Makefile.coq:838: theories/Big.vo] Error 1
        test "$res" != 31 && exit "$res";
test `uname` = Linux || echo 'test failed on this system'
""".strip().split("\n")

WORDS = [
    (verdict, line)
    for verdict, lines in (
        ("errored", ERRORED),
        ("skipped", SKIPPED),
        ("failed", FAILED),
        ("unknown", UNKNOWN),
    )
    for line in lines
]


@pytest.mark.parametrize(("expected", "line"), WORDS, ids=[line[:60] for _, line in WORDS])
def test_a_message_has_the_verdict_of_its_meaning(expected: str, line: str) -> None:
    verdict = classify_text(line.replace("\\n", "\n"), exit_code=None, phase=None)

    assert verdict.outcome == expected, verdict
