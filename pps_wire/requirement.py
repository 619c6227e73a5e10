"""What a job says to be sent where a preview's tag is published, in the languages of five systems.

Pure and standard library only: the tag commands must start fast, and pages show the same lines.
A tag is checked by its grammar first, which needs no escape in any of the languages; values are quoted all the
same, by one function for each language.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, assert_never

from pps_wire.errors import WireError
from pps_wire.names import Tag, Vo, parse_tag

GLUE_ATTRIBUTE: Final = "GlueHostApplicationSoftwareRunTimeEnvironment"
"""GLUE schema 1.3: the tags of a subcluster."""
CONDOR_ATTRIBUTE: Final = "PPS_TAGS"
"""Attribute of a machine's ClassAd: its tags in one string, ``"VO-dteam-a,VO-dteam-b"``."""
RTE_PREFIX: Final = "APPS/PPS/"
"""Where all runtime environments of previews lie below ARC's ``runtimedir``, and nothing else does."""
MAX_DIRAC_TAG_LEN: Final = 64
"""Source: DIRAC, TaskQueueDB: column ``Value`` of ``tq_TQToTags`` is VARCHAR(64)."""

_DIRAC_SPECIAL: Final = '"\\,;{}[]= '
_SLURM_SPECIAL: Final = "&|()[]*,;:=\"'\\# "


class Form(Enum):
    """The languages of jobs; the values are what users type."""

    JDL = "jdl"
    CLASSAD = "classad"
    XRSL = "xrsl"
    DIRAC = "dirac"
    SLURM = "slurm"


def render_requirement(tag: str, form: Form, *, vo: Vo) -> str:
    """Give the line for a job without other requirements, e.g. ``#SBATCH --constraint=VO-dteam-pps-6.1.0``.

    A second such line would replace the first, except in xRSL: a job that has one gets `render_condition` joined to it.
    Raises: WireError for text that is no tag of this VO, or that the system cannot match.
    """
    condition = render_condition(tag, form, vo=vo)
    match form:
        case Form.JDL:
            return f"Requirements = {condition};"
        case Form.CLASSAD:
            return f"requirements = {condition}"
        case Form.XRSL:
            return condition
        case Form.DIRAC:
            return f"Tag = {{{condition}}};"
        case Form.SLURM:
            return f"#SBATCH --constraint={condition}"
    assert_never(form)


def render_condition(tag: str, form: Form, *, vo: Vo) -> str:
    """Give the bare condition, to be joined to those a job has.

    Joined by ``&&`` in JDL and ClassAd, by standing beside another in xRSL, by ``,`` inside DIRAC's braces, by ``&``
    in Slurm. Letter case counts in xRSL and Slurm and not in JDL and ClassAd; no agent adds a case variant of a tag.
    Raises: WireError as `render_requirement`.
    Source: gLite JDL specification (``Member``); HTCondor manual, ClassAd functions (``stringListIMember``); ARC
    reference manual of xRSL; DIRAC administrator guide, "The generic Tags mechanism for jobs matching", and
    JobScheduling, which reads ``Tag``; sbatch(1), ``--constraint``.
    """
    checked = parse_tag(tag, vo)
    match form:
        case Form.JDL:
            return f"Member({quote_classad(checked)}, other.{GLUE_ATTRIBUTE})"
        case Form.CLASSAD:
            return f"stringListIMember({quote_submit(checked)}, TARGET.{CONDOR_ATTRIBUTE})"
        case Form.XRSL:
            return f"(runtimeenvironment={quote_xrsl(rte_name(checked))})"
        case Form.DIRAC:
            return quote_dirac(checked)
        case Form.SLURM:
            return quote_slurm(checked)
    assert_never(form)


def find_vo(tag: str, vos: Iterable[Vo]) -> Vo:
    """Give the VO whose tag this is: of several that fit, the longest, since names of VOs may hold ``-``.

    Raises: WireError when none fits.
    """
    known = tuple(vos)
    fitting = [vo for vo in known if tag.startswith(f"VO-{vo}-")]
    if not fitting:
        raise WireError("tag", f"{tag[:80]!r} is a tag of none of these VOs: {', '.join(known) or '-'}; name its VO")
    return max(fitting, key=len)


def rte_name(tag: Tag) -> str:
    """Give the name of the ARC runtime environment that stands for a tag: ``APPS/PPS/VO-dteam-pps-6.1.0``.

    It is a path below ``runtimedir``: two directories and a file that is never hidden and never ends in ``~``, which
    A-REX would not publish. `parse_rte_name` is the way back.

    ARC splits a name at the first ``-`` before a digit, here into ``APPS/PPS/VO-dteam-pps`` and ``6.1.0``, in client
    and information system alike (Software.cpp, ARC1ClusterInfo.pm). ``=`` compares both parts as text, letter case
    included, so that any tag is found whole, wherever the split falls. The client also takes ``>``, ``>=``, ``<``,
    ``<=`` and ``!=``: the first parts must be equal, the second ones are split at ``-`` and ``.`` and compared by
    number. 6.10.0 and 6.2.0-rc1 satisfy ``>=6.1.0``; 6.1.0 does not satisfy ``>=6.1``, since only zeros follow, nor
    ``>=6.1.0rc1``, and 6.2.0-rc1 not ``>=6.2.0``. Comparing is the client's work: A-REX gets the one name that the
    client chose. Tried with arcsub and A-REX of ARC 6.17 (tests/services/test_requirement.py).
    """
    return RTE_PREFIX + tag


def parse_rte_name(text: str, vo: Vo) -> Tag:
    """Give the tag for which a runtime environment stands. Raises: WireError for a name that `rte_name` never gives."""
    if not text.startswith(RTE_PREFIX):
        raise WireError("rte", f"{text[:80]!r} stands for no tag: such names begin with {RTE_PREFIX}")
    return parse_tag(text.removeprefix(RTE_PREFIX), vo)


def quote_classad(text: str) -> str:
    r"""Write a string literal of JDL: ``\`` before ``"`` and ``\``. Raises: WireError unless printable ASCII.

    Source: ClassAd language reference, string literals.
    """
    return '"' + re.sub(r'(["\\])', r"\\\1", _printable(text)) + '"'


def quote_submit(text: str) -> str:
    r"""Write a string literal for an HTCondor submit file: ``\"`` for ``"``, ``$(DOLLAR)`` for ``$``.

    Raises: WireError unless printable ASCII, and for ``\``, which old and new ClassAds read differently.
    Source: HTCondor manual, submit file macros; old ClassAds in the ClassAd language reference.
    """
    return quote_classad(_free_of("\\", text, "HTCondor")).replace("$", "$(DOLLAR)")


def quote_xrsl(text: str) -> str:
    """Write a string of xRSL: ``"`` is written twice. Raises: WireError unless printable ASCII."""
    return '"' + _printable(text).replace('"', '""') + '"'


def quote_dirac(text: str) -> str:
    """Write a member of a list in DIRAC's JDL, which knows no escape.

    Raises: WireError for what would end or divide it, and for more than MAX_DIRAC_TAG_LEN: no queue would match.
    """
    if len(text) > MAX_DIRAC_TAG_LEN:
        raise WireError("tag", f"{text[:40]!r}… has {len(text)} characters, DIRAC matches at most {MAX_DIRAC_TAG_LEN}")
    return f'"{_free_of(_DIRAC_SPECIAL, text, "DIRAC")}"'


def quote_slurm(text: str) -> str:
    """Give a feature's name for ``--constraint``, which knows no escape.

    Raises: WireError for a character that has a meaning there or in a line of ``#SBATCH``.
    """
    return _free_of(_SLURM_SPECIAL, text, "Slurm")


def _free_of(special: str, text: str, system: str) -> str:
    found = sorted(set(_printable(text)) & set(special))
    if found:
        raise WireError(
            "tag", f"{text[:80]!r} holds {' '.join(found)!r}, which {system} cannot match: choose another tag"
        )
    return text


def _printable(text: str) -> str:
    if re.fullmatch(r"[ -~]*", text) is None:
        raise WireError("tag", f"{text[:80]!r} is not printable ASCII: choose another tag")
    return text
