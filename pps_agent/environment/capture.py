"""See what the site's own settings set: source its profile files in a throw-away shell.

The files are the administrator's and are trusted to be run, as every login does; they are not
trusted to be quiet, quick or well-behaved. What they do to their shell (directory, umask, aliases,
exit) ends with it, what they start in its session is killed.
"""

import contextlib
import glob
import hashlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pps_agent.environment.render import quote_sh
from pps_agent.environment.values import BASE_PATH, NO_HOME, Captured
from pps_agent.state import Unknown

MAX_FILE_BYTES: Final = 4 * 1024**2
MAX_ENVIRONMENT_BYTES: Final = 4 * 1024**2
MAX_SKIPPED: Final = 8
# Part of the fingerprint: raise it when the same profile must be composed anew.
_FORMAT: Final = b"pps environment 1"
_OWN: Final = frozenset({"_", "SHLVL", "PWD", "OLDPWD"})


@dataclass(frozen=True, slots=True)
class _Run:
    """One throw-away shell: what ``env`` printed, or how it failed and at which file (None: at none)."""

    variables: dict[str, str]
    problems: tuple[str, ...] = ()
    failure: str = ""
    culprit: int | None = None


def capture(profile_globs: Sequence[str], timeout_s: float) -> Captured | Unknown:
    """Source all matching files together, in order, and give what that changed.

    A file that ends the shell or outlasts ``timeout_s`` is named in ``problems`` and skipped. Unknown
    when there is no working bash, or more than MAX_SKIPPED files fail.
    """
    bash, env = shutil.which("bash", path=":".join(BASE_PATH)), shutil.which("env", path=":".join(BASE_PATH))
    if bash is None or env is None:
        return Unknown("bash or env is not installed in /usr/bin: install bash and coreutils")
    files, problems = _list_files(profile_globs)
    fingerprint, unreadable = _digest(files)
    baseline = _source(bash, env, (), timeout_s)
    if baseline.failure:
        return Unknown(f"a bare bash fails ({baseline.failure}): try `env -i bash --noprofile --norc -c env`")
    kept = [path for path in files if path not in unreadable]
    problems += [f"{path}: {reason}; skipped" for path, reason in unreadable.items()]
    for _ in range(MAX_SKIPPED + 1):
        run = _source(bash, env, kept, timeout_s)
        if not run.failure:
            changed = {name: text for name, text in run.variables.items() if baseline.variables.get(name) != text}
            variables = {name: text for name, text in changed.items() if name not in _OWN}
            return Captured(variables, tuple(kept), fingerprint, (*problems, *run.problems))
        if run.culprit is None:
            return Unknown(f"the profile files were sourced, but {run.failure}: try them in `bash --noprofile --norc`")
        problems.append(f"{kept[run.culprit]}: {run.failure}; skipped")
        del kept[run.culprit]
    return Unknown(f"more than {MAX_SKIPPED} profile files fail: mend or leave out\n" + "\n".join(problems))


def fingerprint(profile_globs: Sequence[str]) -> str | Unknown:
    """Give the sha256 (hex) over names and contents of the matching files, as ``capture`` does, sourcing none."""
    files, _ = _list_files(profile_globs)
    return _digest(files)[0]


def _list_files(profile_globs: Sequence[str]) -> tuple[list[Path], list[str]]:
    files: dict[Path, None] = {}
    problems = []
    for pattern in profile_globs:
        matches = sorted(glob.glob(pattern))  # noqa: PTH207  # patterns are absolute, Path.glob takes none such
        if not matches and not glob.has_magic(pattern):
            problems.append(f"{pattern}: there is no such file; skipped")
        files |= dict.fromkeys(Path(match).absolute() for match in matches if not Path(match).is_dir())
    return list(files), problems


def _digest(files: Sequence[Path]) -> tuple[str, dict[Path, str]]:
    """Give the fingerprint, and the files that cannot be read, with the reason."""
    digest = hashlib.sha256(_FORMAT)
    unreadable = {}
    for path in files:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo must not hold us
            with os.fdopen(descriptor, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1) or b""
            if len(content) > MAX_FILE_BYTES:
                unreadable[path] = f"larger than {MAX_FILE_BYTES} bytes"
        except OSError as exc:
            content = b""
            unreadable[path] = exc.strerror or type(exc).__name__
        for part in (os.fsencode(path), content):
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest(), unreadable


def _source(bash: str, env: str, files: Sequence[Path], timeout_s: float) -> _Run:
    # Memory files, not pipes: a process that a profile file leaves behind keeps no reader waiting.
    progress, result = os.memfd_create("progress"), os.memfd_create("result")
    try:
        failure = _run_shell(
            [bash, "--noprofile", "--norc", "-c", _script(env, files, progress, result)], timeout_s, (progress, result)
        )
        begun = os.pread(progress, 1024**2, 0).count(b"\n")
        raw = os.pread(result, MAX_ENVIRONMENT_BYTES + 1, 0)
    finally:
        os.close(progress)
        os.close(result)
    if not failure and not raw.endswith(b"\0"):
        failure = "ended the shell that sourced it"
    if not failure and len(raw) > MAX_ENVIRONMENT_BYTES:
        failure = f"the environment is larger than {MAX_ENVIRONMENT_BYTES} bytes"
    if failure:
        # The script notes each file as it begins it, and one line more when all are done.
        return _Run({}, failure=failure, culprit=begun - 1 if 0 < begun <= len(files) else None)
    return _parse(raw)


def _script(env: str, files: Sequence[Path], progress: int, result: int) -> str:
    """Give the shell's program: unrolled, since a sourced file may change any variable a loop would use."""
    note = f"builtin echo >&{progress}\n"
    lines = [f"{note}builtin source {quote_sh(str(path))}\n" for path in files]
    return "".join([*lines, note, f"{env} -0 >&{result}\n"])


def _run_shell(argv: list[str], timeout_s: float, descriptors: tuple[int, ...]) -> str:
    """Run the shell in its own session and kill what is left of it. Give what went wrong, or an empty text."""
    process = subprocess.Popen(
        argv,
        env={"PATH": ":".join(BASE_PATH), "HOME": NO_HOME},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
    )
    # The dead leader stays unreaped until its group is killed, so that the number cannot be another's.
    watch = os.pidfd_open(process.pid)
    try:
        ended = _is_readable(watch, timeout_s)
    finally:
        os.close(watch)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if not ended:
        return f"not done after {timeout_s:g} s"
    return f"ended the shell that sourced it (exit {code})" if code else ""


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()  # select.select takes no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _parse(raw: bytes) -> _Run:
    variables, problems = {}, []
    for item in raw.split(b"\0")[:-1]:
        name, _, value = item.partition(b"=")
        try:
            variables[name.decode()] = value.decode()
        except UnicodeDecodeError:
            problems.append(f"{name.decode(errors='replace')}: the value is not UTF-8; left out")
    return _Run(variables, tuple(problems))
