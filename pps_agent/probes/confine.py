"""Landlock: the kernel's bound on what one run may write, see of other runs, and signal.

All probes of a machine share one account, so file modes cannot keep them apart. Each run gets a domain
of its own: beneath its own directory and into harmless devices it may write as before, elsewhere nothing
of what modes would allow; processes outside of the domain it can neither trace nor look into (their
memory, environment, open files, working directory), nor signal where the kernel knows that bound. A
domain holds for a thread and what that thread starts, so each run is started by a thread of its own.

Not bounded: reading by path, changing modes and times of the account's own files, the network.
Source: Linux, Documentation/userspace-api/landlock.rst. Standard library only: the runner imports this
module under ``python -I -S``.
"""

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Callable
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_REMOVE_AND_MAKE: Final = sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11
_HARMLESS_DEVICES: Final = ("/dev/null", "/dev/tty", "/dev/ptmx", "/dev/pts")

# Keeps the interpreter's lock: none of these calls waits, and giving it away for each costs more than they do.
_libc: Final = ctypes.PyDLL(None, use_errno=True)


def _syscall(*words: type[ctypes.c_long] | type[ctypes.c_char_p]) -> Callable[..., int]:
    """Give syscall() for these words: it takes variable arguments, so each must be declared as a whole register."""
    function = _libc["syscall"]  # a new one each time
    function.restype, function.argtypes = ctypes.c_long, [ctypes.c_long, *words]
    return function


_number_attributes_size_flags: Final = _syscall(ctypes.c_char_p, ctypes.c_long, ctypes.c_long)
_number_ruleset_kind_rule_flags: Final = _syscall(ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long)
_number_ruleset_flags: Final = _syscall(ctypes.c_long, ctypes.c_long)


class Confinement:
    """What all runs have in common, prepared once. ``version`` is the kernel's, 0 where it has no Landlock."""

    def __init__(self, at_most: int | None = None) -> None:
        """``at_most``: the latest version to use, as an older kernel would."""
        self.version = kernel_version() if at_most is None else min(kernel_version(), at_most)
        self._handled = writes(self.version)
        self._ruleset = _ruleset_attributes(self.version)
        self._device_rules: list[bytes] = []
        if self.version and not self._works():
            self.version = 0
        for device in _HARMLESS_DEVICES if self.version else ():
            with contextlib.suppress(OSError):
                pinned = os.open(device, os.O_PATH | os.O_CLOEXEC)
                self._device_rules.append(_rule(self._handled & (_WRITE_FILE | _TRUNCATE), pinned))

    def enter(self, directory: str) -> None:
        """Confine the calling thread, for good, to writing beneath one directory. Raises: OSError.

        ``no_new_privs`` must be set.
        """
        if not self.version:
            return
        own = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        ruleset = -1
        try:
            ruleset = _checked(_number_attributes_size_flags(_CREATE_RULESET, self._ruleset, len(self._ruleset), 0))
            for rule in (_rule(self._handled, own), *self._device_rules):
                _checked(_number_ruleset_kind_rule_flags(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
            _checked(_number_ruleset_flags(_RESTRICT_SELF, ruleset, 0))
        finally:
            os.close(own)
            if ruleset >= 0:
                os.close(ruleset)

    def _works(self) -> bool:
        """Try it: where a container forbids it, or too many domains are around us already, we do without."""
        worked: list[bool] = []

        def attempt() -> None:
            with contextlib.suppress(OSError):
                self.enter("/")
                worked.append(True)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        return bool(worked)


def kernel_version() -> int:
    """Ask the kernel for its version of Landlock; 0 where it has none or does not use it."""
    return max(0, int(_number_attributes_size_flags(_CREATE_RULESET, None, 0, _VERSION)))


def writes(version: int) -> int:
    """Give the kinds of writing that this version of Landlock knows. Pure."""
    known = _WRITE_FILE | _REMOVE_AND_MAKE
    known |= _REFER if version >= 2 else 0
    return known | (_TRUNCATE if version >= 3 else 0)


def _ruleset_attributes(version: int) -> bytes:
    """Give ``struct landlock_ruleset_attr`` as this version knows it: file system, network (4), scopes (6)."""
    if version >= 6:
        return struct.pack("=QQQ", writes(version), 0, _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    return struct.pack("=Q", writes(version))


def _rule(allowed: int, directory: int) -> bytes:
    """Give ``struct landlock_path_beneath_attr``: what is allowed beneath an open directory (or on a file)."""
    return struct.pack("=Qi", allowed, directory)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
