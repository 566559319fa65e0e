"""Text that no format can carry unchanged, at each place where an application can pass it.

The text is exported in a valid form, or refused where it is passed. It never makes a later scrape fail.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mpmetrics import Collector, Counter, Enum, ExporterOptions, Gauge, Histogram, Info, Provider
from mpmetrics.collector.reading import Reading, Sample
from mpmetrics.drivers import PrometheusDriver
from mpmetrics.drivers.collector_drivers import sources
from mpmetrics.drivers.driver import Driver
from mpmetrics.formats.text import render_openmetrics, render_text
from mpmetrics.names import naming
from mpmetrics.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

ACCEPTS = [
    None,
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text;version=1.0.0",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
]
SURROGATES = ["\ud800", "a\udfffb", "\udc80\udc81", "x" * 70 + "\udbff"]
ODD = [
    *SURROGATES,
    *map(chr, [*range(32), 127, *range(128, 160), 0x2028, 0x2029, 0xFEFF, 0xFFFF, 0x10FFFF]),
    '"',
    "\\",
    "\\n",
]
ODD += ['"} 1\n# EOF\n', "\r\n", "a\nb 1 2\n# TYPE x counter", "{", "}", ","]


class Text(str):
    """A subclass of str."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return another text."""
        return "other"


class Thing:
    """An object with an odd text."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __str__(self) -> str:
        """Return the given text."""
        return self.said


def labels(provider: Provider, text: str) -> None:
    """Label values by position, by name, as objects, and twice, so that the second call finds a known series."""
    counter = Counter("a", "A.", ["x", "y"], provider=provider)
    for _ in range(2):
        counter.labels(text, Text(text)).inc()
        counter.labels(x=text, y=Thing(text)).inc()
    counter.labels("keep", text).inc()
    counter.remove("keep", text)
    Histogram("h", "H.", ["x"], provider=provider).labels(text).observe(1)
    Gauge("g", "G.", ["x"], provider=provider).labels(text).set(1)
    counter.remove_by_labels({"x": f"no{text}"})


def documentation(provider: Provider, text: str) -> None:
    """The help text."""
    Counter("a", f"x{text}x", provider=provider).inc()


def info(provider: Provider, text: str) -> None:
    """The values of an info's pairs."""
    Info("a", "A.", ["x"], provider=provider).labels(text).info({"v": text, "w": Thing(text)})


def states(provider: Provider, text: str) -> None:
    """The states of an enum, and a state that is set with the text as given."""
    Enum("a", "A.", ["x"], states=[text, "other"], provider=provider).labels(text).state(text)


def attributes(provider: Provider, text: str) -> None:
    """Names and values of attributes of a measurement, an instrument, a meter and the provider."""
    provider.add_attributes({f"p{text}": text})
    meter = provider.meter(f"m{text}", version=text, attributes={f"m{text}": text})
    counter = meter.counter("shop.orders", help=text, unit=f"{{{text}}}", attributes={f"i{text}": Thing(text)})
    for _ in range(2):
        counter.add(1, {f"a{text}": text, "list": [text, Thing(text)], "type": Text(text)})


def callbacks(provider: Provider, text: str) -> None:
    """Attributes that callbacks observe, the names of callbacks, and the messages of their exceptions."""

    def read(observer: Any) -> None:
        observer.observe(1, {f"q{text}": text})

    def fail(_: Any) -> None:
        raise ValueError(text)

    read.__qualname__ = fail.__qualname__ = f"read{text}"
    read.__module__ = f"module{text}"
    provider.meter("m").observable_gauge("shop.depth", callback=read)
    provider.meter("m").observable_gauge("shop.fails", callback=fail)
    Gauge("a", "A.", ["x"], provider=provider).labels(text).set_function(lambda: 1.0)


def resource(provider: Provider, text: str) -> None:
    """The attributes of the resource."""
    provider.describe({f"g{text}": text}, {f"service{text}": text})
    provider.meter("m").counter("shop.orders").add(1)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep these log messages from pytest, whose reports cannot carry such text."""
    caplog.set_level(logging.CRITICAL + 1, "mpmetrics")


ENTRIES = [labels, documentation, info, states, attributes, callbacks, resource]


def check(provider: Provider, *more: Any) -> str:
    """Export in each format and coding, and through prometheus_client; return the text format."""
    collector = Collector(provider, options=ExporterOptions(resource_labels=True), sources=more)
    body = b""
    for accept in ACCEPTS[::-1]:
        packed = collector.scrape(accept, "gzip")
        body = collector.scrape(accept, None)[1]
        text = body.decode()
        assert packed[0].get("Content-Encoding") != "gzip" or gzip.decompress(packed[1]).startswith(b"# HELP")
        assert list((parse_openmetrics if accept and "open" in accept else parse_text)(text))
    generate_latest(collector)  # type: ignore[arg-type]  # used by registries, pushes and text files
    return body.decode()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_odd_text_gives_a_valid_scrape(entry: Callable[[Provider, str], None]) -> None:
    """Any odd text at any entry gives a scrape that parsers accept, in each format."""
    for text in ODD:
        provider = Provider()
        entry(provider, text)
        body = check(provider)
        assert (text in SURROGATES) == ("\N{REPLACEMENT CHARACTER}" in body)
        provider.shutdown()


def test_promtool_reads_all_odd_labels_together(provider: Provider, lint: Callable[[bytes], str]) -> None:
    """A scrape of all odd labels together is valid for promtool too, from private memory and from a store."""
    for text in ODD:
        labels(provider, text)
    check(provider)
    assert "error while linting" not in lint(Collector(provider).render()[1])


@pytest.mark.parametrize("entry", [labels, documentation, info, states], ids=lambda entry: entry.__name__)
def test_without_the_replacement_surrogates_would_fail(
    entry: Callable[[Provider, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the replacement, a surrogate raises in the slab or in the scrape."""
    for module in ("instrument", "info", "enum"):
        monkeypatch.setattr(f"mpmetrics.instruments.{module}.text", str)
    provider = Provider()

    def declare_and_check() -> None:
        entry(provider, "\ud800")
        check(provider)

    with pytest.raises(UnicodeEncodeError):
        declare_and_check()


def test_replaced_texts_are_one_series(provider: Provider, shown: Callable[[Any], Any]) -> None:
    """Texts that are equal after the replacement are one series, also on the fast path and in `remove()`."""
    counter = Counter("a", "A.", ["x"], provider=provider)
    for text in ("\ud800", "\udfff", "\N{REPLACEMENT CHARACTER}"):
        counter.labels(text).inc()
        assert counter.labels(text) is counter.labels("\N{REPLACEMENT CHARACTER}")
    assert {("a_total", (("x", "\N{REPLACEMENT CHARACTER}"),)): 3.0} == shown(provider)
    counter.remove("\udbff")
    assert {} == shown(provider)


BAD_NAMES = ["a\ud800", "\udc80", "a b", "", "a\n", "a\0", 'a"', "é", "1a"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
@pytest.mark.parametrize("where", ["metric", "label", "info", "unit", "instrument", "namespace", "options"])
def test_invalid_names_raise_where_they_are_passed(name: str, where: str) -> None:
    """A name that Prometheus does not allow raises, and declares nothing."""
    if not name and where in ("unit", "namespace", "options"):
        return  # an empty value is the default here
    provider = Provider()
    make: dict[str, Callable[[], object]] = {
        "metric": lambda: Counter(name, "A.", provider=provider),
        "label": lambda: Counter("a", "A.", [name], provider=provider),
        "info": lambda: Info("a", "A.", provider=provider).info({name: "v"}),
        "unit": lambda: Counter("a", "A.", unit=name, provider=provider) if name != "1a" else Counter("1", "A."),
        "instrument": lambda: provider.meter("m").counter(name),
        "namespace": lambda: Counter("a", "A.", namespace=name, provider=provider),
        "options": lambda: ExporterOptions(namespace=name),
    }
    with pytest.raises(ValueError, match=r"name|unit"):
        make[where]()
    check(provider)


@pytest.mark.parametrize("style", ["native", "gauges"])
def test_registries_replace_or_refuse_odd_text(provider: Provider, style: Any) -> None:
    """Names of a registry may be any UTF-8 text and raise otherwise; odd labels are replaced."""
    registry = Registry("r", provider=provider)
    driver = PrometheusDriver(registry, 5, style=style)
    for number, text in enumerate(ODD):
        if text in SURROGATES:
            for refuse in (
                lambda text=text: registry.get_or_register_counter(f"c{text}"),
                lambda text=text: registry.child(text).get_or_register_timer("t"),
                lambda text=text: Registry(f"r{text}", provider=provider),
            ):
                with pytest.raises(ValueError, match="UTF-8"):
                    refuse()
            assert registry.get(f"c{text}") is None
        else:
            registry.get_or_register_counter(f"c{number} {text}").inc()
        registry.get_or_register_timer("t", {f"l{text}": text}).update(1)
        registry.get_or_register_gauge("g", {"l": text}, function=lambda: 1.0)
    driver.once()
    assert "t_seconds_count{l_=" in check(provider, *sources([driver])) or style == "gauges"


def test_odd_name_of_a_driver_is_a_label() -> None:
    """The name of a custom driver becomes a label, with replacements."""

    class Odd(Driver):
        def __repr__(self) -> str:
            return "driver \ud800"

        def once(self) -> None:
            """Nothing."""

    assert "driver \N{REPLACEMENT CHARACTER}" in check(Provider(), *sources([Odd(1.0)]))


def test_odd_name_of_a_source_file_is_harmless(shared: Provider, store_directory: str) -> None:
    """A declaration in a source file whose name is not UTF-8 works; records hold that name, for messages."""
    code = compile("Counter('a', 'A.', provider=provider).inc()", "odd\udcff.py", "exec")
    exec(code, {"Counter": Counter, "provider": shared})  # noqa: S102 (gives the code a file name that is not UTF-8)
    other = Provider(store_directory)
    with contextlib.closing(Collector(other)) as collector:
        assert b"a_total 1.0\n" in collector.render()[1]
    other.shutdown()


def test_rendering_never_fails() -> None:
    """The renderers replace a surrogate from any source, so that it does not cost the rest of the scrape."""
    reading = Reading("a", "gauge", "\ud800", samples=[Sample("", (("x", "\udfff"),), 1.0)])
    assert b'a{x="?"} 1.0\n' in render_text([reading])
    assert b'a{x="?"} 1.0\n' in render_openmetrics([reading])


def test_text_is_checked_once_per_series(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is checked when its series is made, not at each call; the compiled core does not check in Python."""
    calls: list[object] = []
    monkeypatch.setattr(
        "mpmetrics.instruments.instrument.text", lambda value: calls.append(value) or naming.text(value)
    )
    counter = Counter("a", "A.", ["x"], provider=provider)
    calls.clear()
    for _ in range(100):
        counter.labels("v").inc()
    assert calls in ([], ["v"])
