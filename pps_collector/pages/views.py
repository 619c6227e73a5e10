"""The pages' routes: the matrix for people and for programs. No JavaScript, nothing from elsewhere."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, get
from litestar.di import NamedDependency
from litestar.response import Response
from litestar.static_files import create_static_files_router

from pps_collector import __version__
from pps_collector.pages.matrix import Matrix
from pps_collector.pages.reading import read_matrix
from pps_collector.pages.wording import age_of, iso_of, span_of, stamp_of, tone_of, visible, word_of
from pps_collector.services import Services

_HOME = Path(__file__).parent.parent
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

static_files = create_static_files_router(
    path="/static", directories=[_HOME / "static"], cache_control=None, include_in_schema=False
)


def render_matrix(matrix: Matrix) -> str:
    """Give the page as HTML. Every text from a site is untrusted and escaped."""
    return _ENVIRONMENT.get_template("matrix.html").render(matrix=matrix, now=matrix.generated_at, version=__version__)


@get("/", media_type=MediaType.HTML, sync_to_thread=True, include_in_schema=False)
def show_matrix(services: NamedDependency[Services]) -> Response[str]:
    """Show which version is where."""
    matrix = read_matrix(services.engine, services.clock(), services.silent_after_s)
    return Response(render_matrix(matrix), media_type=MediaType.HTML, headers={"Cache-Control": "no-cache"})


@get("/v1/matrix", sync_to_thread=True, summary="Which version is where", tags=["read"])
def give_matrix(services: NamedDependency[Services]) -> Matrix:
    """Give the page's content for programs."""
    return read_matrix(services.engine, services.clock(), services.silent_after_s)


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HOME / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "stamp": stamp_of, "iso": iso_of, "span": span_of}
    environment.globals |= {"word_of": word_of, "tone_of": tone_of, "age_of": age_of}
    return environment


_ENVIRONMENT = _make_environment()
