"""``pps-collector enrol-token``."""

import re
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from pps_collector.cli.options import dry_run_option, output_option, read_settings, settings_options
from pps_collector.clock import utc_now
from pps_collector.errors import SiteError
from pps_collector.identity.enrolment import MAX_VALID, create_token
from pps_collector.log import set_up_logging
from pps_collector.settings import Settings
from pps_collector.store.database import open_database
from pps_collector.store.schema import observe_schema
from pps_wire.errors import WireError
from pps_wire.names import Site, parse_site

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def _read_site(_ctx: click.Context, _param: click.Parameter, text: str) -> Site:
    try:
        return parse_site(text)
    except WireError as exc:
        raise click.BadParameter(str(exc)) from exc


def _read_valid(_ctx: click.Context, _param: click.Parameter, text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    valid = int(match[1]) * _UNITS[match[2]] if match else timedelta(0)
    if not timedelta(0) < valid <= MAX_VALID:
        raise click.BadParameter(f"{text!r}: write a number and m, h or d, at most {MAX_VALID.days}d, e.g. 24h")
    return valid


@click.command("enrol-token")
@settings_options
@click.option("--site", required=True, callback=_read_site, help="Site as the topology source writes it.")
@click.option("--valid", default="24h", show_default=True, callback=_read_valid, help="How long it may be used.")
@dry_run_option
@output_option
def command(
    config: Path | None,
    state: str | None,
    database: str | None,
    site: Site,
    valid: timedelta,
    dry_run: bool,
    output: str,
) -> None:
    """Make a one-time token that enrols one agent of a site.

    The token is printed once and stored nowhere; give it to the site's administrator.
    """
    settings = read_settings(config, state=state, database=database)
    set_up_logging()
    if dry_run:
        text = f"would make a token for {site}, valid until {utc_now() + valid:%Y-%m-%dT%H:%M:%SZ}"
        click.echo(msgspec.json.encode({"site": site, "dry_run": True}) if output == "json" else text)
        return
    facts = _make(settings, site, valid)
    click.echo(msgspec.json.encode(facts) if output == "json" else facts["token"])
    click.echo(f"valid until {facts['expires_at']}, for one agent of {site}", err=True)


def _make(settings: Settings, site: Site, valid: timedelta) -> dict[str, str]:
    engine = open_database(settings.database_url)
    try:
        if not observe_schema(engine).is_current:
            raise SiteError("the database is not ready; run pps-collector migrate")
        token = create_token(engine, site, valid, utc_now())
    finally:
        engine.dispose()
    return {"token": token.text, "site": site, "expires_at": f"{token.expires_at:%Y-%m-%dT%H:%M:%SZ}"}
