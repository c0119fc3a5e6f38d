"""The network between us and the world, in the words of curl, wget, git, ssh and libraries.

All of these hold only in phases with network, and yield to proof against the package: what a
build without network, or a test, says about connections is its own affair.
"""

from opam_ci.core.classify.rule import NETWORK_PHASES, Rule
from opam_ci.core.classify.rules.generic import PACKAGE_REPORT
from opam_ci.core.classify.rules.make import rule
from opam_ci.core.classify.rules.proofs import PROOF_IDS
from opam_ci.core.outcome import Cause, FailureReason

_YIELDS = ("network-in-build", *PROOF_IDS)

NETWORK: tuple[Rule, ...] = (
    rule(
        "network-in-build",
        FailureReason.BUILD,
        r"[Cc]ould(?: not|n't) resolve host",
        r"[Tt]emporary failure in name resolution",
        r"[Nn]ame or service not known",
        r"[Nn]etwork is unreachable",
        r"failed to download from `",
        words=("resolve host|name resolution|name or service|network is unreachable|download from"),
        inside=True,
        yields_to=PROOF_IDS,
        why=(
            "opam's sandbox has no network: a build command that wants one is the package's fault."
        ),
        example=(
            "# command  ~/.opam/opam-init/hooks/sandbox.sh build make\n"
            "# curl: (6) Could not resolve host: example.com"
        ),
        not_when=[
            ("errored", ("Processing 1/2: [a.1: http]\ncurl: (6) Could not resolve host: x.org")),
        ],
    ),
    rule(
        "dns",
        Cause.DNS,
        (
            r"^(?!sudo: ).{0,600}(?:[Cc]ould(?: not|n't)|[Uu]nable to|[Ff]ailed to|[Cc]annot"
            r"|[Cc]an't) resolve(?: host| proxy| '[\w-]+\.[\w.-]+'| [\w-]+\.[\w.-]+\b(?!/)|:? ?$)"
        ),
        r"[Tt]emporary failure (?:resolving|in name resolution)",
        (
            r"^(?!sudo: ).{0,600}[Nn]ame (?:or service not known|does not resolve"
            r"|resolution (?:failed|failure))"
        ),
        r"getaddrinfo (?:ENOTFOUND|EAI_AGAIN|failed)",
        r"EAI_AGAIN",
        r"gaierror",
        r"No address (?:record|associated with)",
        r"[Nn]o such host is known",
        r": no such host\b",
        r"DNS (?:lookup|resolution|server|query) (?:error|fail|time)",
        r"server misbehaving",
        r"nodename nor servname",
        r"UnknownHostException",
        r"curl: \(6\)",
        r"[Hh]ost(?:name)? (?:not found|lookup fail)",
        r"(?:[Cc]url|[Dd]ownload).{0,1200}exited with code 6\b",
        r"[Uu]nknown host\b",
        r"DNS: transient",
        r"Curl error \(6\)",
        r"\[6\] Could",
        words=(
            "resolv|resolution|getaddrinfo|eai_again|gaierror|no address|no such host|dns"
            "|misbehaving|nodename|unknownhost|curl: (6)|host|exited with code 6"
            "|curl error (6)|name "
        ),
        phases=NETWORK_PHASES,
        yields_to=_YIELDS,
        overtaken_by=(PACKAGE_REPORT,),
        why="A host name did not resolve on the worker.",
        example="curl: (6) Could not resolve host: github.com",
        not_when=[
            ("failed", ("resolver: could not resolve host x\n[FAIL]  dns  2  falls back.")),
        ],
    ),
    rule(
        "http-limited",
        Cause.SOURCE_HOST,
        (
            r"(?:HTTP/\S{1,8}|HTTP(?: error| status| code)*:?|[Ss]tatus(?: code)?:?|returned error:"
            r"|[Ee]rror code:?|response(?: code)?:?|HTTP error code) ?(?:429|50[0-4]|52\d)\b"
        ),
        (
            r"\b(?:50[0234] |429 )?(?:Bad Gateway|Service (?:Temporarily )?Unavailable|Gateway"
            r" Time-?out|Too Many Requests|Internal Server Error)\b"
        ),
        r"code (?:429|50\d) while downloading",
        r"error code:? (?:429|50\d)\b",
        r"ERROR 50\d",
        r"API rate limit exceeded",
        r"secondary rate limit",
        r"^(?:curl: )?empty (?:response|reply)",
        r"curl: \(52\)",
        r"[Ee]mpty reply from server",
        r"curl: \((?:18|47)\)",
        r"transfer closed with",
        r"curl: \(92\)",
        r"HTTP/2 stream .{0,60}not closed cleanly",
        r"^(?>.*?(?:[Cc]url|[Dd]ownload)).*exited with code (?:18|47|52|92)\b",
        r"error parsing HTTP (?:429|5\d\d) response",
        r"server-side error",
        r"curl empty response",
        r"Curl error \((?:18|52|92)\)",
        r"outstanding read data remaining",
        words=(
            "429|50|52|bad gateway|unavailable|gateway time|too many|internal server"
            "|rate limit|empty|curl|transfer closed|http/2|exited with|server-side"
            "|outstanding"
        ),
        phases=NETWORK_PHASES,
        yields_to=_YIELDS,
        overtaken_by=(PACKAGE_REPORT,),
        why=("The other side answered that it is overloaded or broken, or broke off its answer."),
        example="curl: code 503 while downloading https://example.org/x.tar.gz",
        not_when=[
            ("failed", ("handler: 503 Service Unavailable\n[FAIL]  http  3  retries.")),
        ],
    ),
    rule(
        "connection",
        Cause.NETWORK,
        r"curl: \((?:5|7|16|28|35|5[15689]|60|77|80|8[35]|9[0167])\)",
        r"Curl error \((?:5|7|16|28|35|5[568]|60|77)\)",
        (
            r"^(?>.*?(?:[Cc]url|[Dd]ownload)).*exited with code"
            r" (?:5|7|16|28|35|5[15689]|60|77|80|8[35]|9[0167])\b"
        ),
        # wget's codes for network failures and for certificates.
        r"^(?>.*?\bwget\b).*exited with code [45]\b",
        r"[Uu]nable to establish SSL connection",
        r"ERROR: cannot verify \S+ certificate",
        r"[Cc]onnection(?:Reset|Refused|Aborted|)Error\b",
        r"NewConnectionError",
        r"\bEPIPE\b.{0,80}(?:socket|request)",
        r"socket hang up",
        r"(?:[Nn]etwork|HTTP|fetch) (?:error|failure)[:!]",
        r"certificate (?:problem|signed by unknown)",
        r"SSL certificate problem",
        r"server certificate (?:not trusted|verification)",
        r"error setting certificate",
        r"curl (?:7|28|35|55|56|92) ",
        r"\b[Cc]ould(?: not|n't) connect to",
        # systemd's "bus" is no host: packages' scripts ask for it in every container.
        r"[Ff]ailed to connect to (?!(?:the )?(?:system )?bus\b)",
        r"[Cc]annot connect to",
        r"[Uu]nable to connect to",
        (
            r"[Cc]onnection (?:refused|timed out|reset|was (?:reset|closed|aborted)|closed by"
            r"|aborted|failed|broken|error|to \S+ (?:lost|closed))"
        ),
        r"[Nn]etwork is (?:unreachable|down)",
        r"network error",
        r"[Nn]o route to host",
        # ping's words.
        r"Destination (?:[Hh]ost|[Nn]et) (?:[Uu]nreachable|Prohibited)",
        r"^PING: transmit failed",
        r"\b100(?:\.0+)?% (?:packet )?loss\b",
        r"[Oo]peration (?:too slow|timed out)",
        r"(?:TLS|SSL) (?:handshake|connection)",
        r"SSL_(?:read|connect|ERROR)",
        r"SSL error",
        r"gnutls_handshake",
        r"GnuTLS recv",
        r"schannel: ",
        r"[Rr]ead(?: operation)? timed out",
        r"i/o timeout",
        r"[Cc]onnect(?:ion)? timed out",
        r"ETIMEDOUT",
        r"ECONNRESET",
        r"ECONNREFUSED",
        r"EHOSTUNREACH",
        r"ENETUNREACH",
        r"Max retries exceeded",
        r"SocketTimeout",
        r"ReadTimeout",
        r"ConnectTimeout",
        r"[Hh]andshake (?:failed|timeout)",
        r"[Ss]low (?:network|download)",
        (
            r"timeout (?:while|during|exceeded when) (?:downloading|accessing|connecting"
            r"|fetching)"
        ),
        r"request canceled while waiting",
        r"disconnect: Broken pipe",
        r"please check your connection",
        r"check your (?:network|internet) connection",
        r"SSL certificate",
        r"Cohttp\S{0,100}[Cc]onnection",
        r"(?:Conduit|Tls|TLS)\S{0,60} (?:error|failure|alert)",
        r"certificate (?:has expired|verify failed|is not yet valid|verification failed)",
        r"spurious network error",
        r"[Nn]etwork (?:request|connectivity) ",
        r"dial tcp\b",
        r"\b407\)?:? Proxy Authentication Required",
        r"[Uu]nable to tunnel through proxy",
        r"Proxy (?:tunneling failed|CONNECT aborted)",
        # Go's, which names the method and the address that it asked for.
        (
            r"\b(?:Get|Head|Post|Put|Patch) \"?https?://\S{1,400}: (?:(?:unexpected )?EOF\b"
            r"|context deadline|net/http: |http2: |stream error|x509: |tls: |remote error: "
            r"|proxyconnect |(?:read|write) (?:tcp|udp) )"
        ),
        r"<urlopen error",
        # PowerShell's, with or without its name in front.
        r"^(?:PowerShell : )?(?:Invoke-(?:WebRequest|RestMethod)|Start-BitsTransfer) : ",
        words=(
            "destination |transmit failed|% loss|packet loss"
            "|curl|exited with|wget|ssl connection|cannot verify|epipe|socket|failure|http error"
            "|fetch error|connect|conduit|network|route to|too slow|timed out|tls|ssl"
            "|schannel|timeout|econn|etimed|ehost|enet|retries|handshake|slow |canceled"
            "|broken pipe|unexpected e|certificate|dial tcp|urlopen|get |head |post |put |patch "
            "|invoke-|bitstransfer|proxy"
        ),
        phases=NETWORK_PHASES,
        yields_to=_YIELDS,
        overtaken_by=(PACKAGE_REPORT,),
        why="A connection could not be made, broke, or timed out.",
        example="curl: (7) Failed to connect to example.org port 443: Connection refused",
        not_when=[
            ("failed", ("client: Connection refused\nFAILED: Cases: 3 Tried: 3 Errors: 1")),
            (
                "failed",
                (
                    "curl: (28) Operation timed out after 300000 milliseconds. Retrying\n"
                    "#=== ERROR while compiling a.1 ===#\n"
                    "# command     ~/.opam/opam-init/hooks/sandbox.sh build ./build.sh\n"
                    "# exit-code   2\n"
                    "### output ###\n"
                    "# the answer is not 42"
                ),
            ),
            (
                "failed",
                (
                    'File "src/network.ml", line 3, characters 2-9:\n'
                    "Error: Unbound value connect_or_connection_refused"
                ),
            ),
        ],
    ),
    rule(
        "mercurial",
        Cause.NETWORK,
        (
            r"^abort: (?:(?:stream|connection) ended unexpectedly|HTTP Error 5\d\d"
            r"|no suitable response from remote hg|error: .{0,80}(?:refused|timed out|reset"
            r"|unreachable|not known|certificate))"
        ),
        words="abort: ",
        phases=NETWORK_PHASES,
        yields_to=_YIELDS,
        why="Mercurial's connection to its server broke, or the server failed.",
        example="abort: connection ended unexpectedly",
        not_when=[
            ("failed", ("abort: HTTP Error 503: down\n[FAIL]  hg  1  clones.")),
        ],
    ),
    rule(
        "git-transport",
        Cause.GIT,
        r"RPC failed",
        r"^git-\w+ failed with exit-code",
        # opam's report of its own git commands, whatever git says about it.
        r"[\"/]git(?:\.exe)? [^\"]{0,400}\" (?:exited with code|failed)",
        r"^command +git (?:fetch|clone|pull|ls-remote|remote|reset|diff)\b",
        r"^ERROR: Cannot fetch git repository",
        # git was given a name and a password: those of the CI. Without, it asks for a name.
        r"\bfatal: Authentication failed for '",
        r"\bremote: Invalid username or (?:password|token)",
        r"^(?:error|fatal): (?:could not fetch|Failed to clone|clone of '|git upload-pack)",
        r"^Failed to clone '",
        r"^! \[(?:new (?:tag|branch|ref)|rejected)\].{0,300}\(unable to update local ref\)",
        r"some local refs could not be updated",
        r"^fatal: .{0,200}(?:early EOF|No such device or address|timed out)",
        r"bytes of body are still expected",
        r"[Ff]atal: early EOF",
        r"remote end hung up",
        # git-lfs, which fetches large files from a server of their own.
        r"\bsmudge filter lfs failed",
        r"\bSmudge error: ",
        r"^batch response: ",
        r"external filter 'git-lfs filter-process' failed",
        r"fetch-pack: ",
        r"index-pack (?:failed|died)",
        r"invalid index-pack",
        r"expected (?:flush|packfile|ref)",
        r"disconnect while reading sideband",
        (
            r"^fatal: (?:unable to (?:access|connect|look ?up|create|write)|[Cc]ould not read"
            r" (?:from remote|Username|Password)|protocol error|read error|remote error"
            r"|[Cc]ould not"
            r" parse object|the remote end|remote did not send|unable to (?:read|find)|write"
            r" error|index file"
            r"|failed to (?:read|write|store|unpack)|object \S+ (?:is|cannot)|loose object"
            r"|bad object|pack has|cannot (?:exec|pread|lock)|detected"
            r" dubious|shallow file|error in object|reference is not a tree|expected )"
        ),
        r"^ssh: ",
        r"kex_exchange",
        r"Host key verification failed",
        r"Permission denied \(publickey",
        r"object file .{0,120} is (?:empty|corrupt)",
        r"bad line length",
        r"[Cc]ouldn't find remote ref (?:refs/)?pull/",
        r"\.lock': File exists",
        r"^Another git process",
        (
            r"^error: (?:unable to (?:read|write|create|unlink)|inflate|object|cannot (?:lock"
            r"|update) ref)"
        ),
        r"packet-line",
        r"sideband packet",
        r"remote: (?:Internal|error|Compressing .*error)",
        r"git: .*signal ",
        words=(
            "rpc failed|fatal: |local ref|early eof|hung up|fetch-pack|index-pack|expected|sideband"
            "|ssh: |kex_exchange|host key|publickey|object file|bad line|pull/|.lock'|git"
            "|error: |packet|remote: |smudge|batch response"
        ),
        phases=NETWORK_PHASES,
        yields_to=("ref-missing", "submodule-missing", "repository-gone", *_YIELDS),
        overtaken_by=(PACKAGE_REPORT,),
        why="git could not talk to the other side, or its local copy is damaged.",
        example="fatal: the remote end hung up unexpectedly",
        not_when=[
            (
                "failed",
                (
                    "fatal: not a git repository (or any of the parent directories): .git\n"
                    'File "a.ml", line 1, characters 0-3:\n'
                    "Error: Unbound value foo"
                ),
            ),
            ("failed", ("fatal: Couldn't find remote ref v1.0\nfatal: the remote end hung up")),
            ("unknown", "fatal: not a git repository (or any of the parent directories): .git"),
        ],
    ),
    rule(
        "git-refused",
        Cause.GIT,
        r"^fatal: remote error(?!: upload-pack: not our ref)",
        words="remote error",
        phases=NETWORK_PHASES,
        yields_to=("ref-missing", "repository-gone", *_YIELDS),
        overtaken_by=(PACKAGE_REPORT,),
        why=(
            "The other side of git refused to talk at all; what git says of a commit after "
            "that is a guess."
        ),
        example=(
            "fatal: remote error: access denied or repository not exported\n"
            "Fetched in submodule path 'x', but it did not contain 1fa8a3f7fb20."
        ),
        not_when=[
            (
                "failed",
                (
                    "fatal: remote error: upload-pack: not our ref 1fa8a3f7fb20\n"
                    "Fetched in submodule path 'x', but it did not contain 1fa8a3f7fb20."
                ),
            ),
        ],
    ),
    rule(
        "service-limits",
        Cause.GITHUB,
        r"api\.github\.com.{0,80}(?:rate|limit|40[13]|50\d)",
        r"GitHub (?:API|Actions) .{0,60}(?:unavailable|error|limit|outage)",
        r"[Bb]ad credentials",
        r"Cache service responded with [45]",
        r"403 rate limit",
        (
            r"(?:[Uu]nable to|[Ff]ailed to) (?:download|upload|finalize|restore|save"
            r"|create)\s?[Aa]rtifact"
        ),
        r"[Aa]rtifact not found for name",
        r"(?:[Ff]ailed to|[Uu]nable to) (?:restore|save|reserve)(?: the)? cache",
        words="github|credentials|cache|rate limit|artifact",
        phases=NETWORK_PHASES,
        yields_to=_YIELDS,
        overtaken_by=(PACKAGE_REPORT,),
        why="GitHub's API refused the CI.",
        example="GitHub API error: 403 rate limit exceeded",
        not_when=[
            ("failed", ("Bad credentials\n[FAIL]  auth  1  refuses.")),
        ],
    ),
)
"""The network."""
