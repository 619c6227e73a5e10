import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_publisher.build.documents import load_changes, load_environment
from pps_publisher.build.environment import overlay_of
from pps_publisher.build.recipe import Wish, build, stated_requires
from pps_publisher.bundle import load_bundle, unpack_manifest
from pps_publisher.errors import ConfigError, PublishError, UsageError
from pps_publisher.tree import load_tree
from pps_wire.errors import WireError
from pps_wire.names import Component, Platform, Version, Vo
from pps_wire.release import Changes, ConfigStep, Flag, Overlay, ReleaseClass, Requires, Severity
from tests.support.repository import DEFAULT_FILES, write_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "tree", DEFAULT_FILES)
    return tmp_path / "tree"


def wish(**fields: Any) -> Wish:
    defaults: dict[str, Any] = {
        "component": Component("hello"),
        "version": Version("1.0.0"),
        "class_": ReleaseClass.CLIENT_BC,
        "vos": (Vo("dteam"),),
        "tag_suffix": "pps-1.0.0",
    }
    return Wish(**(defaults | fields))


def test_a_build_is_three_files_that_agree(root: Path, tmp_path: Path) -> None:
    bundle, report = build(load_tree(root), wish(), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "hello-1.0.0-noarch-glibc0.0.manifest.zst",
        "hello-1.0.0-noarch-glibc0.0.release.json",
        "hello-1.0.0-noarch-glibc0.0.tar.zst",
    ]
    assert load_bundle(tmp_path / "out") == bundle
    assert unpack_manifest(bundle.manifest).head.release == bundle.release.id
    assert bundle.release.environment == Overlay(prepend={"PATH": ("bin",)})
    assert (report.elf_files, report.runpaths_set) == (0, 0)


def test_a_build_that_changes_variables_may_not_call_itself_backward_compatible_and_hears_every_reason(
    root: Path, tmp_path: Path
) -> None:
    changes = Changes(
        variables_old={"WMS": "a", "GONE": "x"},
        variables_new={"WMS": "b", "NEW": "y"},
        flags={Flag.OLD_SERVERS_INCOMPATIBLE: True},
    )
    steps = (ConfigStep(id="open-port", text="Open port 1094"),)
    with pytest.raises(PublishError) as caught:
        build(load_tree(root), wish(changes=changes, config_steps=steps), tmp_path / "out")
    for reason in (
        "adds variable NEW",
        "removes variable GONE",
        "changes variable WMS",
        "needs configuration step open-port",
        "flagged old-servers-incompatible",
        "--class client-nbc",
    ):
        assert reason in str(caught.value)
    assert not (tmp_path / "out").exists()
    accepted = wish(changes=changes, config_steps=steps, class_=ReleaseClass.CLIENT_NBC)
    assert build(load_tree(root), accepted, tmp_path / "out")[0].release.config_steps == steps


def test_a_stricter_class_than_needed_is_the_release_managers_choice(root: Path, tmp_path: Path) -> None:
    bundle, _ = build(load_tree(root), wish(class_=ReleaseClass.CLIENT_NBC), tmp_path / "out")
    assert bundle.release.class_ is ReleaseClass.CLIENT_NBC


def test_a_tag_that_no_vo_could_publish_is_refused_before_any_work(root: Path, tmp_path: Path) -> None:
    with pytest.raises(WireError):
        build(load_tree(root), wish(tag_suffix="has blank"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("platform", "computed", "expected"),
    [
        ("x86_64-glibc2.36", Requires(arch="x86_64", glibc="2.34"), Requires(arch="x86_64", glibc="2.36")),
        ("x86_64-glibc2.34-el9", Requires(arch="x86_64", glibc="2.9"), Requires(arch="x86_64", glibc="2.34", os="el9")),
        ("x86_64-glibc2.34", Requires(arch="noarch", glibc="0.0"), Requires(arch="x86_64", glibc="2.34")),
        ("aarch64-glibc2.36", Requires(arch="x86_64", glibc="2.34"), None),
        ("x86_64-glibc2.9", Requires(arch="x86_64", glibc="2.34"), None),
    ],
)
def test_a_stated_platform_may_demand_more_than_the_programs_need_never_less(
    platform: str, computed: Requires, expected: Requires | None
) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="leave the option out"):
            stated_requires(Platform(platform), computed)
    else:
        assert stated_requires(Platform(platform), computed) == expected


def test_the_environment_of_a_grid_client_follows_from_its_directories(tmp_path: Path) -> None:
    for name in (
        "bin",
        "etc/gfal2.d",
        "etc/xrootd/client.plugins.d",
        "lib/arc",
        "lib/python3/dist-packages",
        "lib/x86_64-linux-gnu/gfal2-plugins",
        "sbin",
    ):
        (tmp_path / name).mkdir(parents=True)
    assert overlay_of(load_tree(tmp_path)) == Overlay(
        prepend={"PATH": ("bin", "sbin"), "PYTHONPATH": ("lib/python3/dist-packages",)},
        assign={
            "ARC_PLUGIN_PATH": "lib/arc",
            "GFAL_CONFIG_DIR": "etc/gfal2.d",
            "GFAL_PLUGIN_DIR": "lib/x86_64-linux-gnu/gfal2-plugins",
            "XRD_PLUGINCONFDIR": "etc/xrootd/client.plugins.d",
        },
    )


def test_a_changes_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "changes.toml"
    path.write_text(
        'effort_ph = 3\nvariables_old = { WMS = "a" }\nflags = { environment-change = true }\n'
        '[[fixes]]\nid = "bug:96306"\nseverity = "major"\n'
        '[[config_steps]]\nid = "open-port"\ntext = "Open port 1094"\ncheck = ["nc", "-z", "localhost", "1094"]\n'
    )
    found = load_changes(path)
    assert found.changes().fixes[0].severity is Severity.MAJOR
    assert found.changes().flags == {Flag.ENVIRONMENT_CHANGE: True}
    assert found.config_steps[0].check == ("nc", "-z", "localhost", "1094")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("efort_pd = 3", "efort_pd"),
        ('[[fixes]]\nid = "1"\nseverity = "bad"', "severity"),
        ("effort_ph = -1", "effort_ph"),
        ("= broken", "line 1"),
    ],
)
def test_a_mistake_in_a_changes_file_is_named_with_its_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "changes.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_changes(path)
    assert str(path) in str(caught.value)


def test_an_environment_file_states_the_overlay_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "environment.toml"
    path.write_text('prepend = { PATH = ["bin"] }')
    assert load_environment(path) == Overlay(prepend={"PATH": ("bin",)})
    path.write_text('prepend = { PATH = ["../bin"] }')
    with pytest.raises(ConfigError):
        load_environment(path)
    path.write_text('append = { PATH = ["bin"] }')
    with pytest.raises(ConfigError, match="allowed keys: prepend, assign"):
        load_environment(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_wire_error(content: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack_manifest(content)


def test_an_expiry_date_travels_with_the_release(root: Path, tmp_path: Path) -> None:
    moment = datetime(2027, 1, 31, tzinfo=UTC)
    build(load_tree(root), wish(expires_at=moment), tmp_path / "out")
    assert load_bundle(tmp_path / "out").release.expires_at == moment
