"""Real storage servers in a network of their own: xrootd with TLS and https, and a GridFTP server.

Each serves three directories: ``probe`` may be written, ``locked`` may not, and ``full`` has 64 KiB in all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.xrootd import missing_reason as xrootd_missing_reason
from tests.support.lab_ca import Credential, LabCa
from tests.support.netns import LoopbackNetwork
from tests.support.servers import give_to, listens, running

_MOUNT_FULL = 'mount -t tmpfs -o size=64k,mode=777 tmpfs "$1" && shift && exec "$@"'
_XROOTD = """\
xrd.port {port}
xrd.network nodnr
xrd.tls {keys}/host.cert.pem {keys}/host.key.pem
xrd.tlsca certdir {anchors}
xrootd.tls capable all
all.export /probe
all.export /locked r/o
all.export /full
oss.localroot {home}/data
all.adminpath {home}/admin
all.pidpath {home}/run
xrootd.chksum adler32
if exec xrootd
xrd.protocol http:{http_port} libXrdHttp.so
http.desthttps no
http.cadir {anchors}
http.cert {keys}/host.cert.pem
http.key {keys}/host.key.pem
fi
"""
_GSI = """\
xrootd.seclib libXrdSec.so
sec.protocol gsi -certdir:{anchors} -cert:{keys}/host.cert.pem -key:{keys}/host.key.pem -gridmap:{home}/gridmap -crl:0
"""


@dataclass(frozen=True, slots=True)
class Storage:
    """A running server: the address of its root for each protocol, and ``data``, where its files lie on disk."""

    xroot: str
    dav: str
    gsiftp: str
    data: Path

    def files(self) -> list[str]:
        """Name the files that may be written."""
        return sorted(path.name for path in (self.data / "probe").iterdir())


def xrootd_missing() -> str:
    """Say what this machine lacks for the xrootd server; empty when nothing."""
    return xrootd_missing_reason()


def gridftp_missing() -> str:
    """Say what this machine lacks for the GridFTP server; empty when nothing."""
    found = shutil.which("globus-gridftp-server")
    return "" if found else "the GridFTP server needs: apt-get install globus-gridftp-server-progs"


@contextmanager
def start_tls_xrootd(
    home: Path, network: LoopbackNetwork, ca: LabCa, user: Credential, *, gsi: bool = False
) -> Iterator[Storage]:
    """Start xrootd: root://, roots:// and https://, with ``gsi`` (seconds of CPU a login) for ``user`` only."""
    keys = _prepare(home, ca, user, "xrootd")
    port, http_port = (1095, 8444) if gsi else (1094, 8443)
    text = _XROOTD + (_GSI if gsi else "")
    configuration = home / "xrootd.cf"
    configuration.write_text(text.format(keys=keys, anchors=ca.certificates, home=home, port=port, http_port=http_port))
    account = ["setpriv", "--reuid", "xrootd", "--regid", "xrootd", "--clear-groups"]
    argv = _with_full(home, network, [*account, "xrootd", "-c", str(configuration), "-n", "lab"])
    with running(argv, lambda: all(listens(p, network) for p in (port, http_port)), home / "xrootd.log"):
        yield Storage(f"roots://localhost:{port}/", f"https://localhost:{http_port}", "", home / "data")


@contextmanager
def start_gridftp(home: Path, network: LoopbackNetwork, ca: LabCa, user: Credential) -> Iterator[Storage]:
    """Start a GridFTP server for ``user``, who becomes nobody there."""
    keys = _prepare(home, ca, user, "nobody")
    give_to("root", keys / "host.key.pem", keys / "host.cert.pem", home / "data" / "locked")
    env = {
        "PATH": "/usr/sbin:/usr/bin:/bin",
        "X509_USER_CERT": f"{keys}/host.cert.pem",
        "X509_USER_KEY": f"{keys}/host.key.pem",
        "X509_CERT_DIR": str(ca.certificates),
        "GRIDMAP": f"{home}/gridmap",
    }
    addresses = [word for kind in ("control", "data") for word in (f"-{kind}-interface", "127.0.0.1")]
    server = ["globus-gridftp-server", "-S", "-p", "2811", *addresses, "-no-detach"]
    argv = _with_full(home, network, server)
    with running(argv, lambda: listens(2811, network), home / "gridftp.log", env):
        yield Storage("", "", f"gsiftp://localhost:2811{home}/data", home / "data")


def _prepare(home: Path, ca: LabCa, user: Credential, account: str) -> Path:
    """Lay out directories, grid-mapfile and the host's keys; give the directory of the keys."""
    keys = home / "keys"
    data = [home / "data", *(home / "data" / name for name in ("probe", "locked", "full"))]
    for path in (*data, home / "admin", home / "run", keys):
        path.mkdir(parents=True)
    host = ca.host()
    shutil.copy(host.certificate_path, keys / "host.cert.pem")
    shutil.copy(host.key_path, keys / "host.key.pem")
    (keys / "host.key.pem").chmod(0o400)
    (home / "gridmap").write_text(f'"{user.subject}" nobody\n')
    give_to(account, home, *data, home / "admin", home / "run", keys, keys / "host.key.pem", keys / "host.cert.pem")
    return keys


def _with_full(home: Path, network: LoopbackNetwork, server: list[str]) -> list[str]:
    """Give the command that runs a server in the network, ``full`` being a very small disk for it alone."""
    mount = ["unshare", "-m", "sh", "-c", _MOUNT_FULL, "sh", home / "data" / "full"]
    return network.command([*mount, *server])
