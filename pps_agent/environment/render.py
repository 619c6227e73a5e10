"""Write a composed environment for shells, modules, ARC jobs and containers: pure text.

One quoting function for each syntax.
"""

from collections.abc import Callable, Mapping
from typing import Final

from pps_agent.environment.values import Composed
from pps_agent.errors import SiteError

# Puts $2 at the head of the colon-separated list named $1, and takes it out of the rest of it.
_LEAD: Final = """\
__pps_lead() {
    eval "__pps_rest=\\${$1-}"
    __pps_list=$2
    if [ -n "$__pps_rest" ]; then
        __pps_rest=$__pps_rest:
        while [ -n "$__pps_rest" ]; do
            __pps_item=${__pps_rest%%:*}
            __pps_rest=${__pps_rest#*:}
            if [ "$__pps_item" != "$2" ]; then __pps_list=$__pps_list:$__pps_item; fi
        done
    fi
    export "$1=$__pps_list"
}
"""

# Directories a container needs besides the tree: without trust anchors no service can be checked.
_BOUND: Final = ("X509_CERT_DIR", "X509_VOMS_DIR", "X509_VOMSES")
_BIND: Final = """\
__pps_bind={bind}
case ",${{APPTAINER_BINDPATH-}}," in
    *",$__pps_bind,"*) ;;
    *) export APPTAINER_BINDPATH="$__pps_bind${{APPTAINER_BINDPATH:+,$APPTAINER_BINDPATH}}" ;;
esac
"""


def render_sh(composed: Composed) -> str:
    """Give ``env.sh`` for sh, dash, bash, ksh and zsh. Sourcing it twice is the same as once.

    It runs no program and leaves nothing behind but the variables.
    """
    return f"# Written by pps-agent; source it, sh and its kin. Changes are lost.\n{_sh_body(composed)}"


def _sh_body(composed: Composed) -> str:
    assignments = "".join(f"export {name}={quote_sh(value)}\n" for name, value in composed.assign.items())
    leads = "".join(_leads(composed, name) for name in composed.prepend)
    lists = f"{_LEAD}{leads}unset -f __pps_lead\nunset __pps_rest __pps_list __pps_item\n" if leads else ""
    return assignments + lists


def render_csh(composed: Composed) -> str:
    """Give ``env.csh`` for csh and tcsh. Sourcing it twice is the same as once.

    csh cannot take a list apart without tripping over blanks and patterns, so /bin/sh does it with
    the very code of ``env.sh``, which it reads from a variable: nothing needs quoting twice.
    """
    lines = ["# Written by pps-agent; source it, csh and tcsh. Changes are lost.\n"]
    lines += [f"setenv {name} {quote_csh(value)}\n" for name, value in composed.assign.items()]
    for name in composed.prepend:
        code = f"{_LEAD}{_leads(composed, name)}printenv {name}\n"
        lines.append(f"setenv __PPS_LEAD {quote_csh(code)}\n")
        lines.append(f'setenv {name} "`/usr/bin/printenv __PPS_LEAD | /bin/sh`"\n')
    if composed.prepend:
        lines.append("unsetenv __PPS_LEAD\n")
    return "".join(lines)


def render_modulefile(composed: Composed) -> str:
    """Give a Tcl modulefile for environment-modules and Lmod.

    Single values are set by ``pushenv`` where there is one (environment-modules 5.1, Lmod), so that
    unloading gives the site's own values back; an older ``setenv`` unsets them. A value that is not
    printable ASCII is left out: environment-modules 5.2 writes a line break unquoted, so that the shell
    would run the second line, Lmod 8.6 refuses the whole module for a control character, and other
    characters arrive spoilt wherever the locale is not UTF-8. Known fault of Debian 12's Lmod 8.6.19
    with any Tcl modulefile: unloading leaves pushed values.
    """
    lines = [
        "#%Module1.0\n",
        f"module-whatis {quote_tcl('preview ' + composed.release)}\n",
        "if {[llength [info commands pushenv]]} { set pps_set pushenv } else { set pps_set setenv }\n",
    ]
    lines += [
        f"$pps_set {name} {quote_tcl(value)}\n"
        for name, value in composed.assign.items()
        if value.isascii() and value.isprintable()
    ]
    lines += [
        f"prepend-path {name} {quote_tcl(entry)}\n"
        for name, entries in composed.prepend.items()
        for entry in reversed(entries)
    ]
    return "".join(lines)


def render_rte(composed: Composed) -> str:
    """Give an ARC runtime environment script. It acts in stage 1, on the node before the job, and in no other.

    Source: ARC RunTimeEnvironment interface (stage 0 at submission, 1 before, 2 after the job).
    """
    return (
        f"# description: preview {composed.release}\n"
        "# Written by pps-agent. Changes are lost.\n"
        f'if [ "x$1" = "x1" ]; then\n{_sh_body(composed)}fi\n'
    )


def render_apptainer(composed: Composed) -> str:
    """Give sh text to be evaluated before ``apptainer exec``: binds the tree, and trust anchors, read-only.

    Inside, the release's entries lead PATH; other lists are set to the release's and the site's.
    Evaluating it twice is the same as once. Raises: SiteError for a path that cannot be bound.
    Source: Apptainer user guide, "Environment and Metadata" and "Bind Paths and Mounts".
    """
    anchors = (composed.assign.get(name, "") for name in _BOUND)
    paths = dict.fromkeys([str(composed.tree), *(path for path in anchors if path.startswith("/"))])
    lines = ["# Written by pps-agent; evaluate it, then run: apptainer exec IMAGE COMMAND\n"]
    for path in paths:
        if "," in path or ":" in path:
            raise SiteError(f"{path}: a path with ',' or ':' cannot be bound into a container; move it")
        lines.append(_BIND.format(bind=quote_sh(f"{path}:{path}:ro")))
    lines.append("unset __pps_bind\n")
    lines += [f"export APPTAINERENV_{name}={quote_sh(value)}\n" for name, value in composed.assign.items()]
    for name, entries in composed.prepend.items():
        variable = "PREPEND_PATH" if name == "PATH" else name
        lines.append(f"export APPTAINERENV_{variable}={quote_sh(':'.join(entries))}\n")
    return "".join(lines)


RENDERERS: Final[Mapping[str, Callable[[Composed], str]]] = {
    "sh": render_sh,
    "csh": render_csh,
    "modulefile": render_modulefile,
    "rte": render_rte,
    "apptainer": render_apptainer,
}
"""What ``release env --shell`` can give."""


def quote_sh(text: str) -> str:
    """Quote any text without NUL as one word for POSIX shells and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


def quote_csh(text: str) -> str:
    """Quote any text without NUL as one word for csh and tcsh, where ``!`` and newline act even in quotes."""
    # Outside quotes a backslash takes the meaning from the next character, but would turn a newline into a blank.
    quoted = "".join("'\\" + c + "'" if c in "'!\\" else "\\\n" if c == "\n" else c for c in text)
    return f"'{quoted}'"


def quote_tcl(text: str) -> str:
    """Quote any text without NUL as one word for Tcl."""
    return '"' + "".join(_tcl_character(c) for c in text) + '"'


def _tcl_character(c: str) -> str:
    if c.isalnum() or c in "/._-:=+@%," or not c.isascii():
        return c
    # Octal, since Tcl's \\x swallows any number of hex digits.
    return f"\\{ord(c):03o}" if c < " " or c == "\x7f" else "\\" + c


def _leads(composed: Composed, name: str) -> str:
    return "".join(f"__pps_lead {name} {quote_sh(entry)}\n" for entry in reversed(composed.prepend[name]))
