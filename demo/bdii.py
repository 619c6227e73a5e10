"""A real information system on loopback: slapd with the GLUE schemas, and bdii-update filling it.

Needs Debian's packages slapd, ldap-utils, bdii and glue-schema, and no privileges: all files lie in
one directory, the port is a free one. bdii-update reads a static LDIF with the site's subclusters
and runs one plugin (GLUE 1) and perhaps one provider (GLUE 2), as it does on a site's head.
"""

import contextlib
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

BASE: Final = "o=grid"
GLUE2_BASE: Final = "o=glue"
_RESOURCE: Final = "mds-vo-name=resource,o=grid"
_SYSTEM_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
SCHEMAS: Final = (
    "/etc/ldap/schema/core.schema",
    "/etc/ldap/schema/cosine.schema",
    "/etc/ldap/schema/nis.schema",
    "/etc/bdii/BDII.schema",
    "/etc/ldap/schema/Glue-CORE.schema",
    "/etc/ldap/schema/Glue-MDS.schema",
    "/etc/ldap/schema/Glue-CE.schema",
    "/etc/ldap/schema/Glue-CESEBind.schema",
    "/etc/ldap/schema/Glue-SE.schema",
    "/etc/ldap/schema/GLUE20.schema",
)
_CLIENTS: Final = ("ldapadd", "ldapdelete", "ldapmodify", "ldapsearch")
_POLL_S: Final = 0.1


class BdiiError(Exception):
    """The information system did not start; the message names the log to read."""


def missing_packages() -> tuple[str, ...]:
    """Name the Debian packages that ``start_bdii`` would miss on this machine."""
    needed = {
        "slapd": _program("slapd") and Path("/usr/lib/ldap").is_dir(),
        "ldap-utils": all(_program(name) for name in _CLIENTS),
        "bdii": _program("bdii-update") and Path("/etc/bdii/BDII.schema").is_file(),
        "glue-schema": all(Path(name).is_file() for name in SCHEMAS if "Glue" in name),
    }
    return tuple(package for package, found in needed.items() if not found)


class BdiiServer:
    """A running information system; also a context manager that stops it. ``pids`` are its two processes."""

    def __init__(self, url: str, slapd: "subprocess.Popen[bytes]", updater_pid: int) -> None:
        self.url = url
        self.base = BASE
        self.pids = (slapd.pid, updater_pid)
        self._slapd = slapd
        # A descriptor, since the daemon is no child of ours and its number could be given to another.
        self._updater: int | None = os.pidfd_open(updater_pid)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End both processes and wait for them; a second call does nothing."""
        if self._updater is not None:
            _end_by_descriptor(self._updater, timeout_s)
            os.close(self._updater)
            self._updater = None
        _end_child(self._slapd, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_bdii(
    directory: Path,
    site_name: str,
    subclusters: Sequence[str],
    plugin_argv: Sequence[str],
    *,
    provider_argv: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    glue2: bool = True,
    breathe_s: float = 0.5,
    read_timeout_s: int = 10,
    wait_s: float = 60.0,
) -> BdiiServer:
    """Start both programs in ``directory`` and wait until the subclusters can be seen.

    ``plugin_argv`` is run in every cycle, with ``env`` added to a minimal environment; what it prints
    is merged into the entries. ``provider_argv`` prints entries of its own; ``glue2`` says whether there is what they
    hang on. ``breathe_s`` is the pause
    between cycles (sites use 120). An old directory of a stopped server may be used again. Raises:
    BdiiError, OSError.
    """
    missing = missing_packages()
    if missing:
        raise BdiiError(f"missing: apt-get install {' '.join(missing)}")
    directory = directory.resolve()
    if re.fullmatch(r"[A-Za-z0-9/._+-]+", str(directory)) is None:
        raise BdiiError(f"{directory}: bdii-update takes no path with blanks or special characters; use another one")
    password = secrets.token_hex(16)
    scripts = {"plugin/pps-tags": plugin_argv, "provider/pps-tags": provider_argv}
    static = render_static_ldif(site_name, subclusters)
    static += render_static_glue2(site_name, subclusters) if glue2 else ""
    _lay_out(directory, static, scripts, env or {}, password)
    slapd, port = _start_slapd(directory)
    url = f"ldap://127.0.0.1:{port}"
    server = None
    try:
        _write_bdii_conf(directory, port, breathe_s, read_timeout_s)
        server = BdiiServer(url, slapd, _start_updater(directory))
        for subcluster in subclusters:
            _wait_until_seen(url, subcluster, directory, wait_s)
    except BaseException:
        if server is None:
            _end_child(slapd, 10.0)
        else:
            server.stop()
        raise
    return server


def render_static_ldif(site_name: str, subclusters: Sequence[str]) -> str:
    """Give the entries a site's own configuration makes: one cluster with one subcluster of the same name each."""
    entries = [
        f"dn: {BASE}\nobjectClass: organization\no: grid\n",
        f"dn: {_RESOURCE}\nobjectClass: MDS\nmds-vo-name: resource\n",
    ]
    version = "objectClass: GlueSchemaVersion\nGlueSchemaVersionMajor: 1\nGlueSchemaVersionMinor: 3\n"
    for name in subclusters:
        cluster = f"GlueClusterUniqueID={name}"
        entries.append(
            f"dn: {cluster},{_RESOURCE}\n"
            "objectClass: GlueClusterTop\nobjectClass: GlueCluster\nobjectClass: GlueKey\n"
            f"{version}GlueClusterUniqueID: {name}\nGlueClusterName: {name}\n"
            f"GlueForeignKey: GlueSiteUniqueID={site_name}\n"
        )
        entries.append(
            f"dn: GlueSubClusterUniqueID={name},{cluster},{_RESOURCE}\n"
            "objectClass: GlueClusterTop\nobjectClass: GlueSubCluster\nobjectClass: GlueKey\n"
            "objectClass: GlueHostApplicationSoftware\n"
            f"{version}GlueSubClusterUniqueID: {name}\nGlueSubClusterName: {name}\nGlueChunkKey: {cluster}\n"
            "GlueHostApplicationSoftwareRunTimeEnvironment: GLITE-3_2_0\n"
        )
    return "\n".join(entries) + "\n"


def render_static_glue2(site_name: str, subclusters: Sequence[str]) -> str:
    """Give what GLUE 2's ApplicationEnvironments hang below: one service, and a resource for each subcluster."""
    return "\n".join(_glue2_entries(site_name, subclusters)) + "\n"


def _glue2_entries(site_name: str, subclusters: Sequence[str]) -> Iterator[str]:
    service = f"{site_name}-compute"
    group = f"GLUE2GroupID=resource,{GLUE2_BASE}"
    entity = "objectClass: GLUE2Entity\n"
    yield f"dn: {GLUE2_BASE}\nobjectClass: organization\no: glue\n"
    yield f"dn: {group}\nobjectClass: GLUE2Group\nGLUE2GroupID: resource\n"
    yield (
        f"dn: GLUE2ServiceID={service},{group}\n{entity}objectClass: GLUE2Service\n"
        f"objectClass: GLUE2ComputingService\nGLUE2ServiceID: {service}\nGLUE2ServiceType: org.pps.demo\n"
        "GLUE2ServiceQualityLevel: pre-production\nGLUE2ServiceAdminDomainForeignKey: " + site_name + "\n"
    )
    for name in subclusters:
        yield (
            f"dn: GLUE2ResourceID={name},GLUE2ServiceID={service},{group}\n{entity}"
            "objectClass: GLUE2Resource\nobjectClass: GLUE2ExecutionEnvironment\n"
            f"GLUE2ResourceID: {name}\nGLUE2ResourceManagerForeignKey: {service}_Manager\n"
            "GLUE2ExecutionEnvironmentPlatform: amd64\nGLUE2ExecutionEnvironmentMainMemorySize: 2048\n"
            "GLUE2ExecutionEnvironmentOSFamily: linux\nGLUE2ExecutionEnvironmentConnectivityIn: TRUE\n"
            "GLUE2ExecutionEnvironmentConnectivityOut: TRUE\n"
            f"GLUE2ExecutionEnvironmentComputingManagerForeignKey: {service}_Manager\n"
        )


def _lay_out(
    directory: Path,
    static: str,
    scripts: Mapping[str, Sequence[str]],
    env: Mapping[str, str],
    password: str,
) -> None:
    for name in ("run", "db", "archive", "shim", "ldif", "provider", "plugin"):
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir(parents=True)
    (directory / "old.ldif").unlink(missing_ok=True)
    (directory / "ldif" / "static.ldif").write_text(static)
    assignments = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    for name, argv in scripts.items():
        if argv:
            text = f"#!/bin/sh\nexport PATH={_SYSTEM_PATH}\n{assignments}exec {shlex.join(argv)}\n"
            _write_script(directory / name, text)
    for name in _CLIENTS if _needs_shim() else ():
        _write_script(directory / "shim" / name, _shim(name))
    for database in ("grid", "glue", "infosys"):
        (directory / "db" / database).mkdir()
    conf = directory / "slapd.conf"
    conf.touch(mode=0o600)
    conf.write_text(_slapd_conf(directory, password))


def _needs_shim() -> bool:
    """Tell whether bdii-update passes -h and -p, as Debian 12's 6.0.0 does; its ldap-utils 2.5 take only -H."""
    return b"ldapadd -d 256 -x -c -h " in Path(_program("bdii-update")).read_bytes()


def _shim(name: str) -> str:
    return f"""#!/bin/sh
host= port= left=$#
while [ "$left" -gt 0 ]; do
    case $1 in
        -h) host=$2; shift 2; left=$((left - 2)) ;;
        -p) port=$2; shift 2; left=$((left - 2)) ;;
        *) set -- "$@" "$1"; shift; left=$((left - 1)) ;;
    esac
done
exec {_program(name)} ${{host:+-H "ldap://$host:$port"}} "$@"
"""


def _slapd_conf(directory: Path, password: str) -> str:
    includes = "".join(f"include {name}\n" for name in SCHEMAS)
    databases = "".join(
        f'\ndatabase mdb\nsuffix "{suffix}"\ndbnosync\nrootdn "{suffix}"\nrootpw {password}\n'
        f"directory {directory}/db/{name}\nindex objectClass eq\n"
        for suffix, name in ((BASE, "grid"), (GLUE2_BASE, "glue"), ("o=infosys", "infosys"))
    )
    return (
        f"{includes}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {directory}/run/slapd.pid\n"
        f"argsfile {directory}/run/slapd.args\nloglevel 0\nsizelimit unlimited\n{databases}"
    )


def _write_bdii_conf(directory: Path, port: int, breathe_s: float, read_timeout_s: int) -> None:
    values = {
        "LOG_FILE": directory / "bdii-update.log",
        "PID_FILE": directory / "run" / "bdii-update.pid",
        "RUN_DIR": directory / "run",
        "LOG_LEVEL": "ERROR",
        "LDIF_DIR": directory / "ldif",
        "PROVIDER_DIR": directory / "provider",
        "PLUGIN_DIR": directory / "plugin",
        "HOSTNAME": "127.0.0.1",
        "PORT": port,
        "BREATHE_TIME": breathe_s,
        "READ_TIMEOUT": read_timeout_s,
        "ARCHIVE_SIZE": 0,
        "DELETE_DELAY": 0,
        "VAR_DIR": directory,
    }
    lines = [f"BDII_{name}={value}\n" for name, value in values.items()]
    (directory / "bdii.conf").write_text("".join([*lines, f"SLAPD_CONF={directory}/slapd.conf\n"]))


def _start_slapd(directory: Path) -> tuple["subprocess.Popen[bytes]", int]:
    program = _program("slapd")
    log = directory / "slapd.log"
    for _ in range(5):  # somebody else may take the free port before slapd does
        port = _free_port()
        argv = [program, "-d", "0", "-f", str(directory / "slapd.conf"), "-h", f"ldap://127.0.0.1:{port}"]
        with log.open("wb") as stream:
            slapd = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        if _is_listening(slapd, port):
            return slapd, port
        _end_child(slapd, 5.0)
    raise BdiiError(f"slapd does not start: read {log}, or run `{shlex.join(argv)}`")


def _is_listening(slapd: "subprocess.Popen[bytes]", port: int) -> bool:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            slapd.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        else:
            return False
    return False


def _start_updater(directory: Path) -> int:
    """Start the daemon and give its pid. It leaves our session and becomes nobody's child."""
    environment = {"PATH": f"{directory}/shim:{_SYSTEM_PATH}", "LC_ALL": "C.UTF-8"}
    argv = [_program("bdii-update"), "-d", "-c", str(directory / "bdii.conf")]
    done = subprocess.run(
        argv, env=environment, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30
    )
    if done.returncode != 0:
        raise BdiiError(f"bdii-update refuses: {done.stderr.decode(errors='replace').strip()}")
    pid_file = directory / "run" / "bdii-update.pid"
    deadline = time.monotonic() + 10.0
    pause = threading.Event()
    while time.monotonic() < deadline:
        text = pid_file.read_text() if pid_file.exists() else ""
        if text.endswith("\n"):
            return int(text)
        pause.wait(_POLL_S)
    raise BdiiError(f"bdii-update wrote no {pid_file}: read {directory}/bdii-update.log")


def _wait_until_seen(url: str, subcluster: str, directory: Path, wait_s: float) -> None:
    argv = [_program("ldapsearch"), "-LLL", "-x", "-H", url, "-b", BASE, f"(GlueSubClusterUniqueID={subcluster})", "dn"]
    deadline = time.monotonic() + wait_s
    pause = threading.Event()
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            found = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=10)
            if found.stdout.startswith(b"dn:"):
                return
        pause.wait(_POLL_S)
    raise BdiiError(f"{subcluster} is not published after {wait_s:g} s: read {directory}/bdii-update.log")


def _end_by_descriptor(descriptor: int, timeout_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        if select.select([descriptor], [], [], timeout_s)[0]:
            return


def _end_child(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _program(name: str) -> str:
    """Give the full path of a program; system directories are searched though an ordinary user's PATH may lack them."""
    return shutil.which(name, path=_SYSTEM_PATH) or ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
