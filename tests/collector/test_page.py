"""The page in a real browser, with JavaScript off, as people meet it."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page

from pps_collector.store.database import open_database, writing
from pps_collector.store.tables import agent
from pps_wire.report import ReleaseState, Status, TagState
from tests.collector.running import PROBE, RunningCollector, probe, release, round_of, tag

MISSING_LIBRARY = "xrdcp: error while loading shared libraries: libXrdCl.so.3: cannot open shared object file"
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
    '"></p></table><style>*{display:none}</style>{{ 7*7 }}\u202egnp.exe\u202c\u0007 '
)

# Every text's colour against the ground it stands on (WCAG 2.1, clause 1.4.3), from computed styles.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      const colours = style.backgroundImage.match(/rgba?\\([^)]*\\)/g);
      if (colours) return colours.map(parse);
      const colour = parse(style.backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return [colour];
    }
    return [[255, 255, 255]];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg, .skip, caption") || !element.checkVisibility()) continue;
    const ink = light(parse(getComputedStyle(element).color));
    for (const ground of grounds(element)) {
      const [high, low] = [ink, light(ground)].sort((a, b) => b - a);
      found.push([(high + 0.05) / (low + 0.05), element.className, element.textContent.trim().slice(0, 40)]);
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCollector]:
    """A collector with something of everything on its page."""
    collector = RunningCollector(tmp_path_factory.mktemp("page"), settings="silent_after_s = 3600\n")
    now = datetime.now(UTC)
    good, bad, quiet = (collector.enrol(name) for name in ("GOOD-SITE", "BAD-SITE", "QUIET-SITE"))
    collector.enrol("NEW-SITE")
    broken = release(ReleaseState.BROKEN, "6.2.0", reason=HOSTILE)
    good.report(release(ReleaseState.TAGGED, current=True), probe(), tag(), tag(TagState.LISTED, vo="atlas"))
    good.report(probe(release=None, summary="production is fine"), round_of())
    bad.report(broken, probe(Status.CRITICAL, MISSING_LIBRARY, broken.release, details="exit 127\n" + HOSTILE))
    bad.report(probe(Status.WARNING, HOSTILE + "x" * 700, broken.release, probe="org.pps.hostile"), round_of(1, 1))
    bad.report(probe(Status.UNKNOWN, "timeout after 300 s", broken.release, probe="org.pps.slow"))
    quiet.report(release(ReleaseState.VERIFIED), tag(TagState.REMOVED), at=now - timedelta(hours=5))
    silence(collector, "QUIET-SITE")
    yield collector
    assert collector.stop() == 0


def silence(collector: RunningCollector, site: str) -> None:
    """Let a site's last sign of life be two hours ago."""
    engine = open_database(collector.database)
    with writing(engine).begin() as connection:
        before = datetime.now(UTC) - timedelta(hours=2)
        connection.execute(agent.update().where(agent.c.site == site).values(last_seen_at=before))
    engine.dispose()


@pytest.fixture
def page(browser: Browser, shown: RunningCollector) -> Iterator[Page]:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(shown.pages)
    yield page
    context.close()


def test_the_page_says_which_version_is_where_and_how_it_does(page: Page):
    card = page.get_by_role("region", name="grid-clients 6.1.0")
    row = card.get_by_role("row").filter(has_text="GOOD-SITE")
    for text in ("tagged", "current", "OK", PROBE, "published", "listed, not yet visible", "VO-dteam-pps-6.1.0"):
        assert text in row.inner_text()
    assert "ago" in row.inner_text()
    assert row.locator("time").first.get_attribute("datetime").endswith("Z")


def test_why_a_probe_failed_is_readable_in_full(page: Page):
    card = page.get_by_role("region", name="grid-clients 6.2.0")
    assert card.get_by_text(MISSING_LIBRARY, exact=True).is_visible()
    assert "CRITICAL" in card.inner_text()
    card.locator("summary").first.click()  # <details> opens without JavaScript
    assert card.get_by_text("exit 127").is_visible()


def test_a_silent_site_is_shown_as_no_data_with_its_last_known_state(page: Page):
    row = page.get_by_role("region", name="grid-clients 6.1.0").get_by_role("row").filter(has_text="QUIET-SITE")
    assert "NO DATA" in row.inner_text()
    assert "verified" in row.inner_text()
    assert "removed" in row.inner_text()
    sites = page.get_by_role("region", name="Sites")
    for site in ("QUIET-SITE", "NEW-SITE"):
        assert "NO DATA" in sites.get_by_role("row").filter(has_text=site).inner_text()
    assert "NO DATA" not in sites.get_by_role("row").filter(has_text="GOOD-SITE").inner_text()


def test_hostile_texts_are_shown_and_do_nothing(browser: Browser, shown: RunningCollector):
    context = browser.new_context()  # JavaScript on: what a careless page would let run
    page = context.new_page()
    dialogs: list[str] = []
    asked: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(shown.pages)
    assert "Previews by site" in page.title()
    assert dialogs == []
    assert {one.removeprefix(shown.pages).split("?")[0] for one in asked} <= {
        "/",
        "/static/pps.css",
        "/static/icon.svg",
    }
    text = page.inner_text("body")
    assert "<script>document.title='owned'</script>" in text
    assert "{{ 7*7 }}" in text
    assert "\u202e" not in page.content()
    assert page.locator("script, img, style, iframe, form").count() == 0
    assert page.locator("table").count() == 3
    context.close()


def test_nothing_from_elsewhere_and_no_script_may_run(shown: RunningCollector):
    answer = requests.get(shown.pages, timeout=30)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert "script" not in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in answer.text
    assert " style=" not in answer.text


def test_headings_and_tables_can_be_walked_by_ear(page: Page):
    levels = [int(one.evaluate("e => e.tagName")[1]) for one in page.get_by_role("heading").all()]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("main").count() == 1
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th").count() == table.locator("thead th[scope=col]").count() == 4
        rows = table.locator("tbody tr").count()
        assert table.locator("tbody th[scope=row]").count() == rows
    identifiers = [one.get_attribute("id") for one in page.locator("[id]").all()]
    assert len(identifiers) == len(set(identifiers))
    assert page.locator("svg:not([aria-hidden=true])").count() == 0


def test_a_status_is_a_word_and_a_shape_not_only_a_colour(page: Page):
    marks = page.locator(".mark")
    assert marks.count() > 10
    for mark in marks.all():
        assert mark.inner_text().strip()
        assert mark.locator("svg").count() == 1
    shapes = {
        tone: page.locator(f".mark.{tone} svg").first.inner_html() for tone in ("good", "busy", "warn", "bad", "quiet")
    }
    assert len(set(shapes.values())) == len(shapes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_text_has_enough_contrast_and_nothing_overflows(browser: Browser, shown: RunningCollector, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(shown.pages)
    page.locator("details").first.evaluate("e => { e.open = true; }")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [one for one in contrasts if one[0] < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_on_a_phone_every_value_names_its_column(browser: Browser, shown: RunningCollector):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(shown.pages)
    label = "e => getComputedStyle(e, '::before').content"
    labels = [one.evaluate(label) for one in page.locator("tbody tr").first.locator("td").all()]
    assert labels == ['"State"', '"Probes"', '"Tags"']
    context.close()


def test_an_empty_collector_says_what_to_do_next(browser: Browser, tmp_path: Path):
    collector = RunningCollector(tmp_path / "empty")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(collector.pages)
    assert "pps-collector enrol-token --site" in page.inner_text("main")
    collector.enrol("PIC")
    page.reload()
    assert "No release has been reported yet" in page.inner_text("main")
    context.close()
    assert collector.stop() == 0
