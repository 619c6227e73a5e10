"""The reader of recorded runs sees unsafe orders: each of these traces has one line too few, or none."""

from tests.support.traces import find_unsafe, parse_calls

BASE = "/s"
SAFE = """\
7 mkdir("/s/staging/r@1", 0755) = 0
7 openat(8</s/staging/r@1>, "manifest", O_WRONLY|O_CREAT|O_EXCL, 0600) = 9</s/staging/r@1/manifest>
7 write(9</s/staging/r@1/manifest>, "x", 1) = 1
7 fsync(9</s/staging/r@1/manifest>) = 0
7 fsync(8</s/staging/r@1>) = 0
7 rename("/s/staging/r@1", "/s/releases/r") = 0
7 fsync(10</s/releases>) = 0
"""


def test_a_safe_order_has_no_fault():
    assert find_unsafe(parse_calls(SAFE), BASE) == []


def test_each_flush_left_out_is_a_fault():
    lines = SAFE.splitlines(keepends=True)
    rest = {at: "".join(lines[:at] + lines[at + 1 :]) for at, line in enumerate(lines) if "fsync" in line}
    assert sorted(rest) == [3, 4, 6]
    for number in (3, 6):
        assert len(find_unsafe(parse_calls(rest[number]), BASE)) == 1, number


def test_one_flush_of_the_file_system_stands_for_all():
    text = SAFE.replace("fsync(9</s/staging/r@1/manifest>)", "syncfs(8</s/staging/r@1>)")
    assert find_unsafe(parse_calls(text), BASE) == []


def test_calls_are_counted_by_name_and_thread():
    calls = parse_calls('7 mkdir("/s/a", 1) = 0\n8 mkdir("/s/b", 1) = 0\n7 mkdir("/s/c", 1) = 0\nnoise\n')
    assert [(call.thread, call.number, call.paths) for call in calls] == [
        ("7", 1, ("/s/a",)),
        ("8", 1, ("/s/b",)),
        ("7", 2, ("/s/c",)),
    ]
