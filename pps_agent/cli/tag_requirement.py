"""``tag requirement``."""

import click

from pps_agent.cli import context
from pps_agent.cli.tag_site import refuse
from pps_agent.errors import ConfigError
from pps_wire.errors import WireError
from pps_wire.names import Vo, parse_vo
from pps_wire.requirement import Form, find_vo, render_condition, render_requirement


@click.command()
@click.argument("name", metavar="TAG")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    required=True,
    help="Language of the job: jdl (gLite), classad (HTCondor submit file), xrsl (ARC), dirac, slurm.",
)
@click.option("--vo", help="Virtual organisation; else the one of site.vos whose tag it is.")
@click.option("--bare", is_flag=True, help="Only the condition, to be joined to those that the job has.")
@context.output_option
def requirement(name: str, form: str, vo: str | None, bare: bool, output: str) -> int:
    """Print what a job says to run where this tag is published. With --vo it reads no settings."""
    render = render_condition if bare else render_requirement
    try:
        owner = _owner(name) if vo is None else parse_vo(vo)
        text = render(name, Form(form), vo=owner)
    except WireError as exc:
        return refuse(exc)
    if output == "json":
        context.print_json({"format": form, "tag": name, "requirement": text})
    else:
        click.echo(text)
    return 0


def _owner(name: str) -> Vo:
    try:
        vos = context.tag_settings().site.vos
    except ConfigError as exc:
        raise ConfigError(
            (*exc.faults, "the tag's VO was to be looked up there: with --vo VO no settings are read")
        ) from exc
    return find_vo(name, vos)
