"""``pps-agent probe test``: a probe's own tests, contained as the agent runs it."""

from typing import Any

import click

from pps_agent.cli import context
from pps_agent.cli.probe_lint import locate
from pps_agent.cli.probe_site import load_probes_without_site
from pps_agent.errors import EXIT_FAILED, AgentError, ConfigError
from pps_agent.probes.cases import CaseOutcome, load_cases, run_case
from pps_agent.probes.client import start_runner
from pps_agent.probes.directory import read_probe


@click.command()
@click.argument("probe")
@click.option("--case", "wanted", multiple=True, metavar="NAME", help="Only this case; repeatable.")
@context.output_option
def test(probe: str, wanted: tuple[str, ...], output: str) -> int:
    """Run the cases of a probe, tests/NAME.case, named by its name or its directory. Records nothing.

    Exit codes: 0 all said what they must, 1 one did not.
    """
    catalogue, settings = load_probes_without_site()
    path = locate(catalogue, probe)
    read = read_probe(path)
    if read.definition is None:
        raise ConfigError(read.faults)
    cases = [case for case in load_cases(path) if not wanted or case.name in wanted]
    if not cases:
        raise AgentError(f"{path}/tests: no {'such case' if wanted else 'case'}: write one as tests/passes.case")
    outcomes = []
    with start_runner(settings.probes.user if settings else "") as runner:
        for case in cases:
            outcomes.append(outcome := run_case(case, read.definition, runner))
            if output == "text":
                _print(outcome)
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    if output == "json":
        context.print_json([_describe(outcome) for outcome in outcomes])
    else:
        click.echo(f"{len(outcomes)} cases, {failed} failed")
    return EXIT_FAILED if failed else 0


def _describe(outcome: CaseOutcome) -> dict[str, Any]:
    return {
        "case": outcome.case.name,
        "passed": not outcome.problems,
        "problems": list(outcome.problems),
        "status": outcome.result.status.name,
        "summary": outcome.result.summary,
        "details": outcome.result.details,
        "duration_s": round(outcome.result.duration_s, 3),
    }


def _print(outcome: CaseOutcome) -> None:
    context.print_line(f"{'FAILED' if outcome.problems else 'passed'} {outcome.case.name}")
    for problem in outcome.problems:
        context.print_line(f"  {problem}")
    if outcome.problems:
        context.print_line(f"  it said: {outcome.result.status.name}: {outcome.result.summary}")
        for line in outcome.result.details.splitlines():
            context.print_line(f"    {line}")
