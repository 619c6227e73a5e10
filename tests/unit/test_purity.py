"""Pure modules take values and give values; this reads their syntax trees, and proves that it can see."""

import pytest

from tests.unit.purity import ROOT, impurities, pure_modules

MODULES = pure_modules()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_module_does_nothing(path):
    assert impurities(path.read_text("utf-8")) == []


def test_the_heart_of_the_agent_and_the_whole_contract_are_looked_at():
    looked_at = {str(path.relative_to(ROOT)) for path in MODULES}
    wanted = {"pps_agent/plan.py", "pps_agent/policy.py", "pps_agent/state.py", "pps_wire/names.py"}
    assert wanted <= looked_at
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "pps_wire").glob("*.py")} <= looked_at


PLANTED = [
    "import os",
    "import os.path",
    "from os import environ",
    "import time as t",
    "from time import monotonic",
    "def f():\n    import subprocess",
    "import urllib.request",
    "from http import client",
    "from random import randrange",
    "import secrets, re",
    "import socket",
    "import logging",
    "import structlog",
    "import sqlite3",
    "import tempfile",
    "import threading",
    "from concurrent.futures import ThreadPoolExecutor",
    "import uuid",
    "import sys",
    "open('x')",
    "print('x')",
    "read = open",
    "eval('1')",
    "__import__('os')",
    "from datetime import datetime\ndatetime.now()",
    "import datetime as d\nd.datetime.now(d.UTC)",
    "from datetime import datetime\nclock = datetime.utcnow",
    "from datetime import date\ndate.today()",
    "from pathlib import Path\nPath('x').read_text()",
    "from pathlib import Path\nPath('x').write_bytes(b'')",
    "from pathlib import Path\nPath('x').open()",
    "from pathlib import Path\nPath.cwd()",
    "def f(path):\n    return path.exists()",
    "def f(path):\n    path.mkdir(parents=True)",
    "def f(path):\n    return list(path.iterdir())",
    "def f(path):\n    return path.resolve()",
    "import signal\nsignal.alarm(1)",
    "COUNT = 0\ndef f():\n    global COUNT\n    COUNT = 1",
]


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_impurity_is_seen(source):
    assert impurities("import re\n\n" + source) != []


@pytest.mark.parametrize(
    "source",
    [
        "from pathlib import PurePosixPath\nPurePosixPath('a') / 'b'",
        "import posixpath\nposixpath.join('a', 'b')",
        "import re\nre.compile('a').match('b')",
        "from datetime import UTC, datetime, timedelta\ndatetime(2026, 11, 22, tzinfo=UTC) + timedelta(1)",
        "import hashlib\nhashlib.sha256(b'').hexdigest()",
        "import signal\nsignal.Signals(9).name",
        "'a'.replace('a', 'b')",
        "from pps_agent.state import Desired",
        "def plan(now):\n    return now",
    ],
)
def test_pure_code_is_left_in_peace(source):
    assert impurities(source) == []
