"""``pps-agent config``: check the settings, or show the effective ones and where each came from."""

from typing import Any

import click

from pps_agent.cli import context
from pps_agent.settings import Settings
from pps_agent.settings_file import describe_fields, describe_tables
from pps_agent.settings_reader import Loaded


@click.group()
def config() -> None:
    """Check or show the settings."""


@config.command()
@context.output_option
def check(output: str) -> None:
    """Read all settings files; list every fault with its line. Exit 78 when there is one."""
    loaded = context.load()
    if output == "json":
        context.print_json({"ok": True, "files": [str(path) for path in loaded.files]})
    else:
        click.echo(f"ok: {', '.join(str(path) for path in loaded.files)}")


@config.command()
@context.output_option
def show(output: str) -> None:
    """Print every effective setting and the file and line it came from."""
    loaded = context.load()
    rows = [(f"{section}.{name}", value, origin) for section, name, value, origin in _effective(loaded)]
    if output == "json":
        context.print_json({key: {"value": value, "origin": origin} for key, value, origin in rows})
    else:
        context.print_table(
            ("SETTING", "VALUE", "ORIGIN"), [(key, _text(value), origin) for key, value, origin in rows]
        )


def _effective(loaded: Loaded[Settings]) -> list[tuple[str, str, Any, str]]:
    rows = []
    for section, field, _ in describe_fields():
        value = getattr(getattr(loaded.settings, section), field.name)
        rows.append((section, field.name, value, loaded.origins.get(f"{section}.{field.name}", "default")))
    for section, field, _ in describe_tables():
        for name, table in getattr(loaded.settings, section).items():
            where = f"{section}.{name}"
            origin = loaded.origins.get(f"{where}.{field.name}", "default")
            rows.append((where, field.name, getattr(table, field.name), origin))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "(none)"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "(none)"
    return "(unset)" if value in (None, "") else str(value)
