"""Which downloads a host refused, by opam's report; the messages are those of opam 2.3."""

import pytest

from opam_ci.core.classify.lines import clean
from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.classify.sources import refused_url
from opam_ci.core.jobs.job import Phase

URL = "http://127.0.0.1:41889/status/503/y.tgz"
CURL = 'curl failed: "/usr/bin/curl --connect-timeout 10 -L -o /tmp/opam-2-8/x.part -- '


@pytest.mark.parametrize(
    "why",
    [
        f"curl: code 429 while downloading {URL}",
        f"curl: code 503 while downloading {URL}",
        f'{CURL}{URL}" exited with code 7)',
        CURL,
        CURL.capitalize(),  # opam 2.1
        f"Curl: code 429 while downloading {URL}",
    ],
)
def test_limits_faults_and_connections_that_fail_are_the_hosts(why: str) -> None:
    assert refused_url(f"{URL} ({why}") == URL


@pytest.mark.parametrize(
    "why",
    [
        f"curl: code 404 while downloading {URL}",
        f"curl: code 410 while downloading {URL}",
        "Bad checksum, expected sha256=000",
        f"curl: code 404 while downloading {URL}? (curl failed: ",
    ],
)
def test_what_is_gone_or_another_file_is_not(why: str) -> None:
    assert refused_url(f"{URL} ({why})") is None
    assert refused_url(why) is None
    assert refused_url("") is None


def test_no_rule_takes_what_the_log_says_about_sources_for_a_fault() -> None:
    for line in (
        "12 archives from this machine's store of sources",
        "waiting for another job that fetches the same",
        "waiting before connection-refused.503.example:443 is asked again",
        "the store of sources cannot be read: ELOOP",
        "what was fetched cannot be kept: ENOSPC",
        "other jobs may fetch the same: EACCES",
    ):
        assert RULES.first_match(clean(f"[opam-ci] {line}"), Phase.FETCH) is None
