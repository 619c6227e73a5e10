"""``check_pps METRIC``: the newest result of a probe as a monitoring plugin, for the price of a Python start.

The daemon runs the probes and publishes their results; this prints one, or UNKNOWN when it is missing or too old. A
scheduler starts it thousands of times an hour: standard library only, and of that as little as can be.
Exit codes are a plugin's; what cannot be told is 3, UNKNOWN, help and version too.
Source: Monitoring Plugins Development Guidelines; ARGO's ask for ``-h``, ``-t`` and at most 16 KB of output.
"""

import os
import sys
import time

from pps_agent.probes.cached import STATUSES, CachedResult, find_results

DEFAULT_FILE = "/run/pps-agent/results.jsonl"
FILE_VARIABLE = "PPS_AGENT_RESULTS"
DEFAULT_MAX_AGE_S = 86_400
"""For results that nothing renews by itself, so that no OK stands for ever."""
MAX_SKEW_S = 120
MAX_OUTPUT_BYTES = 16_000
UNKNOWN = 3

USAGE = """check_pps METRIC [--release ID | --worst] [--max-age S] [--file F] [-t S]
                 [-v] [-H HOST] [-h] [-V]"""
HELP = f"""Usage: {USAGE}

Give the newest result that pps-agent has of METRIC and exit as it does: 0 OK,
1 WARNING, 2 CRITICAL, 3 UNKNOWN. A result that is missing or too old is
UNKNOWN. METRIC is a full name, e.g. org.pps.sys.disk, no alias.

  --release ID      the result on this preview; else on the production client
  --worst           the worst of all results of METRIC, whatever the release
  --max-age S       UNKNOWN when it is older, in seconds; else after the
                    probe's own limit, or {DEFAULT_MAX_AGE_S} s where it has none
  --file F          where the results are; else ${FILE_VARIABLE}, else
                    {DEFAULT_FILE}
  -t, --timeout S   give up before this many seconds are over
  -v, --verbose     also the details; twice: also when and how it ran
  -H, --hostname H  taken and ignored: schedulers pass it
  -h, --help        this text (exit 3)
  -V, --version     the version (exit 3)
"""
_VALUES = {
    "--release": "release",
    "--max-age": "max-age",
    "--file": "file",
    "-t": "timeout",
    "--timeout": "timeout",
    "-H": "host",
    "--hostname": "host",
}
_FLAGS = {"--worst": "worst", "-v": "verbose", "--verbose": "verbose"}
_SEVERITY = {"OK": 0, "WARNING": 1, "UNKNOWN": 2, "CRITICAL": 3}


class CannotTellError(Exception):
    """What is told in place of a result, with the next thing to try."""


def main() -> int:
    """Print one result and give the plugin's exit code. For the console script."""
    code, text = answer(sys.argv[1:])
    if sys.stdout is None:  # closed by whoever started us: Python's own code for writing there is 1, which is WARNING
        return UNKNOWN
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except OSError:  # nobody reads: the interpreter must have nothing to flush at its end, and 120 is no status
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNKNOWN
    return code


def answer(arguments: list[str]) -> tuple[int, bytes]:
    """Give the exit code and the output for these arguments. Raises nothing, for any file and any argument."""
    limit_s = 0
    try:
        asked, metric = parse_arguments(arguments)
        limit_s = int(asked.get("timeout", "0"))
        if limit_s:
            _limit_time(max(0.5, limit_s - 0.5))  # before the caller's own limit, at which it says what it likes
        path = asked.get("file") or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE
        told = [_tell(result, asked) for result in _find(path, metric, asked)]
    except CannotTellError as exc:
        return UNKNOWN, _encode(f"{exc}\n")
    finally:
        if limit_s:
            _limit_time(0)  # an alarm would end an interpreter that is ending
    status, text = max(told, key=lambda pair: _SEVERITY[pair[0]])
    return STATUSES.index(status), _encode(text)


def parse_arguments(arguments: list[str]) -> tuple[dict[str, str], str]:
    """Give the options by their names, and the metric; ``verbose`` has a letter for each time it was said.

    Raises: CannotTellError with the usage, or with what help and version print.
    """
    asked: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            words, rest = words + rest, []
        elif word in _FLAGS or (word.startswith("-v") and not word.strip("-v")):
            flag = _FLAGS.get(word, "verbose")
            asked[flag] = asked.get(flag, "") + "v" * (1 if word.startswith("--") else len(word) - 1)
        elif name in _VALUES and equals and word.startswith("--"):
            asked[_VALUES[name]] = value
        elif word[:2] in _VALUES and word[2:]:
            asked[_VALUES[word[:2]]] = word[2:]
        elif word in _VALUES and rest:
            asked[_VALUES[word]] = rest.pop(0)
        elif word.startswith("-"):
            raise _stop_at(word)
        else:
            words.append(word)
    if len(words) != 1 or not words[0]:
        raise _usage(f"one metric at a time, not {' '.join(words)}" if words else "name one metric")
    if "worst" in asked and "release" in asked:
        raise _usage("--worst looks at all releases: leave --release out")
    for name in ("max-age", "timeout"):
        if name in asked and not (asked[name].isascii() and asked[name].isdigit() and len(asked[name]) < 10):
            raise _usage(f"--{name} takes whole seconds, not {asked[name]!r}")
    return asked, words[0]


def _stop_at(word: str) -> CannotTellError:
    """Give what an option says that takes no value and ends the run."""
    if word in ("-h", "--help"):
        return CannotTellError(HELP.rstrip("\n"))
    if word in ("-V", "--version"):
        from pps_agent import __version__  # here, because few ask

        return CannotTellError(f"check_pps {__version__}")
    return _usage(f"{word} needs a value" if word in _VALUES else f"no such option: {word}")


def _usage(problem: str) -> CannotTellError:
    return CannotTellError(f"UNKNOWN - {clean_line(problem)}\nUsage: {USAGE}")


def _limit_time(seconds: float) -> None:
    """Say UNKNOWN and end after this time; 0: never."""
    import signal  # here, because it costs a tenth of the start

    def give_up(_number: int, _frame: object) -> None:
        try:
            os.write(1, b"UNKNOWN - no answer in time: does the file system of the results hang?\n")
        finally:
            os._exit(UNKNOWN)

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _find(path: str, metric: str, asked: dict[str, str]) -> list[CachedResult]:
    """Give the results that were asked for, at least one. Raises: CannotTellError."""
    results = _look(path, metric)
    wanted = asked.get("release", "")
    found = [result for result in results if "worst" in asked or result.release == wanted]
    if found:
        return found
    metric = clean_line(metric)
    if not results:
        raise CannotTellError(
            f"UNKNOWN - {clean_line(path)} has no result of {metric}: is that its full name (pps-agent probe list),"
            " does probes.enabled name it, was it due (pps-agent probe explain), does pps-agent.service run?"
        )
    others = sorted(clean_line(result.release) for result in results if result.release)
    if not wanted:
        raise CannotTellError(f"UNKNOWN - {metric} was run on releases only: add --worst, or --release {others[0]}")
    known = f"it was on {', '.join(others[:8])}" if others else "leave --release out"
    raise CannotTellError(f"UNKNOWN - {metric} was not run on {clean_line(wanted)}; {known}")


def _look(path: str, metric: str) -> list[CachedResult]:
    try:
        return find_results(path, metric)
    except FileNotFoundError:
        problem = "is not there: start pps-agent.service, and set probes.publish to that directory"
    except OSError as exc:
        problem = f"{exc.strerror}: let this user read it"
    except (ValueError, KeyError) as exc:
        problem = f"not as pps-agent writes it ({exc}): correct --file or restart pps-agent.service"
    raise CannotTellError(f"UNKNOWN - {clean_line(path)}: {clean_line(problem)}")


def _tell(result: CachedResult, asked: dict[str, str]) -> tuple[str, str]:
    """Give status and text of one result: its own while it is fresh, UNKNOWN after."""
    age_s = time.time() - result.at
    limit_s = DEFAULT_MAX_AGE_S if result.fresh_until is None else result.fresh_until - result.at
    limit_s = min(limit_s, float(asked["max-age"])) if "max-age" in asked else limit_s
    status = result.status
    summary = clean_line(result.summary).removeprefix(f"{status} - ")[:1000]
    where = f"[{clean_line(result.release)}] " if result.release and "worst" in asked else ""
    if age_s > limit_s:
        old = f"{where}the result is {age_s:.0f} s old and good for {limit_s:.0f} s: does pps-agent.service run?"
        return "UNKNOWN", f"UNKNOWN - {old} (it was {status}: {summary})\n"
    if age_s < -MAX_SKEW_S:
        return "UNKNOWN", f"UNKNOWN - {where}the result is dated {-age_s:.0f} s ahead: correct this machine's clock\n"
    perfdata = cut_perfdata(clean_line(result.perfdata))
    lines = [f"{status} - {where}{summary}" + (f"|{perfdata}" if perfdata else "")]
    verbose = len(asked.get("verbose", ""))
    if verbose and result.details:
        lines += map(clean_line, result.details.split("\n"))
    if verbose > 1:
        state = "hard" if result.hard else "soft"
        cause = clean_line(result.cause)[:40]
        lines.append(f"({age_s:.0f} s ago, attempt {result.attempt}, {state}, cause {cause})")
    return status, "\n".join(lines) + "\n"


def clean_line(text: str) -> str:
    """Give text as one line in which nothing begins performance data."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return text.replace("|", "¦")


def cut_perfdata(text: str, limit: int = 6000) -> str:
    """Give at most so many characters, cut between two values: a label in quotes may hold blanks."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    while head and (text[len(head)] != " " or head.count("'") % 2):
        head = head[:-1]
    return head


def _encode(text: str) -> bytes:
    """Give text as bytes, whatever the locale; what is too long ends with a mark."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_OUTPUT_BYTES:
        return raw
    return raw[:MAX_OUTPUT_BYTES].decode("utf-8", "ignore").encode() + b"\n[cut]\n"
