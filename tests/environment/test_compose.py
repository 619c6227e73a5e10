"""Laying a release over the site's settings: what is kept, what leads, what never passes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.environment.compose import compose, process_environment, production_variables
from pps_agent.environment.values import Captured, Composed
from pps_agent.errors import SiteError
from pps_wire.errors import WireError
from pps_wire.release import Overlay

RELEASE = "grid-clients-6.1.0-x86_64-glibc2.36"
TREE = Path("/opt/pps-preview/releases") / RELEASE / "tree"
OVERLAY = Overlay(
    prepend={"PATH": ("bin", "usr/bin"), "PYTHONPATH": ("lib/python3",)}, assign={"GFAL_CONFIG_DIR": "etc/gfal2.d"}
)
OWN = {"PPS_RELEASE": RELEASE, "PPS_RELEASE_ROOT": str(TREE)}


def composed_of(variables: dict[str, str], overlay: Overlay = OVERLAY) -> Composed:
    return compose(Captured(variables), overlay, TREE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X509_CERT_DIR", "/etc/grid-security/certificates"),
        ("X509_VOMS_DIR", "/etc/grid-security/vomsdir"),
        ("VO_DTEAM_SW_DIR", "/cvmfs/dteam.example.org"),
        ("VO_DTEAM_DEFAULT_SE", "se.example.org"),
        ("MYPROXY_SERVER", "myproxy.example.org"),
        ("LCG_GFAL_INFOSYS", "bdii.example.org:2170,bdii2.example.org:2170"),
        ("BDII_LIST", "bdii.example.org:2170"),
        ("http_proxy", "http://squid.example.org:3128"),
        ("ANYTHING_ELSE", "two\nlines"),
    ],
)
def test_single_values_of_the_site_are_inherited(name: str, value: str) -> None:
    assert composed_of({name: value}).assign[name] == value


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "BASH_ENV",
        "ENV",
        "PROMPT_COMMAND",
        "BASH_FUNC_which%%",
        "IFS",
        "PERL5OPT",
        "GRID_TOKEN",
        "BEARER_TOKEN",
        "MYPASS",
        "DB_PASSWORD",
        "CLIENT_SECRET",
        "X509_USER_PROXY",
        "X509_USER_KEY",
        "SSH_AUTH_SOCK",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "HOME",
        "USER",
        "TERM",
        "PPS_RELEASE",
        "a.b",
        "LOADEDMODULES",
    ],
)
def test_secrets_loader_variables_and_personal_ones_are_not_inherited_and_named(name: str) -> None:
    composed = composed_of({name: "/some/value"})
    assert composed.assign == {**OWN, "GFAL_CONFIG_DIR": f"{TREE}/etc/gfal2.d"}
    assert composed.dropped == (name,)


def test_a_value_that_points_into_a_home_directory_is_one_persons_and_left_out() -> None:
    composed = composed_of({"X509_USER_CERT": "/nonexistent/.globus/usercert.pem", "PATH": "/nonexistent/bin:/opt/x"})
    assert composed.dropped == ("X509_USER_CERT",)
    assert composed.prepend["PATH"][-1] == "/opt/x"
    assert len(composed.prepend["PATH"]) == 3


def test_in_lists_the_release_leads_then_come_the_sites_own_entries() -> None:
    composed = composed_of(
        {"PATH": "/opt/site/bin:/usr/local/bin:/usr/bin:/bin:/opt/site/late", "PERL5LIB": "/opt/perl", "MANPATH": ":"}
    )
    assert composed.prepend == {
        "PATH": (f"{TREE}/bin", f"{TREE}/usr/bin", "/opt/site/bin", "/opt/site/late"),
        "PERL5LIB": ("/opt/perl",),
        "PYTHONPATH": (f"{TREE}/lib/python3",),
    }


def test_entries_that_mean_the_current_directory_are_not_inherited() -> None:
    assert composed_of({"PATH": ".::bin:/opt/x:/o\nx"}).prepend["PATH"][2:] == ("/opt/x",)


def test_a_production_prefix_is_replaced_by_what_the_overlay_assigns() -> None:
    composed = composed_of({"GFAL_CONFIG_DIR": "/etc/gfal2.d", "GFAL_OTHER": "x"})
    assert composed.assign == {"GFAL_CONFIG_DIR": f"{TREE}/etc/gfal2.d", "GFAL_OTHER": "x", **OWN}


@pytest.mark.parametrize(
    "name",
    [
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "BASH_ENV",
        "ENV",
        "PROMPT_COMMAND",
        "X509_CERT_DIR",
        "X509_USER_PROXY",
        "VO_DTEAM_SW_DIR",
        "HTTPS_PROXY",
        "MYPROXY_SERVER",
        "LCG_GFAL_INFOSYS",
        "BDII_LIST",
        "HOME",
        "PPS_RELEASE",
        "MY_TOKEN",
    ],
)
def test_a_release_that_sets_what_is_not_its_own_is_refused(name: str) -> None:
    for overlay in (Overlay(assign={name: "lib"}), Overlay(prepend={name: ("lib",)})):
        with pytest.raises(WireError, match=name):
            composed_of({}, overlay)


def test_a_release_may_not_assign_a_list() -> None:
    with pytest.raises(WireError, match="PATH is a list"):
        composed_of({}, Overlay(assign={"PATH": "bin"}))


@pytest.mark.parametrize("store", ["/opt/a:b", "/opt/a\nb"])
def test_a_store_whose_path_cannot_stand_in_a_list_is_refused(store: str) -> None:
    with pytest.raises(SiteError, match=r"paths\.store"):
        compose(Captured({}), OVERLAY, Path(store) / "releases/r/tree")


def test_a_probe_gets_the_same_variables_over_a_plain_path() -> None:
    assert process_environment(composed_of({"PATH": "/opt/site/bin:/bin", "BDII_LIST": "b:2170"})) == {
        **OWN,
        "BDII_LIST": "b:2170",
        "PPS_INHERITED": "BDII_LIST",
        "GFAL_CONFIG_DIR": f"{TREE}/etc/gfal2.d",
        "PATH": f"{TREE}/bin:{TREE}/usr/bin:/opt/site/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{TREE}/lib/python3",
    }


names = st.one_of(
    st.sampled_from(["PATH", "LD_PRELOAD", "X_TOKEN", "A", "X509_CERT_DIR", "MANPATH"]), st.text(max_size=8)
)
values = st.one_of(st.sampled_from(["/a:/b", "", ":", "/nonexistent/x"]), st.text(max_size=12))


@given(st.dictionaries(names, values, max_size=6))
def test_whatever_the_site_sets_the_release_leads_its_lists_and_nothing_forbidden_passes(site: dict[str, str]) -> None:
    composed = composed_of(site)
    assert composed.prepend["PATH"][:2] == (f"{TREE}/bin", f"{TREE}/usr/bin")
    assert {*composed.assign, *composed.prepend}.isdisjoint({"LD_PRELOAD", "X_TOKEN"})
    assert all(name.isidentifier() for name in {*composed.assign, *composed.prepend})
    assert all(entry.startswith("/") and ":" not in entry for es in composed.prepend.values() for entry in es)
    if site.get("X509_CERT_DIR", "/nonexistent") not in {"/nonexistent", "/nonexistent/x"} and (
        "\0" not in site["X509_CERT_DIR"]
    ):
        assert composed.assign["X509_CERT_DIR"] == site["X509_CERT_DIR"]


def test_the_production_client_keeps_its_libraries_and_gets_no_secret_and_no_shell_code() -> None:
    variables = {
        "LD_LIBRARY_PATH": "/opt/ui/lib",
        "X509_CERT_DIR": "/etc/grid-security/certificates",
        "SITE_TOKEN": "secret",
        "LD_PRELOAD": "/evil.so",
        "BASH_FUNC_ml%%": "() { rm -rf /; }",
        "BASH_ENV": "/x",
        "HOME": "/root",
    }
    seen = production_variables(Captured(variables))
    assert seen == {"LD_LIBRARY_PATH": "/opt/ui/lib", "X509_CERT_DIR": "/etc/grid-security/certificates"}
