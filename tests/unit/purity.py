"""Finds what a pure module must not do: files, clocks, environment, chance, processes, network, log."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODULES: Final = _words(
    "asyncio atexit builtins concurrent ctypes fcntl fileinput getpass glob gzip http importlib io ldap3 linecache"
    " locale logging lzma mmap multiprocessing os platform pty pwd random requests resource runpy secrets select"
    " selectors shelve shutil site smtplib socket socketserver sqlite3 ssl structlog subprocess sys syslog"
    " tarfile tempfile termios threading time urllib urllib3 uuid warnings webbrowser zipfile zoneinfo"
)
_NAMES: Final = _words("__import__ breakpoint compile eval exec globals input open print vars")
_CLOCKS: Final = _words("now today utcnow")
_CALLS: Final = _words(
    "absolute chmod cwd exists expanduser glob hardlink_to home is_dir is_file is_mount is_symlink iterdir"
    " lchmod lstat mkdir open read_bytes read_text readlink rename resolve rglob rmdir samefile stat"
    " symlink_to touch unlink walk write_bytes write_text"
    " alarm pthread_kill raise_signal setitimer signal"
)


def pure_modules() -> list[Path]:
    """Give the files of all modules that setup.cfg calls pure, and of the whole contract."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    listed = config["importlinter:contract:pure"]["source_modules"].split()
    files = [ROOT / (module.replace(".", "/") + ".py") for module in listed]
    return [*files, *sorted((ROOT / "pps_wire").rglob("*.py"))]


def impurities(source: str) -> list[str]:
    """Give each impure thing in a module as ``line: what``."""
    tree = ast.parse(source)
    return [f"{node.lineno}: {what}" for node in ast.walk(tree) for what in _judge(node)]  # type: ignore[attr-defined]


def _judge(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (f"import {name.name}" for name in names if _top(name.name) in _MODULES)
        case ast.ImportFrom(module=str() as module, level=0) if _top(module) in _MODULES:
            yield f"from {module} import"
        case ast.Name(id=name) if name in _NAMES:
            yield name
        case ast.Attribute(attr=name) if name in _CLOCKS:
            yield f".{name}"
        case ast.Call(func=ast.Attribute(attr=name)) if name in _CALLS:
            yield f".{name}()"
        case ast.Global():
            yield "global"


def _top(module: str) -> str:
    return module.partition(".")[0]
