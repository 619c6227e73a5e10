"""Access lists and the decision about rights: bytes and back, and a change that leaves nothing to change."""

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent import acl_files
from pps_agent.acl import ACCESS, DEFAULT, Acl, acl_of_mode, clip_acl, name_all, parse_acl, render_acl
from pps_agent.acl_files import has_acls, load_acl, load_raw_acl, save_acl, save_raw_acl
from pps_agent.setup.rights import Change, Kind, Rights, Seen, decide

bits = st.integers(0, 7)
ids = st.integers(0, 2**32 - 2)
named = st.dictionaries(ids, bits, max_size=4).map(lambda found: tuple(sorted(found.items())))


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    users, groups = draw(named), draw(named)
    mask = draw(bits if users or groups else st.none() | bits)
    return Acl(draw(bits), draw(bits), draw(bits), users, groups, mask)


@given(acls())
def test_bytes_and_back_are_the_same(acl: Acl) -> None:
    assert parse_acl(render_acl(acl)) == acl


@given(st.binary(max_size=60) | acls().map(render_acl).flatmap(lambda raw: st.sampled_from([raw[:-1], raw + raw[4:]])))
def test_any_bytes_are_a_list_or_a_value_error(raw: bytes) -> None:
    try:
        acl = parse_acl(raw)
    except ValueError:
        return
    assert parse_acl(render_acl(acl)) == acl


def test_the_form_is_that_of_the_kernels_header() -> None:
    rows = [(1, 7, -1), (2, 6, 12), (4, 5, -1), (0x10, 7, -1), (0x20, 4, -1)]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    assert render_acl(Acl(7, 5, 4, ((12, 6),), (), 7)) == raw


def test_the_kernel_takes_and_gives_them(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        if not has_acls(descriptor):
            pytest.skip("the file system of temporary files keeps no access lists")
        acl = name_all(acl_of_mode(0o750), ((12, 7), (13, 4)), ((14, 5),))
        for name in (ACCESS, DEFAULT):
            save_acl(descriptor, acl, name)
            assert load_acl(descriptor, name) == acl
        assert os.fstat(descriptor).st_mode & 0o777 == acl.mode == 0o770
        save_raw_acl(descriptor, None)
        assert load_acl(descriptor) is None
        save_raw_acl(descriptor, None)
    finally:
        os.close(descriptor)


def test_a_file_system_without_them_has_none_to_keep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(95, "Operation not supported")

    for name in ("getxattr", "setxattr", "removexattr"):
        monkeypatch.setattr(acl_files.os, name, refuse)
    assert (has_acls(0), load_raw_acl(0), load_acl(0)) == (False, None, None)
    save_raw_acl(0, None)


@given(acls(), named, named)
def test_whom_we_name_gets_all_of_it_and_nobody_loses_anything(acl: Acl, users: tuple, groups: tuple) -> None:
    after = name_all(acl, users, groups)
    assert dict(users).items() <= dict(clip_acl(after).users).items()
    assert dict(groups).items() <= dict(clip_acl(after).groups).items()
    assert {number for number, _ in acl.users} <= {number for number, _ in after.users}
    assert (after.owner, clip_acl(after).group, after.other) == (acl.owner, acl.group, acl.other)


some_ids = st.lists(st.integers(1, 5), max_size=2, unique=True).map(tuple)
flags = st.booleans()
rights = st.builds(
    Rights,
    st.sampled_from(Kind),
    st.sampled_from([0o2775, 0o664, 0o755, 0o600, 0o700]),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    some_ids,
    some_ids,
    hands_down=flags,
    is_exact=flags,
    is_kept=flags,
)


@st.composite
def seens(draw: st.DrawFn) -> Seen:
    keeps = draw(flags)
    access = draw(st.none() | acls().filter(lambda acl: acl.mask is not None)) if keeps else None
    mode = draw(st.sampled_from([0, 0o2000, 0o4000])) | (access.mode if access else draw(st.integers(0, 0o777)))
    return Seen(draw(bits), draw(bits), mode, access, draw(st.none() | acls()) if keeps else None, keeps)


def carry_out(seen: Seen, change: Change) -> Seen:
    """Do what the kernel does with a change."""
    access = seen.access
    if change.access is not None:
        access = change.access if change.access.mask is not None else None
    mode = seen.mode if change.mode is None else change.mode
    if access is not None and change.mode is not None:
        access = replace(access, owner=mode >> 6 & 7, mask=mode >> 3 & 7, other=mode & 7)
    return Seen(
        seen.uid if change.owner is None else change.owner,
        seen.gid if change.group is None else change.group,
        mode,
        access,
        seen.default if change.default is None else change.default,
        seen.has_acls,
    )


@given(rights, seens())
def test_a_change_leaves_nothing_to_change_and_lets_in_whom_it_should(rights: Rights, seen: Seen) -> None:
    change = decide(rights, seen)
    if change is None:
        return
    after = carry_out(seen, change)
    assert decide(rights, after) is None
    assert after.mode & 0o7007 == rights.mode & 0o7007
    assert rights.owner in (None, after.uid)
    if seen.has_acls:
        acl = clip_acl(after.access or acl_of_mode(after.mode))
        wanted = 7 if rights.kind is Kind.DIRECTORY else 6
        assert {number for number, right in acl.users if right == wanted} >= set(rights.users)
        assert acl.group == rights.mode >> 3 & 7
        assert not rights.is_exact or {number for number, _ in acl.users} == set(rights.users)


def test_what_is_kept_when_it_is_there_is_still_set_right_when_made() -> None:
    kept = Rights(Kind.DIRECTORY, 0o755, is_made=True, is_kept=True)
    assert decide(kept, Seen(5, 5, 0o700)) is None
    assert decide(kept, Seen(0, 0, 0o700), made=True) == Change(made=True, mode=0o755)
