"""The main job, told in steps a to g of the README: each does it for real and checks that it was done."""

import contextlib
import html
import json
import os
import secrets
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from demo import bdii, xrootd
from demo.client import PROBES, STORAGE_PROBE, Build, Clients
from demo.programs import Server, StepError, find_program, run
from demo.site import SITE, SUBCLUSTER, VO, Site

_KEYS: Final = ("release-manager", "sa3", "online")


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step: what it is, figures for the JSON, a line for the table, what went wrong."""

    name: str
    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def expect(holds: object, claim: str) -> None:
    """Stop the step when a claim does not hold. Raises: StepError."""
    if not holds:
        raise StepError(f"did not hold: {claim}")


class Story:
    """The whole demo below ``work``; servers stay up until ``close``."""

    def __init__(self, work: Path, cache: Path, tree: Path | None, tell: Callable[[str], None]) -> None:
        self._work = work
        self._tell = tell
        self._servers = contextlib.ExitStack()
        self._storage: xrootd.XrootdServer | None = None
        self._has_bdii = not bdii.missing_packages()
        self._has_storage = not xrootd.missing_reason()
        probes = (*PROBES, STORAGE_PROBE) if self._has_storage else PROBES
        self._clients = Clients(cache, tree, probes)
        self._passphrase = work / "passphrase"
        self._repository = work / "repository"
        self.steps: list[Step] = []
        self.page = ""

    def run(self) -> bool:
        """Run all steps in order, stopping at the first that fails; tell whether all did what they say."""
        for name, step in (
            ("a. build a real client", self._build),
            ("b. sign and publish it", self._publish),
            ("c. collector, enrolment", self._enrol),
            ("d. information system, storage", self._start_services),
            ("e. install, probe, announce", self._install),
            ("f. update", self._update),
            ("g. broken preview", self._break),
            ("g. withdrawal", self._withdraw),
        ):
            self._tell(name)
            started = time.monotonic()
            try:
                text, figures = step()
                self.steps.append(Step(name, text, figures | {"took_s": round(time.monotonic() - started, 2)}))
            except (StepError, bdii.BdiiError, xrootd.XrootdError, OSError, KeyError) as exc:
                self.steps.append(Step(name, "", error=f"{type(exc).__name__}: {exc}"))
                return False
        return True

    def close(self) -> None:
        """Stop the servers, the newest first."""
        self._servers.close()

    def _build(self) -> tuple[str, dict[str, Any]]:
        self._first = self._clients.build_first()
        artifact = self._first.release["artifact"]
        text = (
            f"{self._first.id}: {artifact['files']} files, {_mb(artifact['installed_bytes'])} installed,"
            f" {_mb(artifact['length'])} to move{', from an earlier run' if self._first.cached else ''}"
        )
        return text, {"release": self._first.id, **artifact, "cached": self._first.cached}

    def _publish(self) -> tuple[str, dict[str, Any]]:
        self._passphrase.write_text(secrets.token_urlsafe(24) + "\n")
        self._passphrase.chmod(0o600)
        self._publisher("init")
        first = self._publisher("publish", "--key", self._key("release-manager"), self._first.directory)
        served = self._repository / "served"
        expect(not list(served.glob("targets/clients/*/*/*")), "one signature of two serves nothing")
        self._publisher("sign", "--key", self._key("sa3"))
        self._publisher("refresh", "--key", self._key("online"))
        verified = self._publisher("verify")
        server = Server([sys.executable, "-m", "demo.static_server", served], self._work / "static-server.log")
        self._servers.callback(server.stop)
        self._url = _find_url(server.first_line())
        size = sum(path.stat().st_size for path in served.rglob("*") if path.is_file())
        text = f"two signatures, {_mb(size)} of static files at {self._url}"
        return text, {"url": self._url, "bytes": size, "publish": first, "verify": verified}

    def _enrol(self) -> tuple[str, dict[str, Any]]:
        state = self._work / "collector"
        run("pps-collector", ["migrate", "--state", state])
        options = ["--state", state, "--listen", "127.0.0.1:0", "--pages", "127.0.0.1:0", "--output", "json"]
        server = Server([find_program("pps-collector"), "serve", *options], self._work / "collector.log")
        self._servers.callback(server.stop)
        addresses = json.loads(server.first_line())
        self.page = f"{addresses['pages']}/"
        token = run("pps-collector", ["enrol-token", "--state", state, "--site", SITE, "--output", "json"]).json()
        self._site = Site(self._work / "site", self._url, self._repository / "served" / "metadata" / "1.root.json")
        collector = f'[collector]\nurl = "{addresses["agents"]}"\nca = "{addresses["ca"]}"\n'
        self._site.add_settings("10-collector.toml", collector)
        token_file = self._work / "token"
        token_file.write_text(token["token"])
        enrolled = self._site.agent("enrol", "--token-file", token_file, "--output", "json").json()
        again = self._site.agent("enrol", "--again", "--token-file", token_file, codes=(69,))
        expect("token" in again.stderr, "a token works once")
        text = f"{SITE} is agent {enrolled['agent'][:8]}…, by a client certificate for a one-time token"
        return text, {"agents": addresses["agents"], "pages": addresses["pages"], "agent": enrolled["agent"]}

    def _start_services(self) -> tuple[str, dict[str, Any]]:
        parts, figures = [], {}
        if self._has_bdii:
            server = bdii.start_bdii(self._work / "bdii", SITE, [SUBCLUSTER], self._site.plugin())
            self._servers.callback(server.stop)
            settings = f'[infosys]\nurl = "{server.url}"\nbase = "o=grid"\nwait_s = 60\n'
            self._site.add_settings("20-infosys.toml", settings)
            parts.append(f"slapd and bdii-update at {server.url}")
            figures["infosys"] = server.url
        if self._has_storage:
            self._storage = xrootd.start_xrootd(self._work / "xrootd")
            self._servers.callback(self._storage.stop)
            parts.append(f"xrootd at {self._storage.url}")
            figures["storage"] = self._storage.url
        self._site.add_settings("30-probes.toml", self._probe_settings())
        missing = [*bdii.missing_packages(), *(["xrootd"] if not self._has_storage else [])]
        if missing:
            parts.append(f"left out: {', '.join(missing)}")
        return "; ".join(parts), figures | {"left_out": missing}

    def _probe_settings(self) -> str:
        user = "nobody" if os.geteuid() == 0 and _others_can_reach(Path(__file__).parent, self._work) else ""
        env = f'PPS_SE_XROOT = "{self._storage.url}"' if self._storage is not None else ""
        return f'[probes]\nuser = "{user}"\nenv = {{ {env} }}\n'

    def _install(self) -> tuple[str, dict[str, Any]]:
        self._before = self._site.production()
        done = self._site.once()
        tag = self._expect_announced(done, self._first)
        expect(self._site.production() == self._before, "production is as it was before")
        preview = self._site.job(self._first.id)
        expect(f"/releases/{self._first.id}/" in preview, "a job that asks gets the preview's xrdcp")
        expect(self._first.id not in self._site.job(None), "a job that asks for nothing gets production's")
        figures = self._round_figures(done) | {"tag": tag, "infosys_wait_s": done["infosys_wait_s"]}
        where = f"in LDAP after {done['infosys_wait_s']:.1f} s" if self._has_bdii else "in its file"
        text = (
            f"{_mb(figures['bytes_moved'])} in {figures['install_s']:.1f} s, {figures['probes_ok']} probes OK,"
            f" {tag} {where}, {figures['acknowledged']} results acknowledged"
        )
        return text, figures

    def _update(self) -> tuple[str, dict[str, Any]]:
        before = self._site.disk_bytes()
        update = self._clients.build_update()
        self._serve(update)
        done = self._site.once()
        self._expect_announced(done, update)
        self._update_build = update
        figures = self._round_figures(done)
        figures |= {"disk_bytes_one": before, "disk_bytes_both": self._site.disk_bytes()}
        expect(figures["bytes_moved"] < update.release["artifact"]["length"] / 10, "only what changed is moved")
        expect(self._first.id in self._site.job(self._first.id), "the first preview stays usable beside it")
        text = (
            f"{figures['bytes_moved'] / 1e3:.0f} kB moved in {figures['install_s']:.1f} s,"
            f" {figures['files_fetched']} files fetched, {figures['files_linked']} shared;"
            f" both versions on disk {_mb(figures['disk_bytes_both'])}, one was {_mb(before)}"
        )
        return text, figures

    def _break(self) -> tuple[str, dict[str, Any]]:
        broken = self._clients.build_broken()
        self._serve(broken)
        tags = self._site.tags()
        done = self._site.once()
        standing = _standing(done, broken.id)
        expect(standing["state"] == "broken" and not standing["current"], "a failing preview is not switched to")
        expect(_standing(done, self._update_build.id)["current"], "the update stays current")
        expect(self._site.tags() == tags, "a failing preview gets no tag")
        expect(self._site.production() == self._before, "production is as it was before")
        why = next(seen["summary"] for seen in standing["probes"].values() if seen["status"] == "CRITICAL")
        expect(_tells(self.page, why), "the page says why it failed")
        return f"not switched, not tagged; the page says: {why[:110]}", {"reason": why}

    def _withdraw(self) -> tuple[str, dict[str, Any]]:
        withdrawn = self._first.id
        reason = "transfers hang on some storage"
        self._publisher("withdraw", "--key", self._key("sa3"), withdrawn, reason)
        self._publisher("refresh", "--key", self._key("online"))
        done = self._site.once()
        kinds = [o["action"] for o in done["outcomes"] if o["release"] == withdrawn and o["ok"]]
        expect(kinds == ["removetags", "drain"], f"untagged first, then drained (was {kinds})")
        tag = self._tag(self._first)
        expect(tag not in self._site.tags(), "its tag is gone from the file")
        expect(
            (self._site.base / "store" / "releases" / withdrawn / "tree").is_dir(), "its tree stays for running jobs"
        )
        self._site.add_settings("40-store.toml", "[store]\ndrain_s = 0\n")
        drained = self._site.once()
        removed = [o["release"] for o in drained["outcomes"] if o["action"] == "remove" and o["ok"]]
        expect(removed == [withdrawn], "its tree is removed once drained")
        expect(self._site.job(self._update_build.id), "the update is still there")
        expect(self._site.production() == self._before, "production is as it was before")
        gone = f", gone from LDAP after {done['infosys_wait_s']:.1f} s" if self._has_bdii else ""
        return f"tag removed first{gone}; tree kept for running jobs, removed once drained", {
            "infosys_wait_s": done["infosys_wait_s"],
            "order": kinds,
        }

    def _serve(self, build: Build) -> None:
        self._publisher("publish", "--key", self._key("release-manager"), build.directory)
        self._publisher("sign", "--key", self._key("sa3"))
        self._publisher("refresh", "--key", self._key("online"))

    def _publisher(self, command: str, *arguments: object) -> Any:
        options: list[object] = ["--repo", self._repository, "--output", "json"]
        if command != "verify":
            options += ["--passphrase-file", self._passphrase]
        return run("pps-publish", [command, *options, *arguments]).json()

    def _key(self, name: str) -> Path:
        return self._repository / "keys" / f"{name}.pem"

    def _expect_announced(self, done: Any, build: Build) -> str:
        standing = _standing(done, build.id)
        expect(standing["state"] == "tagged" and standing["current"], f"{build.id} is current and tagged: {standing}")
        tag = self._tag(build)
        expect(tag in self._site.tags(), f"{tag} stands in the tag file")
        if self._has_bdii:
            states = {entry["tag"]: entry["state"] for entry in standing["tags"]}
            expect(states.get(tag) == "published", f"{tag} is read back over LDAP: {states}")
        expect(done["reported"]["waiting"] == 0, "the collector acknowledged everything")
        return tag

    def _tag(self, build: Build) -> str:
        return f"VO-{VO}-{build.release['tag_suffix']}"

    def _round_figures(self, done: Any) -> dict[str, Any]:
        facts = next(o["facts"] for o in done["outcomes"] if o["action"] == "install")
        results = [result for o in done["outcomes"] for result in o["results"]]
        return {
            "bytes_moved": int(facts["bytes_moved"] + facts["manifest_bytes"]),
            "files_fetched": int(facts["files_fetched"]),
            "files_linked": int(facts["files_linked"]),
            "install_s": facts["took_s"],
            "round_s": done["took_s"],
            "probes_ok": sum(1 for result in results if result["status"] == "OK"),
            "acknowledged": done["reported"]["acknowledged"],
            "single_user": done["single_user"],
        }


def _standing(done: Any, release: str) -> Any:
    return next(standing for standing in done["releases"] if standing["release"] == release)


def _tells(page: str, reason: str) -> bool:
    with urllib.request.urlopen(page, timeout=30) as answer:
        text = html.unescape(answer.read().decode())
    return reason in text


def _others_can_reach(*places: Path) -> bool:
    """Tell whether another account may enter these directories; a clone below /root it may not."""
    return all(parent.stat().st_mode & 0o001 for place in places for parent in (place, *place.resolve().parents))


def _find_url(line: str) -> str:
    return next(word for word in line.split() if word.startswith("http://")).rstrip("/")


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
