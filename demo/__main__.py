"""``./run demo``: the main job from a package to a tag, on this machine, with real programs throughout."""

import json
import shutil
import signal
import sys
from pathlib import Path

import click

from demo.story import Step, Story

_HOME = Path(".demo")


@click.command()
@click.option("--keep", is_flag=True, help="Leave the servers up until Ctrl-C.")
@click.option("--from-tree", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Client tree to use.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def main(keep: bool, from_tree: Path | None, output: str) -> None:
    """Build, sign, publish, install, probe, announce, update, break and withdraw a real grid client."""
    if from_tree is None and shutil.which("apt-get") is None:
        raise click.UsageError("no apt-get here to fetch a client with: name a client tree, --from-tree DIR")
    work = _HOME.resolve() / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # A plain "kill" must end the servers too, so it becomes the same exception as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    story = Story(work, _HOME.resolve() / "cache", from_tree, lambda name: click.echo(f"demo: {name} …", err=True))
    try:
        done = story.run()
        _print(story, done=done, output=output)
        if keep and done:
            click.echo(f"demo: servers stay up; settings in {work}/site; Ctrl-C ends them", err=True)
            signal.pause()
    except KeyboardInterrupt:
        done = keep and not any(step.error for step in story.steps)
    finally:
        story.close()
    sys.exit(0 if done else 1)


def _print(story: Story, *, done: bool, output: str) -> None:
    if output == "json":
        steps = [{"step": step.name, "ok": not step.error, "error": step.error, **step.figures} for step in story.steps]
        click.echo(json.dumps({"ok": done, "page": story.page, "steps": steps}, indent=2))
        return
    width = max(len(step.name) for step in story.steps)
    click.echo()
    for step in story.steps:
        click.echo(_line(step, width))
    click.echo()
    click.echo(f"page: {story.page}" if story.page else "the demo stopped before there was a page")
    if not done:
        click.echo("demo: FAILED, see the step above", err=True)


def _line(step: Step, width: int) -> str:
    took = f"{step.figures.get('took_s', 0):6.1f} s"
    return f"{step.name:<{width}}  {took}  {'FAILED ' + step.error if step.error else step.text}"


if __name__ == "__main__":
    main()
