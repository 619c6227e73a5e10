"""Debian packages that a tree never carries, because every host has them or must keep its own.

A library that the host's own interpreter or TLS stack uses must come from the host: shipped in a
tree it would miss the host's security updates, and where it leaks into a production program it
would break that program. Names are shell patterns of binary packages.
"""

import fnmatch
from collections.abc import Mapping
from typing import Final

BASE_SET: Final[Mapping[str, tuple[str, ...]]] = {
    "the C and C++ run time: one per process, and the kernel's loader path is fixed": (
        "libc6",
        "libgcc-s1",
        "libstdc++6",
        "gcc-*-base",
        "libcrypt1",
    ),
    "the interpreters and their standard libraries": (
        "python3",
        "python3-minimal",
        "python3.[0-9]*",
        "libpython3*",
        "perl",
        "perl-base",
        "perl-modules-*",
        "libperl*",
    ),
    "what the host's interpreters link, libexpat1 among them: two copies in one process clash": (
        "libexpat1",
        "zlib1g",
        "libffi[0-9]*",
        "libbz2-1.0",
        "liblzma5",
        "libreadline8",
        "readline-common",
        "libtinfo6",
        "libncursesw6",
        "libuuid1",
        "libdb5.3",
        "libgdbm*",
    ),
    "TLS and cryptography that get the host's security updates": (
        "openssl",
        "libssl[0-9]*",
        "libgcrypt20",
        "libgpg-error0",
        "ca-certificates",
    ),
    "libraries of the host's login, mount and service layers: they talk to its daemons": (
        "libsystemd0",
        "libelogind0",
        "libpam*",
        "libselinux1",
        "libaudit*",
        "libcap2",
        "libcap-ng0",
        "libacl1",
        "libblkid1",
        "libmount1",
        "libpcre2-8-0",
        "libnsl2",
        "libtirpc*",
        "libcom-err2",
        "libmd0",
        "libzstd1",
        "liblz4-1",
    ),
    "tools that only package scripts and desktops use": (
        "adduser",
        "cdebconf",
        "debconf*",
        "dpkg",
        "init-system-helpers",
        "install-info",
        "lsb-base",
        "mailcap",
        "media-types",
        "mime-support",
        "passwd",
        "sysvinit-utils",
        "tar",
    ),
}


def is_base(package: str) -> bool:
    """Say whether a package belongs to the base set; an architecture qualifier such as ``:any`` does not count."""
    name = package.partition(":")[0]
    return any(fnmatch.fnmatchcase(name, pattern) for patterns in BASE_SET.values() for pattern in patterns)
