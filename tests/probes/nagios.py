"""A real Nagios that reads given outputs: what it makes of them stands in its status file."""

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

NAGIOS: Final = "/usr/sbin/nagios4"
_PATIENCE_S: Final = 120

_MAIN: Final = """\
cfg_file={root}/objects.cfg
log_file={root}/nagios.log
object_cache_file={root}/objects.cache
precached_object_file={root}/objects.precache
status_file={root}/status.dat
status_update_interval=1
check_result_reaper_frequency=1
check_result_path={root}/results
command_file={root}/nagios.cmd
lock_file={root}/nagios.lock
temp_file={root}/nagios.tmp
temp_path={root}
state_retention_file={root}/retention.dat
query_socket={root}/qh
nagios_user={user}
nagios_group={group}
check_external_commands=0
use_syslog=0
log_rotation_method=n
retain_state_information=0
enable_notifications=0
check_for_updates=0
interval_length=1
service_inter_check_delay_method=n
check_workers=1
"""
_DAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_OBJECTS: Final = """\
define command {{
 command_name print
 command_line /bin/cat {root}/$ARG1$
}}
define timeperiod {{
 timeperiod_name always
 alias always
{days}
}}
define contact {{
 contact_name nobody
 host_notification_period always
 service_notification_period always
 host_notification_commands print!none
 service_notification_commands print!none
}}
define host {{
 host_name here
 address 127.0.0.1
 max_check_attempts 1
 check_period always
 notification_period always
 contacts nobody
}}
"""
_SERVICE: Final = """\
define service {{
 host_name here
 service_description {name}
 check_command print!{name}
 check_interval 5
 retry_interval 5
 max_check_attempts 1
 check_period always
 notification_period always
 contacts nobody
}}
"""
_STATUS: Final = re.compile(rb"^servicestatus \{\n(.*?)^\t\}$", re.MULTILINE | re.DOTALL)


class Reading(NamedTuple):
    """What Nagios took for the summary, for the further lines and for performance data."""

    summary: bytes
    details: bytes
    perfdata: bytes


def missing_nagios() -> str:
    """Say what is missing for these tests; empty when nothing is."""
    return "" if shutil.which(NAGIOS) else "nagios4-core is not installed"


def read_by_nagios(root: Path, outputs: Mapping[str, bytes]) -> dict[str, Reading]:
    """Have a Nagios run a check for each output and give what it read."""
    account = pwd.getpwuid(os.geteuid())
    (root / "results").mkdir()
    days = "\n".join(f" {day} 00:00-24:00" for day in _DAYS)
    objects = _OBJECTS.format(root=root, days=days) + "".join(_SERVICE.format(name=name) for name in outputs)
    (root / "objects.cfg").write_text(objects)
    (root / "nagios.cfg").write_text(_MAIN.format(root=root, user=account.pw_name, group=account.pw_gid))
    for name, output in outputs.items():
        (root / name).write_bytes(output)
    with (root / "console").open("wb") as console:
        process = subprocess.Popen([NAGIOS, str(root / "nagios.cfg")], stdout=console, stderr=console, cwd=root)
        try:
            return _wait_for_all(root / "status.dat", set(outputs), process)
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def _wait_for_all(status: Path, names: set[str], process: "subprocess.Popen[bytes]") -> dict[str, Reading]:
    patience = time.monotonic() + _PATIENCE_S
    while time.monotonic() < patience:
        found = dict(_read_status(status.read_bytes())) if status.exists() else {}
        if found.keys() >= names:
            return found
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    console = status.with_name("console").read_text(errors="replace")
    raise AssertionError(f"Nagios did not run all checks: {console[-2000:]}")


def _read_status(raw: bytes) -> list[tuple[str, Reading]]:
    found = []
    for block in _STATUS.findall(raw):
        fields = dict(line.strip(b"\t").partition(b"=")[::2] for line in block.split(b"\n"))
        if fields[b"has_been_checked"] == b"1":
            long_text = _unescape(fields[b"long_plugin_output"])
            reading = Reading(fields[b"plugin_output"], long_text, fields[b"performance_data"])
            found.append((fields[b"service_description"].decode(), reading))
    return found


def _unescape(text: bytes) -> bytes:
    r"""Undo what Nagios does to further lines in its status file: ``\n`` is a line end, ``\\`` a backslash."""
    return re.sub(rb"\\(.)", lambda found: b"\n" if found[1] == b"n" else found[1], text)
