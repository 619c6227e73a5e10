"""An ARC computing element (A-REX, fork) in a network namespace of its own, with a CA, a user and a proxy."""

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.namespaces import end_namespace
from tests.support.services import need

PROGRAMS = ("arcsub", "arcstat", "arcget", "arckill", "arcclean", "arcproxy", "openssl", "nsenter", "unshare")
COMMANDS = ("arcsub", "arcstat", "arcget", "arckill", "arcclean", "arcinfo", "arcctl")
ENDPOINT = "https://localhost:21940/arex"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_CONFIG = """
[common]
hostname = localhost
x509_host_key = {base}/ca/hostkey.pem
x509_host_cert = {base}/ca/hostcert.pem
x509_cert_dir = {base}/ca/certificates
[authgroup:zero]
subject = /DC=test/DC=pps/CN=probe
[mapping]
map_to_user = zero nobody:nogroup
[lrms]
lrms = fork
[arex]
controldir = {base}/ctl
sessiondir = {base}/sess
runtimedir = {base}/rte
logfile = {base}/log/arex.log
pidfile = {base}/run/arex.pid
delegationdb = sqlite
wakeupperiod = 1
infoproviders_timelimit = 60
[arex/cache]
cachedir = {base}/cache
[arex/ws]
wsurl = {endpoint}
logfile = {base}/log/ws.log
pidfile = {base}/run/ws.pid
[arex/ws/jobs]
allowaccess = zero
[infosys]
logfile = {base}/log/infoprovider.log
[infosys/glue2]
[infosys/cluster]
[queue:fork]
"""
# A-REX renews what it tells of jobs once a minute; the same program, called more often, makes the tests short.
_INSIDE = """
ip link set lo up
export ARC_CONFIG={base}/arc.conf HOME={base}/home PATH={path}
/usr/share/arc/arc-arex-start > {base}/log/start.out 2>&1 < /dev/null &
/usr/share/arc/arc-arex-ws-start > {base}/log/ws-start.out 2>&1 < /dev/null &
cd {base}
while sleep 1; do
    [ -e run/arex.cfg ] || continue
    /usr/share/arc/CEinfo.pl --splitjobs --config $PWD/run/arex.cfg > ctl/info.xml.next 2>> log/ceinfo.out \\
        && mv ctl/info.xml.next ctl/info.xml
done
"""


@dataclass
class ComputingElement:
    """A running A-REX. ``env`` is what reaches it with the commands of ARC; ``runtime`` holds RTE scripts."""

    base: Path
    work: Path
    env: dict[str, str]
    inside: "subprocess.Popen[bytes]"

    @property
    def runtime(self) -> Path:
        """Where runtime environments lie."""
        return self.base / "rte"

    def command(self, *argv: str) -> str:
        """Run one of ARC's commands in the namespace and give what it printed."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def jobs(self) -> list[str]:
        """Give the jobs whose session directories are still there."""
        return sorted(path.name for path in (self.base / "sess").glob("*") if path.is_dir())

    def lasting_jobs(self, besides: Collection[str]) -> list[str]:
        """Give the jobs that stay, besides these: those removed go at A-REX's next pass, which is waited for."""
        for _ in range(120):
            if set(self.jobs()) <= set(besides):
                break
            select.select([], [], [], 1.0)
        return sorted(set(self.jobs()) - set(besides))

    def logs(self) -> str:
        """Give the ends of what the daemons wrote."""
        paths = sorted(path for path in (self.base / "log").glob("*") if path.is_file())
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in paths)


def make_credentials(base: Path) -> None:
    """Make a CA, a host certificate for localhost, and a user ``/DC=test/DC=pps/CN=probe``."""
    ca = base / "ca"
    certificates = ca / "certificates"
    certificates.mkdir(parents=True)

    def openssl(*arguments: str | Path) -> str:
        done = subprocess.run(["openssl", *arguments], cwd=ca, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout.strip()

    usage = "keyUsage=critical,keyCertSign,cRLSign"
    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "cakey.pem", "-out", "cacert.pem", "-days", "30", "-subj",
            "/DC=test/DC=pps/CN=Lab CA", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", usage)  # fmt: skip
    for name, subject, extension in (
        ("host", "/DC=test/DC=pps/CN=localhost", "subjectAltName=DNS:localhost"),
        ("user", "/DC=test/DC=pps/CN=probe", "keyUsage=critical,digitalSignature,keyEncipherment"),
    ):
        openssl("req", *new, "-keyout", f"{name}key.pem", "-out", f"{name}.csr", "-subj", subject)
        (ca / f"{name}.ext").write_text(f"{extension}\nbasicConstraints=critical,CA:FALSE\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "cacert.pem", "-CAkey", "cakey.pem", "-CAcreateserial",
                "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}cert.pem")  # fmt: skip
        (ca / f"{name}key.pem").chmod(0o400)
    mark = openssl("x509", "-in", "cacert.pem", "-noout", "-hash")
    shutil.copy(ca / "cacert.pem", certificates / f"{mark}.0")
    (certificates / f"{mark}.signing_policy").write_text(
        "access_id_CA X509 '/DC=test/DC=pps/CN=Lab CA'\npos_rights globus CA:sign\n"
        "cond_subjects globus '\"/DC=test/DC=pps/*\"'\n"
    )


@contextlib.contextmanager
def run_arex() -> Iterator[ComputingElement]:
    """Give a computing element for as long as the context lasts."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    missing += [
        name for name in ("/usr/share/arc/arc-arex-start", "/usr/share/arc/CEinfo.pl") if not Path(name).exists()
    ]
    need(f"{', '.join(missing)}: install nordugrid-arc-arex and nordugrid-arc-client" if missing else "")
    need("" if os.geteuid() == 0 else "a network namespace and mapped accounts need root")
    base = Path(tempfile.mkdtemp(prefix="pps-arex-"))
    base.chmod(0o755)
    for name in ("run", "log", "ctl", "sess", "rte", "cache", "home", "bin", "work"):
        (base / name).mkdir(0o755)
    make_credentials(base)
    proxy = base / "proxy.pem"
    make = [
        "arcproxy",
        "-C",
        f"{base}/ca/usercert.pem",
        "-K",
        f"{base}/ca/userkey.pem",
        "-T",
        f"{base}/ca/certificates",
    ]
    subprocess.run(
        [*make, "-P", proxy, "-c", "validityPeriod=12h"],
        check=True,
        capture_output=True,
        env={"HOME": str(base / "home"), "PATH": _PATH},
    )
    (base / "arc.conf").write_text(_CONFIG.format(base=base, endpoint=ENDPOINT))
    script = _INSIDE.format(base=base, path=_PATH)
    inside = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "/bin/sh",
            "-c",
            script,
        ],
        env={"PATH": _PATH},
    )
    env = {"PATH": f"{base}/bin:{_PATH}", "X509_CERT_DIR": f"{base}/ca/certificates", "X509_USER_PROXY": str(proxy)}
    element = ComputingElement(base, base / "work", env | {"HOME": str(base / "home")}, inside)
    try:
        _write_commands(base, inside.pid)
        _wait_ready(element)
        yield element
    finally:
        end_namespace(inside)
        shutil.rmtree(base)


def _write_commands(base: Path, outer: int) -> None:
    """Write scripts that run ARC's commands in the network namespace."""
    for name in COMMANDS:
        script = base / "bin" / name
        script.write_text(f'#!/bin/sh\nexec nsenter --target {outer} --net /usr/bin/{name} "$@"\n')
        script.chmod(0o755)


def _wait_ready(element: ComputingElement) -> None:
    info = element.base / "ctl" / "info.xml"
    for _ in range(900):
        select.select([], [], [], 0.1)
        assert element.inside.poll() is None, element.logs()
        if not info.exists() or not (element.base / "run" / "ws.pid").exists():
            continue
        command = ["arcinfo", "-c", ENDPOINT, "-I", "org.nordugrid.arcrest"]
        done = subprocess.run(command, env=element.env, capture_output=True, text=True, check=False)
        if "(production)" in done.stdout:
            return
    raise AssertionError(f"not ready: {done.stdout} {done.stderr} {element.logs()}")
