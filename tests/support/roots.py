"""A base system small enough to make for each test, and programs and RPM packages that are really built."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.support.services import need


def make_base_root(root: Path, programs: Iterable[str] = ("/bin/sh", "/bin/cat", "/bin/true")) -> Path:
    """Copy a few programs of this machine and the libraries they load: a base system that has nothing else."""
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc").mkdir()
    for program in programs:
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for file in [program, *re.findall(r"(/\S+\.so\S*) \(", listing)]:
            place = root / file.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
    return root


def compile_c(source: str, place: Path, *options: str | Path) -> Path:
    """Compile a C text into a program or, by the options, a library."""
    need("" if shutil.which("gcc") else "gcc is not on this machine; install gcc")
    place.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-o", place, "-x", "none", *options]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return place


def compile_answer(place: Path, name: str = "libanswer.so.1") -> Path:
    """Compile a library that gives 42, its soname ``name``."""
    return compile_c("int answer(void) { return 42; }", place, "-shared", "-fPIC", f"-Wl,-soname,{name}")


ASKER = '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%d\\n", answer()); return 0; }\n'
"""A program that prints what the library of ``compile_answer`` gives."""
