"""Lay a release's overlay over what the site sets: pure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pps_agent.environment.values import BASE_PATH, NO_HOME, Captured, Composed
from pps_agent.errors import SiteError
from pps_wire.errors import WireError
from pps_wire.release import Overlay

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# Names that make a program load or run something else; of a release or of a site, they never pass.
_LOADER: Final = re.compile(
    r"(?:LD_.*|DYLD_.*|GCONV_PATH|GLIBC_TUNABLES|BASH_ENV|ENV|BASH_FUNC_.*|PROMPT_COMMAND|SHELLOPTS|BASHOPTS|IFS|PS[0-4]"
    r"|PERL5OPT|PERL5DB|PYTHONSTARTUP|PYTHONHOME|PYTHONINSPECT|RUBYOPT|NODE_OPTIONS|JAVA_TOOL_OPTIONS|TCLLIBPATH|ZDOTDIR)\Z"
)
_SECRET: Final = re.compile(
    r"(?:.*_TOKEN|.*PASS.*|.*SECRET.*|.*CREDENTIAL.*|.*API_?KEY|X509_USER_PROXY|X509_USER_KEY|SSH_.*|KRB5CCNAME)\Z"
)
# What belongs to one shell or one person, and would be wrong in another's.
_PERSONAL: Final = re.compile(
    r"(?:PWD|OLDPWD|SHLVL|_|HOME|USER|LOGNAME|SHELL|MAIL|HOST|HOSTNAME|TERM|DISPLAY|XAUTHORITY|XDG_RUNTIME_DIR"
    r"|XDG_SESSION_.*|DBUS_.*|UID|EUID|PPID|TMOUT|HIST.*|_LMFILES_.*|LOADEDMODULES.*|_MODULETABLE.*|__.*|PPS_.*)\Z"
)
# Trust anchors, services and proxies: the site's word, which no release may change.
_SITE_OWNED: Final = re.compile(
    r"(?:X509_.*|VO_.*|MYPROXY_SERVER|LCG_GFAL_INFOSYS|BDII_LIST|GLITE_SD_.*|.*_PROXY|SSL_CERT_.*|PPS_.*)\Z",
    re.IGNORECASE,
)
_LISTS: Final = frozenset(
    {
        *(
            "ACLOCAL_PATH",
            "CLASSPATH",
            "CPATH",
            "INFOPATH",
            "LIBRARY_PATH",
            "MANPATH",
            "MODULEPATH",
            "PATH",
            "PERL5LIB",
        ),
        *("PERLLIB", "PKG_CONFIG_PATH", "PYTHONPATH", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS"),
    }
)


def compose(captured: Captured, overlay: Overlay, tree: Path) -> Composed:
    """Give the environment of the release whose files lie in ``tree`` (``<store>/releases/<id>/tree``).

    The site's single values stay, except those the overlay assigns (a production prefix such as
    GFAL_CONFIG_DIR); in lists the release's entries lead, then come the site's. Secrets, loader
    variables and what belongs to one person are left out and named in ``dropped``.
    Raises: WireError when the overlay sets what no release may set (loader variables, secrets, the
    site's own such as X509_CERT_DIR); SiteError when the store's path cannot stand in a list.
    """
    _check_overlay(overlay)
    if ":" in str(tree) or not _is_plain(str(tree)):
        raise SiteError(f"{tree!s}: a path with ':' or control characters cannot stand in PATH; move paths.store")
    lists = _LISTS | overlay.prepend.keys()
    assign: dict[str, str] = {}
    site_lists: dict[str, tuple[str, ...]] = {}
    dropped = []
    for name, value in sorted(captured.variables.items()):
        if not _is_inheritable(name, value, is_list=name in lists):
            dropped.append(name)
        elif name in overlay.assign:
            continue
        elif name in lists:
            site_lists[name] = _site_entries(name, value)
        else:
            assign[name] = value
    assign |= {name: str(tree / path) for name, path in overlay.assign.items()}
    assign |= {"PPS_RELEASE": tree.parent.name, "PPS_RELEASE_ROOT": str(tree)}
    own = {name: tuple(str(tree / path) for path in paths) for name, paths in overlay.prepend.items()}
    joined = {
        name: tuple(dict.fromkeys([*own.get(name, ()), *site_lists.get(name, ())]))
        for name in sorted({*own, *site_lists})
    }
    prepend = {name: entries for name, entries in joined.items() if entries}
    inherited = tuple(name for name in sorted(captured.variables) if name in assign and name not in overlay.assign)
    return Composed(tree.parent.name, tree, dict(sorted(assign.items())), prepend, tuple(dropped), inherited)


def process_environment(composed: Composed) -> dict[str, str]:
    """Give the whole environment for a probe: the composed one over nothing but a plain PATH."""
    variables = dict(composed.assign)
    for name, entries in composed.prepend.items():
        variables[name] = ":".join(entries)
    path = (*composed.prepend.get("PATH", ()), *BASE_PATH)
    variables["PATH"] = ":".join(dict.fromkeys(path))
    variables["PPS_INHERITED"] = " ".join(composed.inherited)
    return variables


def extend_environment(environment: Mapping[str, str], composed: Composed) -> dict[str, str]:
    """Give a process's own environment with the release in front, as sourcing ``env.sh`` in it does."""
    lists = {
        name: ":".join([*entries, *(item for item in _items(environment.get(name, "")) if item not in entries)])
        for name, entries in composed.prepend.items()
    }
    return {**environment, **composed.assign, **lists}


def _items(value: str) -> list[str]:
    return value.split(":") if value else []


def _check_overlay(overlay: Overlay) -> None:
    for name in (*overlay.prepend, *overlay.assign):
        if _LOADER.match(name) or _SECRET.match(name) or _PERSONAL.match(name):
            raise WireError("environment", f"a release may not set {name}: ask its publisher to take it out")
        if _SITE_OWNED.match(name):
            raise WireError("environment", f"{name} belongs to the site: ask the publisher not to set it")
    for name in overlay.assign:
        if name in overlay.prepend or name in _LISTS:
            raise WireError("environment", f"{name} is a list: the publisher must prepend to it, not assign it")


def production_variables(captured: Captured) -> dict[str, str]:
    """Give the environment of the production client as probes may have it: the site's, without secrets and shell code.

    LD_LIBRARY_PATH stays: it is how many sites' own clients find their libraries.
    """
    return {name: value for name, value in captured.variables.items() if _is_productions(name, value)}


def _is_productions(name: str, value: str) -> bool:
    if _NAME.match(name) is None or "\0" in value or _SECRET.match(name.upper()) or _PERSONAL.match(name.upper()):
        return False
    return name == "LD_LIBRARY_PATH" or _LOADER.match(name.upper()) is None


def _is_inheritable(name: str, value: str, *, is_list: bool) -> bool:
    if _NAME.match(name) is None or "\0" in value:
        return False
    if any(pattern.match(name.upper()) for pattern in (_LOADER, _SECRET, _PERSONAL)):
        return False
    return is_list or not _mentions_home(value)


def _site_entries(name: str, value: str) -> tuple[str, ...]:
    """Give the entries the site added. Empty and relative ones would mean "where the job stands"; they go."""
    base = BASE_PATH if name == "PATH" else ()
    entries = (entry for entry in value.split(":") if entry not in base)
    return tuple(entry for entry in entries if entry.startswith("/") and _is_plain(entry) and not _mentions_home(entry))


def _mentions_home(text: str) -> bool:
    return NO_HOME in text


def _is_plain(text: str) -> bool:
    return not any(character < " " or character == "\x7f" for character in text)
