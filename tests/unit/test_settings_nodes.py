"""Settings of the way to the nodes: what each executor wants, what has no effect, what may not be passed on."""

from pathlib import Path

import pytest

from pps_agent.settings import NodesSettings
from pps_agent.settings_nodes import find_executor_conflicts, find_option_fault

GOOD = {
    "local": {},
    "slurm": {"work": Path("/nfs/jobs"), "queue": "short", "options": ("--qos=short", "--constraint=el9&ib")},
    "htcondor": {"options": ("request_memory = 500", '+Group = "pps"', 'requirements = OpSys == "LINUX"')},
    "arc": {"endpoint": "https://ce/arex", "proxy": Path("/proxy"), "options": ("(memory=500)",)},
}


def conflicts(executor: str, **fields: object) -> list[str]:
    return [key for key, _ in find_executor_conflicts(NodesSettings(executor=executor, **(GOOD[executor] | fields)))]


@pytest.mark.parametrize("executor", sorted(GOOD))
def test_what_an_executor_wants_is_all_it_wants(executor):
    assert conflicts(executor) == []


@pytest.mark.parametrize(
    ("executor", "fields", "key"),
    [
        ("local", {"queue": "short"}, "nodes.queue"),
        ("local", {"options": ("--qos=short",)}, "nodes.options"),
        ("local", {"endpoint": "https://ce/arex"}, "nodes.endpoint"),
        ("local", {"work": Path("/nfs")}, "nodes.work"),
        ("local", {"python": "/usr/bin/python3.12"}, "nodes.python"),
        ("local", {"env": {"SLURM_CONF": "/x"}}, "nodes.env"),
        ("local", {"count": 2}, "nodes.count"),
        ("slurm", {"work": None}, "nodes.work"),
        ("slurm", {"endpoint": "https://ce/arex"}, "nodes.endpoint"),
        ("htcondor", {"queue": "short"}, "nodes.queue"),
        ("arc", {"proxy": None}, "nodes.proxy"),
        ("slurm", {"options": ("--output=x",)}, "nodes.options"),
    ],
)
def test_what_cannot_work_is_named(executor, fields, key):
    assert conflicts(executor, **fields) == [key]


@pytest.mark.parametrize(
    ("executor", "option"),
    [
        ("slurm", "-p short"),
        ("slurm", "short"),
        ("slurm", "--wrap=rm"),
        ("slurm", "--export=ALL,X=1"),
        ("slurm", "--qos=a\n--wrap=b"),
        ("htcondor", "queue"),
        ("htcondor", "queue = 7"),
        ("htcondor", "Executable = /bin/sh"),
        ("htcondor", "request_memory = 1\nqueue"),
        ("arc", "memory=500"),
        ("arc", "(executable=/bin/sh)"),
        ("arc", "(memory=1)|(memory=2)"),
        ("arc", "(memory=1)&(executable=x)"),
    ],
)
def test_an_option_that_the_agent_gives_itself_or_that_hides_another_is_refused(executor, option):
    assert find_option_fault(executor, option) != ""
