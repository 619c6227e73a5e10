"""The documentation is true: what a page names exists, what it tells to type is understood."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from pps_agent.cli.app import app
from pps_agent.settings_file import describe_fields
from pps_collector.cli.main import cli
from pps_collector.settings import parse_settings
from pps_publisher.build.documents import load_changes
from pps_publisher.cli.program import group

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "probes").rglob("*.md")])
PROGRAMS = {"pps-agent": app, "pps-collector": cli, "pps-publish": group}
PACKAGES = ("pps_wire", "pps_agent", "pps_collector", "pps_publisher")
HOMES = (*PACKAGES, "tests", "docs", "probes", "demo", "benchmarks", "packaging", "config")
ADR_PARTS = ("Context", "Drivers", "Options", "Outcome", "Cost")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(text: str) -> str:
    return _FENCE.sub("", text)


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(match[2] for match in _FENCE.finditer(page.read_text()) if match[1] == kind):
            yield f"{name_of(page)}#{number}", block


def anchors_of(page: Path) -> set[str]:
    """Give the anchors of a page's headings as GitHub makes them."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose_of(page.read_text())))
    return {heading.replace(" ", "-") for heading in kept}


@cache
def functions_of(path: str) -> frozenset[str]:
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def command_lines() -> Iterator[tuple[str, str]]:
    """Give every line of a shell block, and every piece of inline code, that calls one of our programs."""
    for where, block in blocks("sh"):
        yield from ((where, line.strip()) for line in block.replace("\\\n", " ").splitlines())
    for page in PAGES:
        yield from ((name_of(page), code) for code in _CODE.findall(prose_of(page.read_text())))


CALLS = sorted({(where, line) for where, line in command_lines() if line.partition(" ")[0] in PROGRAMS})
TESTS = sorted({(name_of(page), *found) for page in PAGES for found in _TEST.findall(page.read_text())})


@pytest.mark.parametrize(("page", "path", "test"), TESTS)
def test_a_test_that_a_page_names_exists(page: str, path: str, test: str) -> None:
    assert test in functions_of(path), f"{page} names {path}::{test}"


def test_the_readme_names_a_test_for_each_guarantee() -> None:
    table = (ROOT / "README.md").read_text().partition("| guarantee | test |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = table.splitlines()
    assert len(rows) > 10
    assert [row for row in rows if _TEST.search(row) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(prose_of(page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_directory_that_a_page_names_exists(page: Path) -> None:
    named = (code.partition("::")[0].rstrip("/") for code in _CODE.findall(prose_of(page.read_text())))
    paths = (code for code in named if code.partition("/")[0] in HOMES and re.fullmatch(r"[\w./-]+", code))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("where", "line"), CALLS)
def test_every_command_line_is_understood(where: str, line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    command: click.Command = PROGRAMS[program]
    context = click.Context(command)
    options: set[str] = set()
    for word in itertools.takewhile(lambda word: word != "--", words):  # behind it: somebody else's
        options |= {name for parameter in command.params for name in parameter.opts}
        if word.startswith("--"):
            assert word.partition("=")[0] in options | {"--help", "--version"}, f"{where}: {line}"
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z-]+", word):
            found = command.get_command(context, word)
            assert found is not None, f"{where}: {line}"
            command = found


def test_command_lines_are_found() -> None:
    assert {line.split()[0] for _, line in CALLS} == set(PROGRAMS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_run_command_exists(page: Path) -> None:
    called = set(re.findall(r"\./run ([a-z]+)", page.read_text()))
    known = set(re.findall(r"^ {4}([a-z|-]+)\)", (ROOT / "run").read_text(), re.MULTILINE))
    assert called <= {name for names in known for name in names.split("|")}


SETTINGS = [(where, block) for where, block in blocks("toml") if block.startswith("# /etc/pps-agent/")]
COLLECTOR = [(where, block) for where, block in blocks("toml") if block.startswith("# /etc/pps-collector/")]
CHANGES = [(where, block) for where, block in blocks("toml") if block.startswith("# changes.toml")]


def test_examples_of_all_three_files_are_found() -> None:
    assert all((SETTINGS, COLLECTOR, CHANGES))


@pytest.mark.parametrize(
    ("where", "block"), [*SETTINGS, *((path.name, path.read_text()) for path in (ROOT / "config").glob("*.toml"))]
)
def test_an_example_of_settings_passes_config_check(tmp_path: Path, where: str, block: str) -> None:
    (tmp_path / "agent.toml").write_text(block)
    done = subprocess.run(
        [sys.executable, "-m", "pps_agent", "--config", tmp_path / "agent.toml", "config", "check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), where


@pytest.mark.parametrize(("where", "block"), COLLECTOR)
def test_an_example_of_the_collectors_settings_is_read(where: str, block: str) -> None:
    assert parse_settings(block, where, {}).names


@pytest.mark.parametrize(("where", "block"), CHANGES)
def test_an_example_of_a_changes_file_is_read(tmp_path: Path, where: str, block: str) -> None:
    (tmp_path / "changes.toml").write_text(block)
    assert load_changes(tmp_path / "changes.toml").changes().fixes, where


def test_every_setting_that_a_page_names_exists() -> None:
    known = {f"{section}.{field.name}" for section, field, _ in describe_fields()}
    sections = {key.partition(".")[0] for key in known}
    key = re.compile(rf"({'|'.join(sections)})\.(?!py$|db$)[a-z_]+")
    wrong = [
        f"{name_of(page)}: {code}"
        for page in PAGES
        if page.name != "log-events.md"  # events are called noun.past_verb too
        for code in (code.partition(" = ")[0] for code in _CODE.findall(prose_of(page.read_text())))
        if key.fullmatch(code) and code not in known
    ]
    assert wrong == []


def test_the_module_table_of_the_design_is_complete_and_each_row_has_a_reason() -> None:
    rows = re.findall(r"^\| `(pps_\w+/[\w/]+\.py)` \| (.*) \|$", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    there = {
        name_of(file)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if file.name not in {"__init__.py", "__main__.py"}
    }
    assert sorted(path for path, _ in rows) == sorted(there)
    assert [path for path, reason in rows if not reason.strip()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs/adr").glob("*.md")), ids=name_of)
def test_a_decision_has_its_parts_in_order_and_is_short(page: Path) -> None:
    text = page.read_text()
    headings = [heading for heading in _HEADING.findall(text)[1:] if not heading.startswith(" ")]
    parts = " ".join(headings).replace(" and outcome", " Outcome").split()
    assert parts == list(ADR_PARTS)
    assert len(text.splitlines()) <= 60


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(page.name[:4]) for page in sorted((ROOT / "docs/adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
