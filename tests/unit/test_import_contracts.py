"""Each import contract of setup.cfg holds, and breaks when a forbidden import is planted."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pps_wire", "pps_agent", "pps_collector", "pps_publisher")
PREFIX = "importlinter:contract:"
# The command itself, with ``place`` before the checkout, which the environment's own path entry names.
_PROGRAM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from importlinter.cli import lint_imports_command
lint_imports_command()
"""


class Plant(NamedTuple):
    """An import that breaks one contract: put at the end of ``module``."""

    contract: str
    module: str
    line: str


PLANTS = [
    Plant("zones", "pps_agent/status_page.py", "import pps_collector.errors"),
    Plant("zones", "pps_publisher/errors.py", "import pps_agent.errors"),
    Plant("zones", "pps_collector/errors.py", "import pps_publisher.errors"),
    Plant("wire", "pps_wire/errors.py", "import pps_collector.errors"),
    Plant("names", "pps_wire/names.py", "import msgspec"),
    Plant("names", "pps_wire/errors.py", "import cryptography"),
    Plant("layers", "pps_agent/plan.py", "import pps_agent.daemon"),
    Plant("layers", "pps_agent/settings.py", "import pps_agent.state"),
    Plant("collector-layers", "pps_collector/store/tables.py", "import pps_collector.services"),
    Plant("pure", "pps_agent/state.py", "import pps_agent.files"),
    Plant("pure", "pps_agent/policy.py", "def late():\n    import pps_agent.store"),
    Plant("tag-start", "pps_agent/tags/disk.py", "import ldap3"),
]


def contracts() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    return {name.removeprefix(PREFIX): config[name]["name"] for name in config.sections() if name.startswith(PREFIX)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, so that nobody's work in the checkout is touched."""
    copy = tmp_path_factory.mktemp("packages")
    shutil.copy(ROOT / "setup.cfg", copy)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return copy


def lint(place: Path, *options: str) -> tuple[int, str]:
    """Run import-linter as ``./run check`` does, over the packages in ``place``."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            _PROGRAM,
            str(place),
            "--config",
            "setup.cfg",
            "--no-cache",
            "--no-logo",
            *options,
        ],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "COLUMNS": "400", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def test_every_contract_is_kept(original):
    code, told = lint(original)
    assert code == 0, told
    assert [name for name in contracts().values() if f"{name} KEPT" not in " ".join(told.split())] == []


def test_every_contract_is_shown_to_break():
    assert {plant.contract for plant in PLANTS} == set(contracts())


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.contract}-{plant.module}")
def test_a_planted_import_breaks_its_contract(original, tmp_path, plant):
    place = tmp_path / "packages"
    shutil.copytree(original, place, copy_function=os.link)
    module = place / plant.module
    text = module.read_text("utf-8") if module.exists() else '"""Planted."""\n'
    module.unlink(missing_ok=True)  # a new file: the old one is linked
    module.write_text(f"{text}\n{plant.line}\n", "utf-8")
    code, told = lint(place, "--contract", plant.contract)
    assert code == 1, told
    assert f"{contracts()[plant.contract]} BROKEN" in " ".join(told.split())
    assert plant.module.removesuffix(".py").replace("/", ".") in told
