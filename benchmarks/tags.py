"""``tag-…``: what the tag commands and providers cost, beside an interpreter's start and ARC's own command."""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import Claim

_ROUNDS: Final = 21
_TAGS: Final = 10_000
_SUBCLUSTERS: Final = tuple(f"ce{number:02}.example.org" for number in range(4))
_BIN: Final = Path(sys.executable).parent
_HEAVY: Final = ("ldap3", "requests", "apscheduler", "structlog", "cryptography", "msgspec")
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""As at a site: with byte code kept and output buffered, whatever is set here."""
_UNLOCKED: Final = """
import os, sys
path = sys.argv[1]
for number in range(int(sys.argv[3])):
    lines = open(path).read() + f"VO-dteam-{sys.argv[2]}-{number}\\n"
    temporary = f"{path}.{os.getpid()}"
    open(temporary, "w").write(lines)
    os.rename(temporary, path)
"""


class _Site:
    """Tag lists of one VO on some subclusters, and the settings that name them."""

    def __init__(self, base: Path, count: int, subclusters: Sequence[str]) -> None:
        self._config, self.tags = base / "agent.toml", base / "tags"
        names = ", ".join(f'"{name}"' for name in subclusters)
        self._config.write_text(
            f'[site]\nname = "BENCH"\nvos = ["dteam"]\nsubclusters = [{names}]\n[repository]\nurl = "http://127.0.0.1:9/"\n'
            '[paths]\ntags = "tags"\ncache = "cache"\nglobal_tags = "none"\n[infosys]\nservice = "bench"\n'
        )
        (base / "cache").mkdir()
        content = "".join(f"VO-dteam-software-{number:05}-1.0\n" for number in range(count))
        for name in subclusters:
            (self.tags / name / "dteam").mkdir(parents=True)
            (self.tags / name / "dteam" / "dteam.list").write_text(content)

    def provider(self, *words: str) -> list[str]:
        """Give a provider's command line."""
        return [str(_BIN / "pps-agent"), "--config", str(self._config), "tag", *words]

    def manage(self, *words: str) -> list[str]:
        """Give a command line of ``lcg-ManageVOTag``."""
        target = ["-config", str(self._config), "-host", _SUBCLUSTERS[0], "-vo", "dteam"]
        return [str(_BIN / "lcg-ManageVOTag"), *target, *words]


def measure_provider() -> Iterator[Claim]:
    """Measure the providers of GLUE 1 and GLUE 2 with ten thousand tags on each of four subclusters."""
    with tempfile.TemporaryDirectory() as scratch:
        site = _Site(Path(scratch), _TAGS, _SUBCLUSTERS)
        commands = {"glue1": site.provider("ldif"), "glue2": site.provider("render", "--format", "glue2")}
        floor, *taken = _alternate([sys.executable, "-c", "pass"], *commands.values())
    for (name, limit_ms), value in zip({"glue1": 150, "glue2": 220}.items(), taken, strict=True):
        yield _above(f"tag-provider {name}", value, floor, limit_ms)


def measure_scale() -> Iterator[Claim]:
    """Measure how the providers' time beyond the interpreter's start grows from ten to forty thousand tags."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        sites = [_Site(Path(base), count, _SUBCLUSTERS[:1]) for base, count in ((small, _TAGS), (large, 4 * _TAGS))]
        for name, words in {"glue1": ("ldif",), "glue2": ("render", "--format", "glue2")}.items():
            floor, little, much = _alternate([sys.executable, "-c", "pass"], *(site.provider(*words) for site in sites))
            ratio = (much - floor) / (little - floor)
            yield Claim(
                f"tag-provider-scale {name}",
                round((much - floor) * 1e3, 1),
                "ms",
                "a quarter of the tags",
                round((little - floor) * 1e3, 1),
                round(ratio, 2),
                "<= 5",
                ratio <= 5,
            )


def measure_cli() -> Iterator[Claim]:
    """Measure list, add and remove at ten thousand tags beside ``arcctl rte list``."""
    with tempfile.TemporaryDirectory() as scratch:
        site = _Site(Path(scratch), _TAGS, _SUBCLUSTERS[:1])
        arc = Path(scratch) / "arc.conf"
        arc.write_text(
            f"[common]\n[arex]\ncontroldir = {scratch}/control\nruntimedir = {scratch}\n[lrms]\nlrms = fork\n"
        )
        new = ("-tag", "VO-dteam-new")
        floor, peer, listing, adding, removing = _alternate(
            [sys.executable, "-c", "pass"],
            ["arcctl", "--config", str(arc), "rte", "list"],
            site.manage("--list"),
            site.manage("--add", *new),
            site.manage("--remove", *new),
        )
    for name, value in {"list": listing, "add": adding, "remove": removing}.items():
        yield _above(f"tag-cli {name}", value, floor, 60)
        yield Claim(
            f"tag-cli {name} beside arcctl",
            round(value * 1e3, 1),
            "ms",
            "arcctl rte list",
            round(peer * 1e3, 1),
            round(value / peer, 3),
            "< 1",
            value < peer,
        )


def measure_imports() -> Iterator[Claim]:
    """Count the heavy packages that commands and providers load."""
    with tempfile.TemporaryDirectory() as scratch:
        site = _Site(Path(scratch), 10, _SUBCLUSTERS[:1])
        commands = [
            *(site.provider(*words) for words in (("list",), ("ldif",), ("render", "--format", "glue2"))),
            site.manage("--list"),
            site.manage("--add", "-tag", "VO-dteam-new"),
        ]
        loaded = set()
        for command in commands:
            done = subprocess.run(
                [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
            )
            names = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
            loaded |= names & set(_HEAVY)
    yield Claim("tag-imports", len(loaded), "packages", "none", 0, len(loaded), "0", not loaded, note=" ".join(loaded))


def measure_concurrent() -> Iterator[Claim]:
    """Count the tags lost by eight processes that add fifty each, with and without our lock."""
    names, count = "abcdefgh", 50
    script = (
        "import sys; from pathlib import Path; from pps_agent.tags.store import TagStore\n"
        "store = TagStore(Path(sys.argv[1]), (sys.argv[4],))\n"
        "for number in range(int(sys.argv[3])): store.add('dteam', [f'VO-dteam-{sys.argv[2]}-{number}'])\n"
    )
    lost = []
    for code in (script, _UNLOCKED):
        with tempfile.TemporaryDirectory() as scratch:
            site = _Site(Path(scratch), 0, _SUBCLUSTERS[:1])
            path = site.tags / _SUBCLUSTERS[0] / "dteam" / "dteam.list"
            target = site.tags if code is script else path
            words = [[str(target), name, str(count), _SUBCLUSTERS[0]] for name in names]
            writers = [subprocess.Popen([sys.executable, "-c", code, *one]) for one in words]
            if any(writer.wait() for writer in writers):
                raise RuntimeError("a writer failed")
            lost.append(len(names) * count - len(set(path.read_text().split())))
    ours, peer = lost
    yield Claim("tag-concurrent", ours, "tags lost", "unlocked read, edit, rename", peer, ours, "0", ours == 0)


def _alternate(*commands: Sequence[str]) -> list[float]:
    """Run commands in turn, the first round uncounted; give each one's median seconds."""
    taken: list[list[float]] = [[] for _ in commands]
    for number in range(_ROUNDS + 1):
        for times, command in zip(taken, commands, strict=True):
            began = time.perf_counter()
            subprocess.run(command, check=True, env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if number:
                times.append(time.perf_counter() - began)
            threading.Event().wait(0.01)
    return [statistics.median(times) for times in taken]


def _above(name: str, value: float, floor: float, limit_ms: float) -> Claim:
    above_ms = (value - floor) * 1e3
    return Claim(
        name,
        round(above_ms, 1),
        "ms above it",
        "an interpreter's start",
        round(floor * 1e3, 1),
        round(value / floor, 2),
        f"<= {limit_ms:g} ms above it",
        above_ms <= limit_ms,
    )
