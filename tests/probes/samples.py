"""A probe on disk that has everything, to be spoilt in one place by each test."""

from pathlib import Path

METADATA = """[probe]
name = "org.test.se.sample"  # reverse DNS
aliases = [
    "se.sample",
    "old.sample",  # as it was called
]
version = "7"
summary = "says what it is told"
where = "head"
timeout_s = 20
interval_s = 3600
metrics = ["org.test.se.sample.put"]

[requires.variables]
PPS_SAMPLE = "what to say"

[env]
PPS_SAMPLE_WARN_S = "when it is slow"

[arguments]
warning = { variable = "PPS_SAMPLE_WARN_S", form = "number", option = "-w", help = "seconds" }
"""
RUN = """#!/bin/sh
# se.sample: says what it is told
case $PPS_SAMPLE in
    fine) echo "se.sample OK - fine | time=1s size=2B"; exit 0 ;;
    *) echo "se.sample CRITICAL - $PPS_SAMPLE"; echo "more of org.test.se.sample.put"; exit 2 ;;
esac
"""
README = """# se.sample

Says what it is told.

| status | when |
|---|---|
| OK | told so |
| CRITICAL | told otherwise |
| UNKNOWN | `PPS_SAMPLE` is not set |

By hand: `PPS_SAMPLE=fine ./run`
"""
CASES = {
    "fine": """[env]
PPS_SAMPLE = "fine"
[expect]
status = "OK"
summary = '^se\\.sample OK'
perfdata = ["time"]
""",
    "bad": """[env]
PPS_SAMPLE = "bad"
[expect]
status = "CRITICAL"
summary = "^se.sample CRITICAL - bad$"
details = 'org\\.test\\.se\\.sample\\.put|org.test.se.sample.put'
""",
}


def write_sample(directory: Path, name: str = "se.sample", **files: str | None) -> Path:
    """Write the sample probe; ``files`` replace one of metadata, run, readme, fine, bad, or leave it out (None)."""
    path = directory / name
    (path / "tests").mkdir(mode=0o755, parents=True)
    contents = {
        path / "probe.toml": files.get("metadata", METADATA),
        path / "run": files.get("run", RUN),
        path / "README.md": files.get("readme", README),
        **{path / "tests" / f"{case}.case": files.get(case, text) for case, text in CASES.items()},
    }
    for file, text in contents.items():
        if text is not None:
            file.write_text(text)
    if (path / "run").exists():
        (path / "run").chmod(0o755)
    return path
