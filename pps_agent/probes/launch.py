"""``posix_spawn`` of the C library, without holding up the other threads.

``os.posix_spawn`` keeps the interpreter's lock until the program was executed: one on a file system that
does not answer would stop the runner. The working directory is set in the new process
(``addchdir_np``, glibc 2.29), so that threads need none of their own. Standard library only: the runner
imports this module under ``python -I -S``.
"""

import ctypes
import os
import signal
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeVar

_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08
_SETSID: Final = 0x80
_OPAQUE_BYTES: Final = 1024
"""Room for any of the library's types that callers only hand around; the largest takes 336 bytes."""

_Key = TypeVar("_Key", int, str)

_libc: Final = ctypes.CDLL(None)
# Only the start itself waits. The others keep the interpreter's lock, which costs more to give away than they do.
_spawn: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, *[ctypes.c_char_p] * 5)(("posix_spawn", _libc))
_init: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(("posix_spawn_file_actions_init", _libc))
_destroy: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(("posix_spawn_file_actions_destroy", _libc))
_add_dup2: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)(
    ("posix_spawn_file_actions_adddup2", _libc)
)
_add_chdir: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)(
    ("posix_spawn_file_actions_addchdir_np", _libc)
)


class Texts(Generic[_Key]):
    """Texts in memory as the C library wants them: key → address, valid for as long as this object lives."""

    __slots__ = ("_memory", "addresses")

    def __init__(self, texts: Mapping[_Key, str]) -> None:
        joined = "\0".join(texts.values())
        encoded = joined.encode("utf-8", "surrogateescape")
        self._memory = ctypes.create_string_buffer(encoded)
        self.addresses: dict[_Key, int] = {}
        address = ctypes.addressof(self._memory)
        for key, text in texts.items():
            self.addresses[key] = address
            is_plain = len(encoded) == len(joined) or text.isascii()
            address += 1 + (len(text) if is_plain else len(text.encode("utf-8", "surrogateescape")))


def variables(env: Mapping[str, str]) -> Texts[str]:
    """Give environment variables for ``Launcher.launch``."""
    return Texts({name: f"{name}={value}" for name, value in env.items()})


class Launcher:
    """Starts programs as leaders of their own sessions, with default signal handling and none blocked."""

    def __init__(self) -> None:
        self._nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._attributes = _opaque()
        signals = _opaque()
        _check(_libc.posix_spawnattr_init(self._attributes))
        _check(_libc.posix_spawnattr_setflags(self._attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID)))
        _check(_libc.sigemptyset(signals))
        _check(_libc.posix_spawnattr_setsigmask(self._attributes, signals))
        _check(_libc.sigfillset(signals))
        for number in (signal.SIGKILL, signal.SIGSTOP):
            _check(_libc.sigdelset(signals, ctypes.c_int(number)))
        _check(_libc.posix_spawnattr_setsigdefault(self._attributes, signals))

    def launch(
        self, argv: Sequence[str], environment: Sequence[Texts[str]], directory: str, stdout: int, stderr: int
    ) -> int:
        """Start a program in a directory, its input empty, and give its number. Raises: OSError.

        Of a variable that is in several of the environments the last one counts. Descriptors that are not
        closed on exec reach the program.
        """
        arguments = Texts(dict(enumerate(argv)))
        merged: dict[str, int] = {}
        for texts in environment:
            merged.update(texts.addresses)
        pid = ctypes.c_int(0)
        actions = _opaque()
        _check(_init(actions))
        try:
            for descriptor, wanted in ((self._nothing, 0), (stdout, 1), (stderr, 2)):
                _check(_add_dup2(actions, descriptor, wanted))
            _check(_add_chdir(actions, os.fsencode(directory)))
            program, pointers = argv[0].encode("utf-8", "surrogateescape"), _table(arguments.addresses)
            _check(_spawn(ctypes.addressof(pid), program, actions, self._attributes, pointers, _table(merged)))
        finally:
            _destroy(actions)
        return pid.value


def _opaque() -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(_OPAQUE_BYTES)


def _table(addresses: Mapping[_Key, int]) -> bytes:
    """Give an array of pointers with a null at its end."""
    return struct.pack(f"{len(addresses) + 1}P", *addresses.values(), 0)


def _check(code: int) -> None:
    if code != 0:
        raise OSError(code, os.strerror(code))
