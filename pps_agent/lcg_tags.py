"""``lcg-ManageVOTag`` and ``lcg-tags``: VO tags for scripts that call the commands of these names.

Both are one program over the same lists as ``pps-agent tag``. A list is printed bare, one tag a line, on stdout; all
else goes to stderr. Nothing is ever asked. Exit codes: 0 done, 1 refused, 2 unknown target or usage, 3 files.
Sources: the gLite certification tests UI-tag-managevotag.sh and UI-tag-lcgtags.sh, and the experiments' scripts that
call the commands; the original programs' text is not public, so what neither shows is ours (see docs/howto/vo-tags.md).
Standard library only: scripts call this once for each tag.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pps_agent.errors import AgentError, exit_code_of
from pps_agent.settings_tags import TagSettings
from pps_agent.settings_tags_file import load_tag_settings
from pps_agent.tags.areas import Area, find_areas
from pps_agent.tags.change import Request
from pps_agent.tags.errors import UnknownTargetError
from pps_agent.tags.listing import parse_tokens
from pps_agent.tags.store import TagStore
from pps_wire.errors import WireError
from pps_wire.names import Subcluster, Tag, Vo, parse_tag, parse_vo

DEFAULT_CONFIG: Final = "/etc/pps-agent/agent.toml"
MAX_FILE_BYTES: Final = 16 * 1024**2
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2


class _UsageError(Exception):
    """The command line cannot be carried out as it stands."""


class Grammar(NamedTuple):
    """The options of one of the commands, all with one dash or two: with one value, with several, and without."""

    program: str
    usage: str
    single: frozenset[str]
    several: frozenset[str]
    verbs: tuple[str, ...]
    targets: str


class _Options:
    """A command line, read."""

    def __init__(self) -> None:
        self.verb = ""
        self.values: dict[str, str] = {}
        self.words: list[str] = []
        self.flags: set[str] = set()


MANAGE: Final = Grammar(
    "lcg-ManageVOTag",
    "-host HOST -vo VO (--list | --add|--remove (-tag TAG… | -file FILE) | --replace -tag OLD NEW)",
    frozenset({"host", "vo", "file", "config"}),
    frozenset({"tag"}),
    ("list", "add", "remove", "replace"),
    "--host",
)
TAGS: Final = Grammar(
    "lcg-tags",
    "(--ce HOST | --sc SUBCLUSTER) --vo VO (--list | --add|--remove (--tags TAG,TAG | --tagfile FILE))",
    frozenset({"ce", "sc", "vo", "tagfile", "config"}),
    frozenset({"tags"}),
    ("list", "add", "remove"),
    "--ce or --sc",
)
_FLAGS: Final = frozenset({"dry-run", "verbose", "debug", "help", "h"})
_HELP: Final = """Usage: {program} {usage}

List, add or remove a VO's tags, on all subclusters of a site's HOST or on one subcluster. All of a change is done or
nothing. Options may have one dash or two.

  FILE             tags, parted by white space; a line that begins with # is a comment
  --dry-run        say what would change; change nothing
  --verbose        say what was done
  --config FILE    settings of the agent; else $PPS_AGENT_CONFIG, else {config}
  --help           this text

Exit codes: 0 done, 1 refused, 2 unknown target or usage, 3 files, 6 half done, 78 settings.
"""


def manage_vo_tag() -> int:
    """Run ``lcg-ManageVOTag``, for the console script."""
    return run(MANAGE, sys.argv[1:])


def lcg_tags() -> int:
    """Run ``lcg-tags``, for the console script."""
    return run(TAGS, sys.argv[1:])


def run(grammar: Grammar, arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code."""
    os.umask(0o022)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller closed it: nobody wants to know
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the end
    program = grammar.program
    try:
        options = _parse(grammar, arguments)
        if options.flags & {"help", "h"}:
            return _write(program, _HELP.format(program=program, usage=grammar.usage, config=DEFAULT_CONFIG))
        return _carry_out(grammar, options)
    except _UsageError as exc:
        return _complain(program, f"{exc}; see {program} --help", EXIT_USAGE)
    except WireError as exc:
        return _complain(program, str(exc), EXIT_REFUSED)
    except AgentError as exc:
        return _complain(program, str(exc), exit_code_of(exc))
    except KeyboardInterrupt:
        return _complain(program, "interrupted; nothing was changed", 130)


def _parse(grammar: Grammar, arguments: Sequence[str]) -> _Options:
    """Read a command line; ``argparse`` would cost a fifth of the command's time. Raises: _UsageError."""
    options, rest, takes_words = _Options(), list(arguments), False
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if not takes_words:
                raise _UsageError(f"{word!r} belongs to no option")
            options.words.append(word)
            continue
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        takes_words = name in grammar.several
        if takes_words:
            options.words += [value] if equals else []
        elif name in grammar.single:
            if not equals and (not rest or rest[0].startswith("-")):
                raise _UsageError(f"{word} needs a value")
            if name in options.values:
                raise _UsageError(f"{word} stands twice")
            options.values[name] = value if equals else rest.pop(0)
        elif name in grammar.verbs and not equals:
            if options.verb and options.verb != name:
                raise _UsageError(f"--{options.verb} and --{name} exclude each other")
            options.verb = name
        elif name in _FLAGS and not equals:
            options.flags.add(name)
        else:
            raise _UsageError(f"there is no option {word}")
    return options


def _carry_out(grammar: Grammar, options: _Options) -> int:
    program, values = grammar.program, options.values
    if not options.verb:
        raise _UsageError(f"say what to do: --{', --'.join(grammar.verbs[:-1])} or --{grammar.verbs[-1]}")
    if "vo" not in values or not _target(values):
        raise _UsageError(f"name the VO (--vo) and the target ({grammar.targets})")
    config = values.get("config") or os.environ.get("PPS_AGENT_CONFIG", DEFAULT_CONFIG)
    settings = load_tag_settings(Path(config).absolute())
    area, targets = _find_targets(settings, values)
    store, vo = area.open(), parse_vo(values["vo"])
    if options.verb == "list":
        found = dict.fromkeys(tag for target in targets for tag in store.list_tags(vo, target))
        return _write(program, "\n".join((*found, "")))
    # lcg-tags parts them by commas; no tag holds one.
    words = [text for word in options.words for text in word.split(",") if text]
    tags = tuple(parse_tag(text, vo) for text in (*words, *_read_file(values)))
    request = Request(via=program, dry_run="dry-run" in options.flags)
    _change(program, options, store, (vo, tags, targets), request)
    return 0


def _change(
    program: str,
    options: _Options,
    store: TagStore,
    what: tuple[Vo, tuple[Tag, ...], tuple[Subcluster, ...]],
    request: Request,
) -> None:
    vo, tags, targets = what
    if options.verb == "replace":
        if len(tags) != 2 or "file" in options.values:
            raise _UsageError("--replace takes -tag OLD NEW")
        change = store.replace(vo, tags[0], tags[1], targets, request=request)
    elif not tags:
        raise _UsageError(f"--{options.verb} needs tags")
    elif options.verb == "add":
        change = store.add(vo, tags, targets, request=request)
    else:
        change = store.remove(vo, tags, targets, request=request)
    for tag in change.present:
        _say(program, f"already present: {tag}")
    if options.flags & {"verbose", "debug", "dry-run"}:
        for word, names in (("add", change.added), ("remove", change.removed)):
            for tag in names:
                _say(program, f"would {word} {tag}" if request.dry_run else f"{word} {tag}: done")


def _target(values: Mapping[str, str]) -> str:
    named = [values[name] for name in ("host", "ce", "sc") if name in values]
    if len(named) > 1:
        raise _UsageError("--ce and --sc exclude each other")
    return named[0] if named else ""


def _find_targets(settings: TagSettings, values: Mapping[str, str]) -> tuple[Area, tuple[Subcluster, ...]]:
    """Give what a command line means: a host stands for all subclusters of its information system."""
    areas, wanted = find_areas(settings), _target(values)
    for area in areas:
        if "sc" not in values and wanted in area.hosts:
            return area, area.subclusters
        if wanted in area.subclusters:
            return area, (Subcluster(wanted),)
    names = dict.fromkeys(name for area in areas for name in (*area.hosts, *area.subclusters))
    known = ", ".join(names) or "none (set site.subclusters)"
    raise UnknownTargetError(f"{wanted!r} is neither a host nor a subcluster of this site; known: {known}")


def _read_file(values: Mapping[str, str]) -> list[str]:
    path = values.get("file") or values.get("tagfile")
    if path is None:
        return []
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise _UsageError(f"{path}: {exc.strerror}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise _UsageError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return [token.decode("utf-8", "backslashreplace") for token in parse_tokens(content)]


def _write(program: str, text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:  # nobody reads on: the interpreter must have nothing to flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if isinstance(exc, BrokenPipeError) else _complain(program, f"standard output: {exc.strerror}", 3)
    return 0


def _complain(program: str, text: str, code: int) -> int:
    for line in text.splitlines():
        _say(program, f"error: {line}")
    return code


def _say(program: str, text: str) -> None:
    sys.stderr.write(f"{program}: {text}\n")
