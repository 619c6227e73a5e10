"""The reference page of ``probe.toml`` names each key that the parser knows, and its example is read whole."""

import tomllib
from dataclasses import fields
from pathlib import Path

from pps_agent.probes.definition_file import KEYS, parse_definition
from tests.contract.probe_metadata import PROBE_EXAMPLE, PROBE_METADATA, smallest


def test_each_key_of_each_table_has_a_row() -> None:
    for table in ("probe", "requires", "limits"):
        assert tuple(PROBE_METADATA[table]) == KEYS[table]


def test_the_example_is_read_and_shows_nearly_every_key() -> None:
    faults: list[str] = []
    definition = parse_definition(PROBE_EXAMPLE.encode(), Path("/probes/se.put"), faults)
    assert faults == []
    assert definition is not None
    document = tomllib.loads(PROBE_EXAMPLE)
    assert set(KEYS["probe"]) - document["probe"].keys() == {"at"}  # which excludes splay_s
    assert KEYS[""] == tuple(document)
    default = smallest()
    same = {
        field.name for field in fields(definition) if getattr(definition, field.name) == getattr(default, field.name)
    }
    assert same == {"at", "digest", "format", "where", "retry_interval_s"}
