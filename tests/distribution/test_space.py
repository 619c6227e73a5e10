"""Room for a release: quotas as the kernel tells them, the store's own limit, and refusals with figures."""

import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.disk import Space
from pps_agent.errors import SiteError
from pps_agent.quota import Usage, judge_left, observe_quotas
from pps_agent.settings import StoreSettings
from pps_agent.space import Limit, find_shortages, require_space
from tests.support.services import need

ASK = "import sys; from pathlib import Path; from pps_agent.quota import observe_quotas; print(observe_quotas(Path(sys.argv[1])))"  # noqa: E501
NUMBERS = st.integers(0, 2**40)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_what_a_quota_leaves_is_never_negative_and_no_limit_is_none(used, hard, soft, until_s, now_s):
    left = judge_left(Usage(used, hard, soft, until_s), now_s)
    if left is None:
        assert not hard
    else:
        assert 0 <= left <= max(hard, 0)


def test_a_soft_limit_counts_when_its_grace_is_over():
    assert judge_left(Usage(used=90, hard=100, soft=80, until_s=1000), 999) == 10
    assert judge_left(Usage(used=90, hard=100, soft=80, until_s=1000), 1000) == 0
    assert judge_left(Usage(used=90, hard=0, soft=80, until_s=1000), 2000) == 0
    assert judge_left(Usage(used=70, hard=0, soft=80, until_s=1000), 2000) is None


def test_each_limit_that_is_short_is_named_with_its_figures():
    wide, narrow = Limit("a", Space(100, None), ""), Limit("b", Space(100, 3), "")
    assert find_shortages(Space(50, 4), [wide, narrow]) == [narrow]
    assert find_shortages(Space(101, 1), [wide, narrow]) == [wide, narrow]


def test_a_limit_of_the_whole_store_refuses_what_would_go_over_it(tmp_path):
    (tmp_path / "there").write_bytes(bytes(200_000))
    settings = StoreSettings(max_total_bytes=1_000_000)
    require_space(tmp_path, "c-1", Space(500_000, 1), settings)
    words = r"c-1 needs 900000 bytes and 1 inodes; store.max_total_bytes: \d+ bytes are free; .*release gc"
    with pytest.raises(SiteError, match=words):
        require_space(tmp_path, "c-1", Space(900_000, 1), settings)


def test_a_file_system_without_quotas_gives_none(tmp_path):
    assert observe_quotas(tmp_path) == []


def test_the_kernels_record_is_read_as_its_header_says(tmp_path):
    """strace puts the record where the kernel would: limits in KiB, use in bytes, then inodes."""
    need("" if shutil.which("strace") else "needs strace")
    record = struct.pack("<8QI", 2000, 0, 1_500_000, 50, 0, 8, 0, 0, 0x3F)
    inject = f"inject=quotactl_fd:retval=0:poke_exit=@arg4={''.join(f'{byte:02x}' for byte in record)}"
    command = ["strace", "-o", "/dev/null", "-e", "trace=quotactl_fd", "-e", inject, sys.executable, "-c", ASK]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    need("this strace cannot put values into a call" if "invalid" in done.stderr else "")
    left = "left=Space(size_bytes=548000, inodes=42)"
    assert (done.stdout.count(left), done.stderr) == (2, "")
    assert "kind='user'" in done.stdout
    assert "kind='group'" in done.stdout
