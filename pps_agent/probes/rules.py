"""What a good probe keeps to, beyond metadata that can be read. Pure: texts and values in, findings out."""

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pps_agent.probes.case_file import Case
from pps_agent.probes.definition import ProbeDefinition
from pps_wire.report import Status

OLDEST_PYTHON: Final = (3, 9)
PYTHON_LINE: Final = "#!/usr/bin/python3 -IS"

_SHELLS: Final = ("sh", "dash")
_SECTIONS: Final = ("OK", "CRITICAL", "UNKNOWN")
_BASHISMS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (r"(?:^|[;&|]|\bif|\bwhile|\buntil|!)\s*\[\[\s", "[[ … ]]: write [ … ] or case"),
        (r"^\s*function\s+\w+", "function NAME: write NAME() {"),
        (r"[<>]\(", "process substitution: write a temporary file"),
        (r"<<<", "a here-string: write printf … |"),
        (r"&>", "&>: write >FILE 2>&1"),
        (r"\$'", "$'…': write printf"),
        (
            r"(?:^|;)\s*(?:source|declare|typeset|shopt|mapfile|readarray|pushd|popd)\s",
            "a bash built-in: write plain sh",
        ),
        (r"\$\{\w+(?://|/[^}]|:[0-9]|\^|,|\[)", "a bash expansion: write sed, cut or ${x#…}"),
        (r"^\s*\w+=\(", "an array: write positional parameters"),
        (r"\s==\s.*\]", "==: write = in [ ]"),
        (r"\$RANDOM\b|\$\{RANDOM\}|\$EPOCH", "a bash variable: sh has none"),
        (r"\becho\s+-e\b", "echo -e: write printf"),
        (r"\{[0-9]+\.\.[0-9]+\}", "{a..b}: write seq"),
    )
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a probe: in which of its files, on which line (0: the whole), what and what to do."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


def find_metadata_faults(
    definition: ProbeDefinition, directory: str, known: Iterable[str], max_timeout_s: int
) -> Iterator[Finding]:
    """Give what of a definition is not as it should be; ``known`` are all names and aliases that are installed."""
    file = "probe.toml"
    if definition.name != directory and not definition.name.endswith(f".{directory}"):
        yield Finding(file, 0, f"the directory is called {directory}: it must be the end of the name {definition.name}")
    for key, text in (("summary", definition.summary), ("version", definition.version)):
        if not text:
            yield Finding(file, 0, f"probe.{key} is empty: write one line")
    if definition.interval_s is not None and definition.timeout_s >= definition.interval_s:
        yield Finding(
            file, 0, f"probe.timeout_s must be less than interval_s ({definition.interval_s}), else runs overlap"
        )
    if (
        definition.interval_s is not None
        and definition.max_attempts > 1
        and definition.retry_interval_s > definition.interval_s
    ):
        yield Finding(file, 0, f"probe.retry_interval_s must not be more than interval_s ({definition.interval_s})")
    if definition.timeout_s > max_timeout_s:
        yield Finding(file, 0, f"probe.timeout_s is more than the site allows (probes.timeout_s = {max_timeout_s})")
    installed = {*known, definition.name, *definition.metrics}
    for name in definition.depends_on:
        if name not in installed:
            yield Finding(file, 0, f"probe.depends_on: {name} is not installed here")
    yield from _find_variable_faults(definition)


def _find_variable_faults(definition: ProbeDefinition) -> Iterator[Finding]:
    explained = definition.variables.keys() | definition.env.keys()
    setters: dict[str, str] = {}
    for name, argument in definition.arguments.items():
        where = f"arguments.{name}"
        if not argument.help:
            yield Finding("probe.toml", 0, f"{where}.help is empty: say what a caller may give, and its unit")
        if argument.variable in definition.secrets:
            yield Finding("probe.toml", 0, f"{where}: {argument.variable} is a secret, which no caller may set")
        elif argument.variable not in explained:
            yield Finding(
                "probe.toml", 0, f"{where}: say in [requires.variables] or [env] what {argument.variable} means"
            )
        if argument.variable in setters:
            yield Finding("probe.toml", 0, f"{where}: {argument.variable} is set by {setters[argument.variable]} too")
        setters[argument.variable] = name
    for variable in sorted(definition.secrets.keys() & explained):
        if variable in definition.env:
            yield Finding("probe.toml", 0, f"env.{variable} is a secret too: leave it in [secrets] alone")


def find_program_faults(content: bytes, standard: Collection[str]) -> Iterator[Finding]:
    """Give what of a program would not run, or not everywhere; ``standard`` are the modules that Python has."""
    try:
        source = content.decode()
    except UnicodeDecodeError:
        yield Finding("run", 0, "is no text: a probe is sh or Python, so that people can read what runs at their site")
        return
    first = source.partition("\n")[0]
    if first.rstrip() == PYTHON_LINE:
        yield from _find_python_faults(source, standard)
    elif is_shell(first):
        yield from _find_bashisms(source)
    else:
        yield Finding("run", 1, f"must begin with #!/bin/sh or {PYTHON_LINE}, not {first[:60]!r}")


def is_shell(first_line: str) -> bool:
    """Tell whether a program's first line names a plain shell."""
    words = first_line[2:].split()
    return (
        first_line.startswith("#!")
        and bool(words)
        and words[0].startswith("/")
        and words[0].rpartition("/")[2] in _SHELLS
    )


def _find_python_faults(source: str, standard: Collection[str]) -> Iterator[Finding]:
    try:
        tree = ast.parse(source, feature_version=OLDEST_PYTHON)
    except (SyntaxError, ValueError, RecursionError) as exc:
        line = exc.lineno or 1 if isinstance(exc, SyntaxError) else 1
        yield Finding("run", line, f"is no Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}: {getattr(exc, 'msg', exc)}")
        return
    for node in _below(tree):
        for module in _imported(node):
            if module not in standard:
                yield Finding("run", node.lineno, f"imports {module}: worker nodes have the standard library only")  # type: ignore[attr-defined]


def _below(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or ".").partition(".")[0] if node.level == 0 else "a module beside it"]
    return []


def _find_bashisms(source: str) -> Iterator[Finding]:
    for number, line in enumerate(_without_texts(source), 1):
        for pattern, advice in _BASHISMS:
            if pattern.search(line):
                yield Finding("run", number, f"not plain sh: {advice}")


def _without_texts(source: str) -> Iterator[str]:
    """Give the lines of a shell script without comments, what stands in single quotes, and here-documents."""
    end = ""
    for line in source.splitlines():
        if end:
            end = "" if line.strip() == end else end
            yield ""
            continue
        code = re.sub(r"(?:^|(?<=\s))#.*", "", re.sub(r"(?<!\$)'[^']*'", "''", line))
        if found := re.search(r"(?<!<)<<-?\s*[\"'\\]?(\w+)", re.sub(r"(?:^|(?<=\s))#.*", "", line)):
            end = found[1]
        yield code


def find_readme_faults(text: str | None, definition: ProbeDefinition, directory: str) -> Iterator[Finding]:
    """Give what a probe's page does not say: when it is what, what it needs, how to run it by hand."""
    if text is None:
        yield Finding("README.md", 0, "is missing: say what is tested and when the probe is OK, CRITICAL, UNKNOWN")
        return
    if text.partition("\n")[0].strip() != f"# {directory}":
        yield Finding("README.md", 1, f"must begin with '# {directory}'")
    for status in _SECTIONS:
        if re.search(rf"^\|\s*`?{status}`?\s*\|\s*[^|\s]", text, re.MULTILINE) is None:
            yield Finding("README.md", 0, f"lacks a row '| {status} | when |'")
    for variable in definition.variables:
        if variable not in text:
            yield Finding("README.md", 0, f"does not name {variable}, which the probe requires")
    if "by hand" not in text.lower():
        yield Finding("README.md", 0, "does not say how to run it by hand: write 'By hand: `VARIABLE=value ./run`'")


def find_case_faults(cases: Iterable[Case]) -> Iterator[Finding]:
    """Tell which kinds of cases are missing: a probe is shown to pass, and shown to notice."""
    statuses: Mapping[Status, str] = {case.status: case.name for case in cases}
    if Status.OK not in statuses:
        yield Finding("tests", 0, "no case expects OK: show in tests/*.case what passes")
    if not statuses.keys() - {Status.OK}:
        yield Finding("tests", 0, "no case expects WARNING, CRITICAL or UNKNOWN: show that the probe notices a fault")
