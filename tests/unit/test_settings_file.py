"""The settings files: all faults of all files at once, each with its line."""

from pathlib import Path

import pytest

from pps_agent.errors import ConfigError
from pps_agent.settings import Settings, StoreSettings
from pps_agent.settings_file import default_of, describe_fields, load_settings
from pps_agent.settings_reader import Loaded

MINIMAL = """\
[site]
name = "TEST-SITE"
vos = ["dteam"]

[repository]
url = "https://pps.example.org"
"""


def write(base: Path, text: str = MINIMAL, **more: str) -> Path:
    """Write agent.toml and ``conf.d/<key>.toml`` for each of ``more``."""
    path = base / "agent.toml"
    path.write_text(text)
    for name, content in more.items():
        (base / "conf.d").mkdir(exist_ok=True)
        (base / "conf.d" / f"{name}.toml").write_text(content)
    return path


def load(base: Path, text: str = MINIMAL, **more: str) -> Loaded[Settings]:
    return load_settings(write(base, text, **more))


def faults_of(base: Path, text: str, **more: str) -> list[str]:
    """Give the faults, the directory left out of them."""
    with pytest.raises(ConfigError) as caught:
        load(base, text, **more)
    assert caught.value.exit_code == 78
    return [fault.replace(f"{base}/", "") for fault in caught.value.faults]


def test_a_minimal_file_gives_the_defaults_of_everything_else(tmp_path: Path) -> None:
    settings = load(tmp_path).settings
    for section, field, _ in describe_fields():
        if not field.metadata.get("required"):
            assert default_of(field) == getattr(getattr(settings, section), field.name)


PREPRODUCTION = MINIMAL.replace("[repository]", 'subclusters = ["ce01"]\nhosts = ["grid"]\n[repository]')


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('subclusters = ["CE01"]', "preproduction.subclusters: CE01 is production's as well"),
        ('subclusters = ["pps"]\nhosts = ["grid"]', "preproduction.hosts: grid is production's as well"),
        ('subclusters = ["pps"]\nhosts = ["ce01"]', "preproduction.hosts: ce01 is production's as well"),
        ('subclusters = ["Grid"]', "preproduction.subclusters: Grid is production's as well"),
        (
            'subclusters = ["pps"]\ntags = "/opt/glite/x/../var/info"',
            "preproduction.tags: /opt/glite/x/../var/info and paths.tags",
        ),
        ('subclusters = ["pps"]\nmirrors = ["http://b"]', "preproduction.mirrors: 'http://b' must begin with ldap://"),
        ('subclusters = ["pps"]\ntags = "/opt/glite/var/info/pps"', "preproduction.tags: /opt/glite/var/info/pps and"),
        ('subclusters = ["pps"]\ntags = "/opt/edg"', "preproduction.tags: /opt/edg and paths.global_tags = "),
        (
            'subclusters = ["pps"]\nglobal_tags = "/opt/edg/var/info"',
            "preproduction.global_tags: /opt/edg/var/info and",
        ),
        (
            'subclusters = ["pps"]\nurl = "http://b"',
            "preproduction.url: 'http://b' must begin with ldap:// or ldaps://",
        ),
        ('subclusters = ["pps"]\nldif = "/g/x.txt"\nservice = "s"', "preproduction.ldif: a BDII reads *.ldif only"),
        ('subclusters = ["pps"]\nldif = "/g/x.ldif"', "preproduction.ldif needs preproduction.service"),
    ],
)
def test_what_would_mix_up_production_and_preproduction_is_refused(tmp_path: Path, lines: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, PREPRODUCTION + f"[preproduction]\n{lines}\n")
    assert found.partition(": ")[2].startswith(fault)


def test_one_server_or_file_for_both_systems_is_refused(tmp_path: Path) -> None:
    both = 'url = "ldap://b"\nmirrors = ["ldap://c"]\nldif = "/g/x.ldif"\nservice = "s"\n'
    text = PREPRODUCTION + f'[infosys]\n{both}[preproduction]\nsubclusters = ["pps"]\n{both}'.replace(
        "/g/x", "/h/../g/x", 1
    )
    assert [fault.partition(": ")[2].partition(":")[0] for fault in faults_of(tmp_path, text)] == [
        "preproduction.ldif",
        "preproduction.url",
        "preproduction.mirrors",
    ]


def test_three_mistakes_in_one_file_and_one_in_conf_d_are_all_named_with_their_lines(tmp_path: Path) -> None:
    text = MINIMAL + '[daemon]\ninterval_s = "often"\n\n[polcy]\nx = 1\n\n[store]\ndrain = 5\n'
    assert faults_of(tmp_path, text, **{"10-site": "# ours\n[infosys]\ntimeout_s = 0\n"}) == [
        "agent.toml:10: unknown section [polcy]; did you mean 'policy'?",
        "agent.toml:14: unknown key 'drain' in [store]; did you mean 'drain_s'?",
        "conf.d/10-site.toml:3: infosys.timeout_s: 0 is less than 1",
        "agent.toml:8: daemon.interval_s: 'often' must be a whole number",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "[store]\nzzz = 1",
            "unknown key 'zzz' in [store]; known: drain_s, keep, kind, max_bytes, max_total_bytes, sync, trees",
        ),
        ("[store]\ndrain_s = true", "store.drain_s: True must be a whole number"),
        ("[store]\ndrain_s = 1.5", "store.drain_s: 1.5 must be a whole number"),
        ("[store]\ndrain_s = -1", "store.drain_s: -1 is less than 0"),
        ("[store]\ndrain_s = 99999999999", "store.drain_s: 99999999999 s is more than ten years"),
        ("[store]\nmax_bytes = 9223372036854775808", "store.max_bytes: 9223372036854775808 is too large"),
        ('[store]\nsync = "maybe"', "store.sync: 'maybe' is not one of auto, syncfs, files"),
        ('[group]\nname = "a/b"', "group.name: group: 'a/b' is not valid: write letters, digits and . _ -"),
        ('[group]\nglibc = "2"', "group.glibc: '2' is not valid: write e.g. '2.34'"),
        ('[group]\narch = "x86 64"', "group.arch: 'x86 64' is not valid: write e.g. 'x86_64'"),
        ('[group]\nos = "el9"', "group.os speaks of other machines, but store.kind is 'local'"),
        ('[store]\ntrees = "/c/{release}"', "store.trees is for store.kind = 'cvmfs', not 'local': leave it out"),
        ("[paths]\nstore = 3", "paths.store: 3 must be text in quotes"),
        ('[paths]\nstore = ""', "paths.store: must not be empty; leave the key out for the default"),
        ('[paths]\nstore = "a\\u0000b"', "paths.store: 'a\\x00b' holds a NUL, which no file name or address may"),
        ('[paths]\nprobes = "x"', "paths.probes: 'x' must be a list, e.g. [\"/etc/x\"]"),
        ("[paths]\nprobes = [1]", "paths.probes: 1 must be text in quotes"),
        ('[policy]\nclasses = ["server"]', "policy.classes: 'server' is not one of client-bc, client-nbc"),
        ('[policy]\nplatforms = ["vax"]', "policy.platforms: platform: 'vax' is not valid: write <arch>-glibc<min>"),
        ('[probes]\nenv = "A=1"', "probes.env: 'A=1' must be a table of texts"),
        ("[probes]\nenv = { A = 1 }", "probes.env: {'A': 1} must be a table of texts"),
        ('[probes]\nenv = { "A-B" = "1" }', "probes.env: 'A-B' is not the name of an environment variable"),
        ('[probes]\nenv = { A = "\\u0000" }', "probes.env: A holds a NUL, which no environment variable may"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(tmp_path: Path, line: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, MINIMAL + line + "\n")
    assert found.startswith(f"agent.toml:8: {fault}")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (
            'kind = "shared"\ndrain_s = 86399',
            "store.drain_s = 86399 is less than 86400: jobs of other hosts are not seen",
        ),
        (
            'kind = "cvmfs"',
            "store.trees = '' must tell releases apart: use {release}, or all of {component}, {version}",
        ),
        ('kind = "cvmfs"\ntrees = "/c/{version}"', "store.trees = '/c/{version}' must tell releases apart"),
        ('kind = "cvmfs"\ntrees = "/c/{relaese}"', "store.trees = '/c/{relaese}' must tell releases apart"),
        (
            'kind = "cvmfs"\ntrees = "/opt/{release}"',
            "paths.store lies in /opt, where store.trees is and the agent never",
        ),
    ],
)
def test_what_does_not_fit_the_stores_kind_is_refused(tmp_path: Path, lines: str, fault: str) -> None:
    assert fault in "\n".join(faults_of(tmp_path, MINIMAL + "[store]\n" + lines + "\n"))


@pytest.mark.parametrize(
    ("kind", "sync", "files"),
    [("local", "auto", False), ("shared", "auto", True), ("shared", "syncfs", False), ("local", "files", True)],
)
def test_files_are_flushed_one_by_one_where_the_store_is_far(kind: str, sync: str, files: bool) -> None:
    assert StoreSettings(kind=kind, sync=sync).syncs_files is files


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ('"x"', "'x' must be a table of texts"),
        ("{ dteam = 1 }", "1 must be text in quotes"),
        ('{ dteam = "a b" }', "'a b' is not valid: write e.g. 'dteamsgm'"),
        ('{ dteam = "" }', "dteam has an empty group: name one, or leave the VO out"),
        ('{ "a/b" = "x" }', "vo: 'a/b' is not valid: write letters, digits and . _ -"),
        ('{ ops = "x" }', "ops is not in site.vos; known: dteam"),
    ],
)
def test_managers_are_groups_of_the_sites_own_vos(tmp_path: Path, value: str, fault: str) -> None:
    (found,) = faults_of(tmp_path, MINIMAL, managers=f"[site]\nmanagers = {value}\n")
    assert found.startswith(f"conf.d/managers.toml:2: site.managers: {fault}")


def test_managers_of_several_files_are_put_together(tmp_path: Path) -> None:
    more = {
        "a": '[site]\nvos = ["dteam", "vo.x-y.eu"]\nmanagers = { dteam = "sgm" }',
        "b": '[site.managers]\n"vo.x-y.eu" = "x"',
    }
    assert load(tmp_path, MINIMAL, **more).settings.site.managers == {"dteam": "sgm", "vo.x-y.eu": "x"}


def test_a_section_that_is_no_table_is_told_apart_from_an_unknown_one(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "store = 3\n" + MINIMAL) == [
        "agent.toml:1: store must be a table: write [store] on a line of its own"
    ]
    assert faults_of(tmp_path, "[[store]]\ndrain_s = 1\n" + MINIMAL)[0].endswith("write [store] on a line of its own")


def test_what_must_be_given_is_named_when_missing_or_empty(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "") == [
        "agent.toml: site.name is missing: site name as the topology source writes it",
        "agent.toml: site.vos is missing: VOs that may be offered previews here",
        "agent.toml: repository.url is missing: address of the static repository",
    ]
    assert faults_of(tmp_path, MINIMAL.replace('["dteam"]', "[]")) == [
        "agent.toml:3: site.vos: must not be empty: VOs that may be offered previews here"
    ]


def test_a_pair_of_values_that_cannot_work_is_refused(tmp_path: Path) -> None:
    text = MINIMAL + "[probes]\nmax_age_s = 1799\n[daemon]\ninterval_s = 900\n"
    (fault,) = faults_of(tmp_path, text)
    assert fault == (
        "agent.toml:8: probes.max_age_s = 1799 is less than twice daemon.interval_s = 900: raise it or lower that one"
    )
    assert load(tmp_path, text.replace("1799", "1800")).settings.probes.max_age_s == 1800


@pytest.mark.parametrize(
    ("section", "url"), [("repository", "ftp://x"), ("collector", "http://x"), ("infosys", "http://x")]
)
def test_an_address_of_the_wrong_kind_is_refused(tmp_path: Path, section: str, url: str) -> None:
    (fault,) = faults_of(tmp_path, MINIMAL, zz=f'[{section}]\nurl = "{url}"\n')
    assert fault.startswith(f"conf.d/zz.toml:2: {section}.url: '{url}' must begin with ")


def test_later_files_win_lists_are_replaced_and_tables_merge(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        MINIMAL + '[probes]\nretry_s = 5\n[probes.env]\nA = "1"\nB = "1"\n',
        **{
            "20-b": '[site]\nvos = ["cms"]\n[probes.env]\nB = "3"\n',
            "10-a": '[site]\nvos = ["atlas", "ops"]\nname = "OTHER"\n[probes.env]\nC = "2"\n',
        },
    )
    assert (loaded.settings.site.vos, loaded.settings.site.name) == (("cms",), "OTHER")
    assert loaded.settings.probes.env == {"A": "1", "B": "3", "C": "2"}
    assert [path.name for path in loaded.files] == ["agent.toml", "10-a.toml", "20-b.toml"]
    assert f"{tmp_path}/conf.d/20-b.toml:2" == loaded.origins["site.vos"]
    assert f"{tmp_path}/conf.d/10-a.toml:3" == loaded.origins["site.name"]


def test_files_of_editors_and_other_names_in_conf_d_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    (tmp_path / "conf.d").mkdir()
    for name in (".#10.toml", ".x.toml.swp", "10.toml~", "README"):
        (tmp_path / "conf.d" / name).write_text("rubbish")
    assert (path,) == load_settings(path).files


def test_relative_paths_start_at_the_settings_file(tmp_path: Path) -> None:
    paths = load(tmp_path, MINIMAL + '[paths]\nstore = "store"\ntags = "/abs"\nprobes = ["p"]\n').settings.paths
    assert (tmp_path / "store", Path("/abs"), (tmp_path / "p",)) == (paths.store, paths.tags, paths.probes)


def test_of_a_file_that_cannot_be_read_nothing_is_called_missing(tmp_path: Path) -> None:
    for name, told in (
        ("none.toml", "No such file or directory; create it or name another with --config"),
        ("directory.toml", "Is a directory; let this account read it or name another with --config"),
    ):
        (tmp_path / "directory.toml").mkdir(exist_ok=True)
        with pytest.raises(ConfigError) as caught:
            load_settings(tmp_path / name)
        assert caught.value.faults == (f"{tmp_path / name}: {told}",)


def test_a_file_that_is_no_toml_is_one_fault_among_the_others(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, MINIMAL, a="x = [", b="[store]\nbad", c="[store]\nsync = 1\n")
    assert [fault.split(":")[0] for fault in faults] == ["conf.d/a.toml", "conf.d/b.toml", "conf.d/c.toml"]
    assert faults[1].startswith("conf.d/b.toml:2: not valid TOML")
    (tmp_path / "conf.d" / "a.toml").write_bytes(b'[site]\nname = "\xff"\n')
    with pytest.raises(ConfigError, match=r"a.toml:2: not valid TOML: not UTF-8"):
        load_settings(tmp_path / "agent.toml")


def test_every_setting_has_a_line_of_help_and_times_and_sizes_name_their_unit() -> None:
    rows = list(describe_fields())
    assert len(rows) > 30
    assert all(field.metadata["help"] for _, field, _ in rows)
    numbers = [field.name for _, field, kind in rows if kind is int]
    counts = {"keep", "heavy", "running", "count", "quorum", "metrics_port"}
    assert all(name.endswith(("_s", "_h", "_bytes")) for name in numbers if name not in counts), numbers
    assert Settings.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "text"), [("mirrors", '["https://a.example.org", "ftp://b"]'), ("proxy", '"squid.example.org:3128"')]
)
def test_a_mirror_or_proxy_that_is_no_address_is_refused(tmp_path: Path, key: str, text: str) -> None:
    (fault,) = faults_of(tmp_path, MINIMAL, zz=f"[repository]\n{key} = {text}")
    assert fault.startswith(f"conf.d/zz.toml:2: repository.{key}: ")
    assert fault.endswith("begin with http:// or https://")


@pytest.mark.parametrize("proxy", ["", "direct", "http://squid.example.org:3128"])
def test_mirrors_and_a_proxy_are_settings(tmp_path: Path, proxy: str) -> None:
    more = f'[repository]\nmirrors = ["http://a.example.org"]\nproxy = "{proxy}"'
    repository = load(tmp_path, zz=more).settings.repository
    assert (("http://a.example.org",), proxy) == (repository.mirrors, repository.proxy)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('textfile = "/var/lib/node-exporter/pps.txt"', "end its name with .prom"),
        ("metrics_port = 70000", "at most 65535"),
    ],
)
def test_what_nobody_could_read_is_refused(tmp_path: Path, line: str, complaint: str) -> None:
    (fault,) = faults_of(tmp_path, MINIMAL, zz=f"[probes]\n{line}")
    assert (fault.startswith("conf.d/zz.toml:2: probes."), fault.endswith(complaint)) == (True, True)
