"""Process id namespaces of tests: with their first process ends everything in them."""

import os
import signal
import subprocess
from pathlib import Path


def end_namespace(outer: "subprocess.Popen[bytes]") -> None:
    """Kill the first process below ``outer``'s (unshare's or bwrap's) and wait until nothing of it is left."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    for child in children.read_text().split() if children.exists() else ():
        os.kill(int(child), signal.SIGKILL)
    try:
        outer.wait(30)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait()
