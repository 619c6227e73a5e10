"""The runner: a small process that starts probes, contains them and tells what they did.

Started by path, so that it needs nothing but the standard library and this package::

    python -I -S …/pps_agent/probes/runner.py --base DIR --owner NAME --fd N [--uid U --gid G]
    python -I -S …/pps_agent/probes/runner.py --base DIR --owner NAME --socket PATH --allow-uid U …

``--fd`` is one end of a socket pair: the runner ends with the other end. ``--socket`` is for the
installed unit: it listens, and serves peers of the allowed user ids only (SO_PEERCRED). Make the
socket's directory writable for nobody but its owner, or a probe can put its own socket there;
``--listen-fd`` takes a socket that systemd made. The messages are described in ``protocol.py``.
"""

import argparse
import contextlib
import os
import pwd
import signal
import socket
import sys
from pathlib import Path

if __name__ == "__main__":  # started by path under -I -S: this package is not on the path yet
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from pps_agent.probes import contain, marks
from pps_agent.probes.cgroup import Leaves, find_own_group
from pps_agent.probes.confine import Confinement
from pps_agent.probes.namespace import enter_own_view
from pps_agent.probes.scratch import RUN, sweep_scratch
from pps_agent.probes.service import MAX_CONNECTIONS, MAX_RUNNING, Service
from pps_agent.probes.spawn import Spawner
from pps_agent.probes.strays import Children


def main(arguments: list[str]) -> int:
    """Run the runner with its command line (without the program's name)."""
    options = _parse_options(arguments)
    _close_inherited({fd for fd in (options.fd, options.listen_fd) if fd is not None})
    listener = _bind(options.socket) if options.socket is not None else None
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # forbidden in many containers; what else bounds the runs remains
            enter_own_view(options.base)
    if options.uid is not None:
        contain.drop_privileges(options.uid, options.gid)
    contain.contain_self()
    if (key := contain.process_key(os.getpid())) is None:
        raise FileNotFoundError("/proc is not mounted: mount it, probes cannot be contained without")
    marks.sweep(options.owner, os.geteuid())
    marks.take_limit_mark(options.owner, key)
    sweep_scratch(options.base, RUN)
    children = Children()
    spawner = Spawner(options.base, options.owner, key, children, Confinement(options.landlock))
    leaves = Leaves(_own_group() if options.delegated else None)
    if options.uid is not None or options.fd is None:  # else the account is the agent's own
        contain.bound_starts()
    service = Service(spawner, children, frozenset(options.allow_uid), leaves, options.running)
    signal.signal(signal.SIGTERM, lambda *_: service.stop())
    if options.fd is not None:
        service.add_peer(socket.socket(fileno=options.fd))
    elif options.listen_fd is not None:
        service.listen(socket.socket(fileno=options.listen_fd))
    elif listener is not None:
        service.listen(listener)
    service.serve()
    return 0


def _parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="runner.py", description="Run probes, contained. See the module's docstring.")
    parser.add_argument("--base", required=True, help="directory in which each run gets a private directory")
    parser.add_argument("--owner", required=True, help="name in the runs' marker: one for each agent state directory")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help="connected stream socket to serve")
    where.add_argument("--listen-fd", type=int, help="listening socket to serve, e.g. 3 under a systemd socket unit")
    where.add_argument("--socket", help="path to listen on")
    parser.add_argument("--allow-uid", type=_uid_of, action="append", default=[], help="user (name or id) to serve")
    parser.add_argument("--uid", type=int, help="become this user first")
    parser.add_argument("--gid", type=int, help="and this group")
    parser.add_argument("--running", type=int, default=MAX_RUNNING, help="how many runs may be under way at once")
    parser.add_argument("--delegated", action="store_true", help="our control group is ours: give runs their own")
    parser.add_argument("--landlock", type=int, help="use this version of Landlock and no later one; 0: none")
    options = parser.parse_args(arguments)
    if (options.uid is None) != (options.gid is None):
        parser.error("--uid and --gid go together")
    if ":" in options.owner or not options.owner:
        parser.error("--owner must not be empty nor hold ':'")
    return options


def _uid_of(text: str) -> int:
    """Give a user's id; systemd units know names only. Raises: argparse.ArgumentTypeError."""
    try:
        return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
    except KeyError as exc:
        raise argparse.ArgumentTypeError(f"no user is called {text}") from exc


def _own_group() -> str | None:
    return find_own_group(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def _close_inherited(wanted: set[int]) -> None:
    while (spare := os.open("/dev/null", os.O_RDWR)) <= 2:  # pipes must not land on the standard streams
        pass
    os.close(spare)
    for link in Path("/proc/self/fd").iterdir():
        if (descriptor := int(link.name)) > 2 and descriptor not in wanted:
            with contextlib.suppress(OSError):
                os.close(descriptor)
    for descriptor in wanted:
        os.set_inheritable(descriptor, False)


def _bind(path: str) -> socket.socket:
    """Listen on a path, taking the place of a socket nobody answers on. Raises: OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
        raise FileExistsError(f"{path}: another runner answers there; stop it first")
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener.bind(path)
    Path(path).chmod(0o666)  # who may speak is decided by user id, see _on_accept
    listener.listen(MAX_CONNECTIONS)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
