"""Whatever text stands in a settings file: settings, or all its faults."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pps_agent.errors import ConfigError
from pps_agent.settings_file import describe_fields, load_settings
from pps_agent.settings_reader import Loaded
from tests.unit.test_settings_file import MINIMAL

NAMES = sorted({section for section, _, _ in describe_fields()} | {field.name for _, field, _ in describe_fields()})
VALUES = (
    "1",
    "-1",
    "0",
    "true",
    "1e400",
    "nan",
    "99999999999999999999999",
    '""',
    '"x"',
    '"https://x"',
    '"\\u0000"',
    "[]",
    '["dteam"]',
    "[[1]]",
    '{A = "1"}',
    "{A = {B = 1}}",
    "1979-05-27T07:32:00Z",
    '"""\n[site]\n"""',
)
lines = st.one_of(
    st.sampled_from(NAMES).map(lambda name: f"[{name}]"),
    st.sampled_from(NAMES).map(lambda name: f"[[{name}]]"),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)).map(" = ".join),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(VALUES)).map(
        lambda parts: f"{parts[0]}.{parts[1]} = {parts[2]}"
    ),
    st.text(max_size=20),
)
texts = st.one_of(st.lists(lines, max_size=8).map("\n".join), st.text(max_size=200))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings")
    (path / "conf.d").mkdir()
    return path


def check(base: Path, main: bytes, more: bytes) -> None:
    (base / "agent.toml").write_bytes(main)
    (base / "conf.d" / "a.toml").write_bytes(more)
    faults: tuple[str, ...] = ()
    try:
        loaded = load_settings(base / "agent.toml")
    except ConfigError as exc:
        faults = exc.faults or ("none told",)
    else:
        assert isinstance(loaded, Loaded)
        assert loaded.settings.site.vos
    assert all(fault.startswith(str(base)) for fault in faults)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, texts)
def test_any_text_gives_settings_or_its_faults(base: Path, main: str, more: str) -> None:
    check(base, main.encode(errors="surrogatepass"), more.encode(errors="surrogatepass"))
    check(base, MINIMAL.encode(), more.encode(errors="surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_settings_or_their_faults(base: Path, raw: bytes) -> None:
    check(base, raw, b"")


def test_deep_nesting_is_a_fault_and_no_crash(base: Path) -> None:
    check(base, b"x = " + b"[" * 5000 + b"]" * 5000, b"")
    check(base, MINIMAL.encode(), b"[probes]\nenv = " + b"{a=" * 3000 + b"1" + b"}" * 3000)
