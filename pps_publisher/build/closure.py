"""Which packages a tree must carry: the dependency closure without the base set. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pps_publisher.errors import PublishError

_DEPENDS: Final = re.compile(r"^ (?P<or>[ |])(?:Pre)?Depends: (?P<name>\S+)$")
_PROVIDER: Final = re.compile(r"^ {4}(?P<name>\S+)$")


@dataclass(frozen=True, slots=True)
class Dependency:
    """One dependency: any of ``names`` will do, the first is preferred; real packages only."""

    text: str
    names: tuple[str, ...]


Graph = Mapping[str, tuple[Dependency, ...]]


def parse_depends(text: str) -> dict[str, tuple[Dependency, ...]]:
    """Read what ``apt-cache depends --recurse`` prints: packages at the left margin, dependencies below.

    ``|Depends:`` is an alternative to the next line; ``<name>`` is virtual, its providers follow.
    """
    graph: dict[str, list[Dependency]] = {}
    package = ""
    joined = False
    for line in text.splitlines():
        if match := _DEPENDS.match(line):
            name = match["name"]
            names = () if name.startswith("<") else (name,)
            earlier = graph[package].pop() if joined and graph[package] else Dependency("", ())
            label = f"{earlier.text} | {name}" if earlier.text else name
            graph.setdefault(package, []).append(Dependency(label, earlier.names + names))
            joined = match["or"] == "|"
        elif (match := _PROVIDER.match(line)) and graph.get(package):
            last = graph[package].pop()
            graph[package].append(Dependency(last.text, (*last.names, match["name"])))
        elif line and not line.startswith(" "):
            package, joined = line.strip(), False
            graph.setdefault(package, [])
    return {name: tuple(found) for name, found in graph.items()}


def close(graph: Graph, wanted: Iterable[str], is_base: Callable[[str], bool]) -> tuple[str, ...]:
    """Give the wanted packages and all they need outside the base set, sorted.

    Where several packages would do, one that is there already or in the base set wins, then the
    first. Raises: PublishError when a dependency has no package at all.
    """
    chosen: dict[str, None] = dict.fromkeys(wanted)
    waiting = list(chosen)
    while waiting:
        package = waiting.pop(0)
        for dependency in graph.get(package, ()):
            if any(name in chosen or is_base(name) for name in dependency.names) or _is_base_virtual(
                dependency, is_base
            ):
                continue
            if not dependency.names:
                raise PublishError(f"{package} needs {dependency.text}, which nothing provides; run 'apt-get update'")
            chosen[dependency.names[0]] = None
            waiting.append(dependency.names[0])
    return tuple(sorted(chosen))


def _is_base_virtual(dependency: Dependency, is_base: Callable[[str], bool]) -> bool:
    """Tell ``<python3:any>``, a real package under a qualifier, from a purely virtual one."""
    return any(is_base(name.strip("<>")) for name in dependency.text.split(" | "))
