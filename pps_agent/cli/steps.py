"""``release acknowledge``: a person says that a configuration step is done."""

import click

from pps_agent.actor import observe_actor
from pps_agent.cli import context
from pps_agent.cli.releases import find, look
from pps_agent.errors import AgentError
from pps_agent.policy import find_open_steps
from pps_agent.sight import Sight
from pps_agent.state import Installed, Unknown
from pps_agent.steps import acknowledge as record
from pps_agent.steps import check_step, find_step
from pps_wire.release import ConfigStep


@click.command()
@click.argument("release_id")
@click.argument("step_id", metavar="STEP")
@context.dry_run_option
def acknowledge(release_id: str, step_id: str, dry_run: bool) -> None:
    """Say that a configuration step is done; its check command, where there is one, must pass.

    The release is announced once all its steps are acknowledged. Acknowledged for good: also after a
    new installation.
    """
    site, sight = look()
    installed, step = find_step(sight, find(sight, release_id).release, step_id)
    if step.id not in _open(sight, installed):
        return click.echo(f"{'dry run: ' if dry_run else ''}{step.id} of {installed.id} was acknowledged before")
    if dry_run:
        return context.print_line(_foretell(installed, step))
    check = check_step(site, installed, step)
    if check is not None and check.output:
        context.print_line(check.output)
    if check is not None and check.failure:
        raise AgentError(
            f"{step.id} is not done: its check {' '.join(check.argv)} failed: {check.failure};"
            f" do what the step says ({step.text}), then acknowledge it again"
        )
    record(site, installed.id, step, observe_actor())
    left = [one for one in _open(sight, installed) if one != step.id]
    then = f"next: pps-agent release acknowledge {installed.id} {left[0]}" if left else "the next round announces it"
    return context.print_line(f"{step.id} of {installed.id} is acknowledged; {then}")


def _open(sight: Sight, installed: Installed) -> tuple[str, ...]:
    resolve = sight.memory if isinstance(sight.memory, Unknown) else sight.memory.resolve
    return find_open_steps(installed.release, resolve)


def _foretell(installed: Installed, step: ConfigStep) -> str:
    check = f"run {' '.join(step.check)} and, when that exits 0, " if step.check else ""
    return f"dry run: would {check}acknowledge {step.id} of {installed.id}: {step.text}"
