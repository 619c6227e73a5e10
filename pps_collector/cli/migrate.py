"""``pps-collector migrate``."""

from pathlib import Path

import click
import msgspec

from pps_collector.cli.options import dry_run_option, output_option, read_settings, settings_options
from pps_collector.clock import utc_now
from pps_collector.identity.authority import open_authority
from pps_collector.log import set_up_logging
from pps_collector.store.database import is_missing, open_database
from pps_collector.store.schema import SchemaState, migrate, observe_schema, wanted_revision


@click.command("migrate")
@settings_options
@dry_run_option
@output_option
def command(config: Path | None, state: str | None, database: str | None, dry_run: bool, output: str) -> None:
    """Make the database and the certificate authority ready; what is there stays."""
    settings = read_settings(config, state=state, database=database)
    set_up_logging()
    if dry_run and is_missing(settings.database_url):
        before = after = SchemaState(None, wanted_revision())
    else:
        engine = open_database(settings.database_url)
        try:
            before = observe_schema(engine)
            after = before if dry_run else migrate(engine)
        finally:
            engine.dispose()
    if not dry_run:
        open_authority(settings.state, utc_now())
    facts = {"before": before.found, "after": after.wanted if dry_run else after.found, "dry_run": dry_run}
    verb = "would go" if dry_run else "went"
    text = f"schema {verb} from {before.found or 'nothing'} to {facts['after']}"
    click.echo(msgspec.json.encode(facts) if output == "json" else text)
