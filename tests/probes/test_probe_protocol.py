"""The messages between agent and runner: exact both ways, and safe against any bytes."""

import dataclasses
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_agent.probes.answers import parse_answer
from pps_agent.probes.fields import MAX_LINE_BYTES, LineBuffer
from pps_agent.probes.protocol import (
    LIMIT_NAMES,
    MAX_SECRET_FILES,
    Base,
    Greeting,
    RunRequest,
    RunResponse,
    Template,
    parse_agent_line,
    parse_greeting,
    parse_runner_line,
    render_base,
    render_beat,
    render_greeting,
    render_request,
    render_response,
)
from pps_wire.errors import WireError

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0="), min_size=1, max_size=10)
_count = st.integers(0, 2**40)
_seconds = st.floats(0, 10_000, allow_nan=False)
_requests = st.builds(
    RunRequest,
    run=st.text("abc0123", min_size=1, max_size=64),
    argv=st.lists(_text, max_size=5).map(lambda rest: ("/probe", *rest)),
    env=st.dictionaries(_name, _text, max_size=5),
    timeout_s=st.floats(0.001, 86_400),
    grace_s=st.floats(0, 60),
    base=st.text("abc0123", max_size=64),
    secret_files=st.dictionaries(_name, st.binary(max_size=50), max_size=3),
)
_responses = st.builds(
    RunResponse,
    run=_text,
    exit=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    timed_out=st.booleans(),
    failure=_text,
    killed_by=_text,
    oom=st.booleans(),
    stdout=st.binary(max_size=50),
    stdout_bytes=_count,
    stderr=st.binary(max_size=50),
    stderr_bytes=_count,
    leftovers_killed=_count,
    cpu_s=_seconds,
    max_rss_bytes=_count,
    duration_s=_seconds,
)
_REQUEST_KEYS = ["run", "argv", "env", "timeout_s", "grace_s", "base", "secret_files"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(request=_requests)
def test_a_request_is_read_back_as_it_was(request: RunRequest) -> None:
    line = render_request(request)
    assert line.count(b"\n") == 1
    assert parse_agent_line(line) == request


@given(response=_responses)
def test_a_response_is_read_back_as_it_was(response: RunResponse) -> None:
    assert parse_runner_line(render_response(response)) == response


def read(parse: Callable[[bytes], RunResponse | None], line: bytes) -> object:
    """Give what a reader makes of a line, a refusal included."""
    try:
        return parse(line)
    except WireError:
        return "refused"


_lines = (
    st.binary(max_size=300)
    | st.builds(render_response, _responses)
    | st.dictionaries(st.sampled_from(sorted(f.name for f in dataclasses.fields(RunResponse))), _json).map(
        lambda fields: json.dumps({"run": "a1", **fields}).encode()
    )
)


@given(line=_lines)
def test_the_fast_reader_gives_what_the_strict_one_gives(line: bytes) -> None:
    assert read(parse_answer, line) == read(parse_runner_line, line)


@given(line=st.builds(render_response, _responses), place=st.integers(0, 400), octet=st.integers(0, 255))
def test_the_fast_reader_follows_the_strict_one_when_a_byte_is_wrong(line: bytes, place: int, octet: int) -> None:
    place = min(place, len(line) - 1)
    spoilt = line[:place] + bytes([octet]) + line[place + 1 :]
    assert read(parse_answer, spoilt) == read(parse_runner_line, spoilt)


@given(request=_requests, run=st.text("abc0123", min_size=1, max_size=64))
def test_a_request_that_comes_again_differs_in_the_name_of_its_run_only(request: RunRequest, run: str) -> None:
    assert Template(request).render(run) == render_request(dataclasses.replace(request, run=run))


def test_a_greeting_is_read_back_as_it_was() -> None:
    greeting = Greeting(7, 9, landlock=6, cgroup=True)
    assert parse_greeting(render_greeting(greeting)) == greeting


_limits = st.dictionaries(st.sampled_from(LIMIT_NAMES), st.integers(1, 2**62))


@given(env=st.dictionaries(_name, _text, max_size=5), limits=_limits)
def test_a_base_is_read_back_as_it_was(env: dict[str, str], limits: dict[str, int]) -> None:
    base = Base("b1", env, limits)
    assert parse_agent_line(render_base(base)) == base


@pytest.mark.parametrize(
    "change",
    [
        {"base": ""},
        {"base": "a b"},
        {"base": None},
        {"env": {"A=B": "x"}},
        {"env": []},
        {"limits": {"cpu_s": 0}},
        {"limits": {"cpu_s": True}},
        {"limits": {"nice": 5}},
        {"limits": []},
        {"more": 1},
    ],
)
def test_a_base_outside_the_bounds_is_refused(change: dict[str, object]) -> None:
    good = {"base": "b1", "env": {"A": "x"}, "limits": {"cpu_s": 5}}
    assert isinstance(parse_agent_line(json.dumps(good).encode()), Base)
    with pytest.raises(WireError):
        parse_agent_line(json.dumps({**good, **change}).encode())


def test_what_has_its_default_is_left_out_of_an_answer() -> None:
    assert render_response(RunResponse(run="a1", exit=0)) == b'{"run":"a1","exit":0}\n'


def test_a_beat_is_no_answer() -> None:
    assert parse_runner_line(render_beat()) is None


def test_a_secret_does_not_show_where_a_request_is_shown() -> None:
    request = RunRequest("a1", ("/x",), {}, 1.0, 0.0, secret_files={"TOKEN": b"do not tell"})
    assert "do not tell" not in repr(request)


def test_a_greeting_of_another_protocol_says_so() -> None:
    with pytest.raises(WireError, match="speaks protocol 2"):
        parse_greeting(b'{"protocol":2,"pid":1,"uid":1}')


@given(line=st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_message_or_a_wire_error(line: bytes) -> None:
    for parse in (parse_agent_line, parse_runner_line, parse_greeting):
        try:
            parse(line)
        except WireError:
            continue


@given(request=_requests, key=st.sampled_from(_REQUEST_KEYS), value=_json)
def test_a_request_with_any_one_wrong_value_is_a_request_or_a_wire_error(
    request: RunRequest, key: str, value: object
) -> None:
    fields = json.loads(render_request(request))
    fields[key] = value
    try:
        parse_agent_line(json.dumps(fields).encode())
    except WireError:
        return


@pytest.mark.parametrize(
    "change",
    [
        {"run": ""},
        {"run": "a/b"},
        {"argv": []},
        {"argv": ["relative"]},
        {"argv": ["/x\0y"]},
        {"argv": ["/x"] * 65},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": 1}},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"timeout_s": 10**400},
        {"timeout_s": True},
        {"grace_s": 61},
        {"limits": {"cpu_s": 1}},
        {"shell": "yes"},
        {"base": 1},
        {"secret_files": {"A=B": ""}},
        {"secret_files": {"A": "no base64"}},
        {"secret_files": {f"A{n}": "" for n in range(MAX_SECRET_FILES + 1)}},
        {"argv": ["/\ud800x\udfff\U0010ffff", "\ud800"]},
    ],
)
def test_a_request_outside_the_bounds_is_refused(change: dict[str, object]) -> None:
    good = {"run": "a1", "argv": ["/x"], "env": {}, "timeout_s": 1, "grace_s": 0}
    assert isinstance(parse_agent_line(json.dumps(good).encode()), RunRequest)
    with pytest.raises(WireError):
        parse_agent_line(json.dumps({**good, **change}).encode())


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"run":' * 50_000, b"1" * 5000, b"\xff\xfe{\0}\0", b"null"])
def test_nested_huge_or_foreign_json_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_agent_line(line)


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest("a1", ("relative",), {}, 1.0, 0.0),
        RunRequest("a1", ("/x",), {"A": "x\0y"}, 1.0, 0.0),
        RunRequest("a1", ("/x",), {"A=B": "x"}, 1.0, 0.0),
        RunRequest("a1", ("/x",), {}, 0.0, 0.0),
    ],
)
def test_what_a_runner_would_refuse_is_not_sent(request_: RunRequest) -> None:
    with pytest.raises(WireError):
        render_request(request_)


@given(chunks=st.lists(st.binary(max_size=20), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks: list[bytes]) -> None:
    pieces = LineBuffer()
    found = [line for chunk in chunks for line in pieces.feed(chunk)]
    assert found == b"".join(chunks).split(b"\n")[:-1]


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines = LineBuffer()
    for _ in range(MAX_LINE_BYTES // 65_536):
        assert list(lines.feed(b"x" * 65_536)) == []
    with pytest.raises(WireError):
        list(lines.feed(b"x"))


def test_an_environment_too_large_for_a_line_is_refused_before_it_is_sent() -> None:
    with pytest.raises(WireError, match="at most"):
        render_request(RunRequest("a", ("/x",), {"A": "x" * MAX_LINE_BYTES}, 1.0, 1.0))
