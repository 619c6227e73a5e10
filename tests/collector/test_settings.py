"""Settings: one file and options, all faults at once."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pps_collector.errors import ConfigError
from pps_collector.settings import Address, Settings, load_settings, parse_settings


def faults_of(text: str, options: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "c.toml", options or {})
    return caught.value.faults


def test_an_empty_file_gives_the_defaults():
    settings = parse_settings("", "c.toml", {})
    assert settings == Settings()
    assert settings.database_url == "sqlite:////var/lib/pps-collector/collector.db"


def test_options_stand_over_the_file():
    text = 'listen = "0.0.0.0:1"\nstate = "/s"\nnames = ["a.example.org", "::1"]\nsilent_after_s = 60\n'
    settings = parse_settings(text, "c.toml", {"listen": "[::1]:0", "database": "postgresql://db/pps"})
    assert settings.listen == Address("::1", 0)
    assert str(settings.listen) == "[::1]:0"
    assert (settings.state, settings.names, settings.silent_after_s) == (Path("/s"), ("a.example.org", "::1"), 60)
    assert settings.database_url == "postgresql+psycopg://db/pps"


def test_all_faults_are_listed_with_their_lines():
    faults = faults_of('lisen = "x"\n\npages = 8080\nsilent_after_s = true\n', {"database": "mysql://x"})
    assert len(faults) == 4
    assert faults[0].startswith("c.toml:1: unknown key lisen; did you mean listen?")
    assert faults[1].startswith("c.toml:3: pages:")
    assert faults[2].startswith("c.toml:4: silent_after_s:")
    assert faults[3].startswith("--database: database: 'mysql'")


@pytest.mark.parametrize(
    "text", ["listen = 1", 'names = "x"', 'names = ["a b"]', "queue_bytes = 1", "state = 3", "[x]"]
)
def test_each_wrong_value_is_named(text):
    assert len(faults_of(text)) == 1


@given(text=st.text(max_size=60))
def test_any_text_gives_settings_or_faults(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_settings(text, "c.toml", {}), Settings)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "c.toml", {})
