"""What a caller may set: any text is one clean variable or a refusal that says what to write."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pps_agent.probes.arguments import MAX_VALUE_CHARS, bind_arguments, bind_options, check_value
from pps_agent.probes.definition import Argument, Form, ProbeDefinition
from pps_wire.errors import WireError
from pps_wire.names import ProbeName

GOOD = {
    Form.HOST: ["se", "se01.example.org", "se01.example.org.", "192.0.2.1", "2001:db8::1", "[::1]", "1e.example"],
    Form.PORT: ["1", "1094", "65535"],
    Form.URL: [
        "root://se01.example.org:1094//scratch/x?a=b&c=d",
        "https://[2001:db8::1]:8443/",
        "ldap://bdii:2170/o=grid",
        "https://robot@se/",
        "https://ce01.example.org",
    ],
    Form.NUMBER: ["0", "-3", "2.50", "007"],
    Form.WORD: ["dteam", "_x", "a.b:c,d=e+f@g-h"],
    Form.PATH: ["/", "/data/a b", "/café", "/a/..b"],
    Form.RANGE: ["10", "10:", "~:10", "10:20", "@10:20", "-5:-1", ":7", "~:"],
}
BAD = {
    Form.HOST: ["", "-x", "a..b", "a b", "a;b", "x_y", "256.1.1.1", "1.2.3", "fe80::1%eth0", "[se]", "[", "a\n", "é"],
    Form.PORT: ["", "0", "65536", "01", "-1", "1.0", "\u0663", "80\n"],
    Form.URL: [
        "se01.example.org",
        "file:///etc/passwd",
        "https://",
        "https://a:b@se/",
        "https://se:0/",
        "https://se:99999/",
        "https://se/ x",
        "https://se/`id`",
        "https://se/$(id)|x",
        "-o://se/",
        "https://se/\r\nHost: x",
        "https://se/é",
        "https://-se/",
    ],
    Form.NUMBER: ["", "1e3", ".5", "5.", "+1", "1,5", "nan", "inf", "0x10", "\u0661", "1 ", "9" * 16],
    Form.WORD: ["", "-x", "a b", "a/b", "$x", "a;b", "é", "x" * 129, "a\n"],
    Form.PATH: ["", "a/b", "/a/../b", "/a\nb", "/a\0", "/" + "x" * 1024, "/\u202e"],
    Form.RANGE: ["", ":", "@", "@:", "20:10", "~", "a:b", "1:2:3", "10 ", "5:~", "@@1"],
}
TEXTS = (
    st.text()
    | st.text(alphabet="/:.@[]~-0123456789abX%$ \n\t\0é", max_size=40)
    | st.builds("{}://{}".format, st.text(max_size=5), st.text(max_size=20))
)


def define(**arguments: Argument) -> ProbeDefinition:
    return ProbeDefinition(name=ProbeName("org.test.x"), run=Path("/x/run"), arguments=arguments)


def is_accepted(form: Form, value: str) -> bool:
    try:
        check_value(form, value)
    except WireError:
        return False
    return True


@pytest.mark.parametrize(("form", "value"), [(form, value) for form, values in GOOD.items() for value in values])
def test_what_has_the_form_is_taken(form: Form, value: str) -> None:
    check_value(form, value)


@pytest.mark.parametrize(("form", "value"), [(form, value) for form, values in BAD.items() for value in values])
def test_what_has_not_the_form_is_refused_with_what_to_write(form: Form, value: str) -> None:
    with pytest.raises(WireError) as caught:
        check_value(form, value)
    assert caught.value.where == "argument"
    assert "is not a" in caught.value.problem or "one word" in caught.value.problem


@settings(deadline=None)
@given(form=st.sampled_from(Form), value=TEXTS)
def test_any_text_is_one_clean_line_or_refused(form: Form, value: str) -> None:
    if is_accepted(form, value):
        assert value
        assert value.isprintable()
        assert not value.startswith("-") or form in {Form.NUMBER, Form.RANGE}
        assert form is Form.PATH or value.isascii()
        assert len(value) <= MAX_VALUE_CHARS


@settings(deadline=None)
@given(address=st.ip_addresses())
def test_every_address_is_a_host_and_fits_into_an_url(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    bracketed = f"[{address}]" if address.version == 6 else str(address)
    assert is_accepted(Form.HOST, str(address))
    assert is_accepted(Form.HOST, bracketed)
    assert is_accepted(Form.URL, f"https://{bracketed}:1/x")


@settings(deadline=None)
@given(begin=st.integers(-999, 999), end=st.integers(-999, 999))
def test_a_range_begins_at_or_below_its_end(begin: int, end: int) -> None:
    assert is_accepted(Form.RANGE, f"{begin}:{end}") is (begin <= end)


@settings(deadline=None)
@given(port=st.integers(-5, 70_000))
def test_a_port_is_from_1_to_65535(port: int) -> None:
    assert is_accepted(Form.PORT, str(port)) is (1 <= port <= 65_535)


def test_values_become_the_variables_that_the_metadata_names() -> None:
    definition = define(
        url=Argument(variable="PPS_URL", form=Form.URL, option="-u"), warning=Argument(variable="W", form=Form.RANGE)
    )
    assert bind_arguments(definition, {}) == {}
    assert bind_arguments(definition, {"url": "https://se/", "warning": "5"}) == {"PPS_URL": "https://se/", "W": "5"}
    assert bind_options(definition, {"-u": "https://se/"}) == {"PPS_URL": "https://se/"}


def test_all_faults_are_told_and_the_nearest_name_is_named() -> None:
    definition = define(url=Argument(variable="U", form=Form.URL), port=Argument(variable="P", form=Form.PORT))
    with pytest.raises(WireError) as caught:
        bind_arguments(definition, {"url": "x", "port": "y", "prt": "1"})
    for words in ("url: 'x' is not an address", "port: 'y' is not a port", "no argument 'prt'; did you mean port?"):
        assert words in caught.value.problem


def test_an_option_that_answers_to_nothing_is_refused_with_those_that_do() -> None:
    definition = define(url=Argument(variable="U", form=Form.URL, option="-u"))
    with pytest.raises(WireError, match=r"org\.test\.x takes no option -H; it takes: -u"):
        bind_options(definition, {"-H": "se"})
    with pytest.raises(WireError, match=r"takes no option -w; it takes: none"):
        bind_options(define(), {"-w": "1"})


@settings(deadline=None)
@given(values=st.dictionaries(TEXTS, TEXTS, max_size=12))
def test_any_arguments_give_variables_or_one_refusal(values: dict[str, str]) -> None:
    definition = define(url=Argument(variable="U", form=Form.URL), word=Argument(variable="W", form=Form.WORD))
    is_right = all(
        name in definition.arguments and is_accepted(definition.arguments[name].form, value)
        for name, value in values.items()
    )
    if is_right:
        assert bind_arguments(definition, values).keys() <= {"U", "W"}
    else:
        with pytest.raises(WireError, match=r"^arguments: "):
            bind_arguments(definition, values)


def test_a_value_beyond_any_form_is_cut_in_the_message() -> None:
    with pytest.raises(WireError, match=r"has 5000 characters, at most 2048"):
        check_value(Form.WORD, "x" * 5000)
