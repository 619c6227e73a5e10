import shutil
import subprocess
from pathlib import Path

import pytest

from pps_publisher.build.base_set import BASE_SET, is_base
from pps_publisher.build.closure import close, parse_depends
from pps_publisher.build.debian import GRID_CLIENTS, Package, load_debian_tree, parse_uris, resolve
from pps_publisher.build.relocation import relocate, relocate_path
from pps_publisher.elf import read_elfs, requires_of
from pps_publisher.errors import PublishError, UsageError
from pps_publisher.lint import Kind, Node, normalise
from tests.support.services import need

DEPENDS = """\
client
  Depends: libc6
 |Depends: helper-a
  Depends: helper-b
  PreDepends: <virtual-lib>
    real-lib
    other-real-lib
  Depends: <python3:any>
    python3
helper-a
helper-b
  Depends: deep
deep
  Depends: client
real-lib
<virtual-lib>
<python3:any>
libc6
  Depends: libgcc-s1
libgcc-s1
"""


def test_the_closure_stops_at_the_base_set_and_takes_the_first_of_alternatives() -> None:
    assert close(parse_depends(DEPENDS), ["client"], is_base) == ("client", "helper-a", "real-lib")


def test_an_alternative_that_is_there_already_is_enough() -> None:
    assert close(parse_depends(DEPENDS), ["client", "helper-b"], is_base) == ("client", "deep", "helper-b", "real-lib")


def test_a_dependency_nobody_provides_is_named() -> None:
    graph = parse_depends("client\n  Depends: <nothing>\n")
    with pytest.raises(PublishError, match="client needs <nothing>, which nothing provides"):
        close(graph, ["client"], is_base)


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("libexpat1", True),
        ("libc6", True),
        ("python3:any", True),
        ("python3.11-minimal", True),
        ("libssl3", True),
        ("python3-gfal2", False),
        ("libxrdcl3", False),
        ("libdb5.3++", False),
        ("libcurl4", False),
    ],
)
def test_the_base_set_holds_what_every_host_has_and_no_client(package: str, expected: bool) -> None:
    assert is_base(package) is expected


def test_no_grid_client_is_in_the_base_set_and_every_group_says_why() -> None:
    assert [name for name in GRID_CLIENTS if is_base(name)] == []
    assert all(reason and packages for reason, packages in BASE_SET.items())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("usr/bin/xrdcp", "bin/xrdcp"),
        ("lib/x86_64-linux-gnu/libz.so", "lib/x86_64-linux-gnu/libz.so"),
        ("etc/gfal2.d/http.conf", "etc/gfal2.d/http.conf"),
        ("usr", ""),
        ("usr/share/man/man1/x.1.gz", None),
        ("usr/share/manifest", "share/manifest"),
        ("var/lib/x", None),
        ("etc/init.d", None),
        ("usr/lib/systemd/system", None),
    ],
)
def test_packages_lose_usr_and_what_only_an_installed_system_needs(path: str, expected: str | None) -> None:
    assert relocate_path(path) == expected


def links(*pairs: tuple[str, str]) -> dict[str, str]:
    files = [Node(path, Kind.FILE, Path()) for path in ("usr/lib/libx.so.1", "lib/libw.so.1", "usr/bin/x")]
    directories = [Node(path, Kind.DIRECTORY, Path()) for path in ("lib", "usr/lib", "usr/bin", "etc")]
    nodes = [*directories, *files, *(Node(path, Kind.LINK, Path(), to=to) for path, to in pairs)]
    tree = normalise(relocate(nodes).values())
    return {node.path: node.to for node in tree.nodes if node.kind is Kind.LINK}


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (("usr/lib/libx.so", "libx.so.1"), {"lib/libx.so": "libx.so.1"}),
        (("usr/lib/libw.so", "../../lib/libw.so.1"), {"lib/libw.so": "libw.so.1"}),
        (("usr/lib/libw.so", "/lib/libw.so.1"), {"lib/libw.so": "libw.so.1"}),
        (("etc/x", "/usr/lib/libx.so.1"), {"etc/x": "../lib/libx.so.1"}),
        (("etc/x", "../usr/lib/libx.so.1"), {"etc/x": "../lib/libx.so.1"}),
        (("usr/lib/gone", "/etc/alternatives/gone"), {}),
        (("usr/lib/gone", "/var/lib/gone"), {}),
    ],
)
def test_links_of_packages_lead_to_the_same_file_after_the_move(
    link: tuple[str, str], expected: dict[str, str]
) -> None:
    assert links(link) == expected


def test_the_alternative_that_a_maintainer_script_would_make_is_made() -> None:
    moved = relocate([Node("usr/bin/voms-proxy-info2", Kind.FILE, Path())])
    assert moved["bin/voms-proxy-info"].to == "voms-proxy-info2"
    assert "bin/voms-proxy-init" not in moved


def test_two_packages_with_different_files_at_one_place_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    nodes = [Node("usr/lib/x", Kind.FILE, tmp_path / "one"), Node("lib/x", Kind.FILE, tmp_path / "two")]
    with pytest.raises(PublishError, match="both become lib/x"):
        relocate(nodes)


def test_apts_list_of_addresses_is_read() -> None:
    text = "'http://x/voms-clients_2.1.0%7erc3-4_amd64.deb' voms_2~rc3-4_amd64.deb 139036 SHA256:651edf8a\nnoise\n"
    assert parse_uris(text) == (Package("voms_2~rc3-4_amd64.deb", 139036, "sha256", "651edf8a"),)


@pytest.fixture(scope="module")
def apt() -> None:
    """A machine with apt and its package lists, or a named skip; a failure where all services must be."""
    why = ""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        why = "apt is not on this machine"
    elif not subprocess.run(["apt-cache", "show", "voms-clients"], capture_output=True, check=False).stdout:
        why = "apt knows no voms-clients; run 'apt-get update'"
    need(why)


@pytest.mark.usefixtures("apt")
def test_a_real_package_becomes_a_tree_that_runs_and_is_not_fetched_twice(tmp_path: Path) -> None:
    tree = load_debian_tree(("voms-clients",), tmp_path / "cache", tmp_path / "work")
    links_found = {node.path: node.to for node in tree.nodes if node.kind is Kind.LINK}
    assert links_found["bin/voms-proxy-info"] == "voms-proxy-info2"
    assert not any(node.path.startswith(("usr/", "share/doc", "share/man")) for node in tree.nodes)
    assert not any("libexpat" in node.path for node in tree.nodes)
    requires = requires_of(read_elfs(tree))
    assert requires.arch != "noarch"
    assert float(requires.glibc) > 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert load_debian_tree(("voms-clients",), tmp_path / "cache", tmp_path / "again").nodes
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before


@pytest.mark.usefixtures("apt")
def test_an_unknown_package_is_named() -> None:
    with pytest.raises(UsageError, match="apt knows no package no-such-package-at-all"):
        resolve(["voms-clients", "no-such-package-at-all"])


@pytest.mark.parametrize("name", ["-o", "UPPER", "a b", ""])
def test_what_is_no_package_name_never_reaches_apt(name: str) -> None:
    with pytest.raises(UsageError, match="is not a package name"):
        resolve([name])
