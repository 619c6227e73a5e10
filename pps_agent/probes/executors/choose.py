"""From the settings to the executor they name, with everything it needs of this machine."""

import hashlib
import os
import pwd
import socket
from collections.abc import Callable

from pps_agent.errors import ConfigError
from pps_agent.probes.executors.arc import Arc
from pps_agent.probes.executors.batch import BatchExecutor, BatchPlan
from pps_agent.probes.executors.command import Account, Commands
from pps_agent.probes.executors.htcondor import HTCondor
from pps_agent.probes.executors.slurm import Slurm
from pps_agent.probes.executors.values import BatchSystem
from pps_agent.probes.executors.work import Work
from pps_agent.settings import Settings


def open_executor(settings: Settings, wait: Callable[[float], bool]) -> BatchExecutor | None:
    """Give the executor over the site's batch system; None where the head is the node.

    When the agent is root, jobs are those of ``probes.user``: batch systems refuse root's. Raises: ConfigError
    for an account that does not exist.
    """
    nodes = settings.nodes
    if nodes.executor == "local":
        return None
    account = _account(settings.probes.user)
    plan = BatchPlan(
        owner=owner_of(settings),
        count=nodes.count,
        timeout_s=float(nodes.timeout_s),
        poll_s=float(nodes.poll_s),
        python=nodes.python,
    )
    work = Work(nodes.work or settings.paths.cache / "nodes", account)
    return BatchExecutor(_system(settings, account), plan, work, wait)


def owner_of(settings: Settings) -> str:
    """Give the mark of this agent in the names of its jobs: 12 hex digits, of host and state directory."""
    text = f"{socket.gethostname()}:{settings.paths.state.resolve()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _system(settings: Settings, account: Account | None) -> BatchSystem:
    nodes = settings.nodes
    proxy = {"X509_USER_PROXY": str(nodes.proxy)} if nodes.proxy else {}
    commands = Commands({**proxy, **nodes.env}, account)
    match nodes.executor:
        case "slurm":
            return Slurm(commands, nodes.queue, nodes.options)
        case "htcondor":
            return HTCondor(commands, nodes.proxy, nodes.options)
        case "arc":
            return Arc(commands, nodes.endpoint, nodes.queue, nodes.options)
        case other:
            raise AssertionError(f"settings let {other!r} pass")


def _account(user: str) -> Account | None:
    if not user or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError([f"probes.user: no account {user!r} on this machine: create it or leave it empty"]) from None
    return Account(user, entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None
