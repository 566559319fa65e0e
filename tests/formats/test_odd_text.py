"""Text that no format can carry as it is, at each place where an application can hand it over.

It comes out valid, or is refused right there; it never makes a later scrape fail.
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
    """A str of a type of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        """Something else."""
        return "other"


class Thing:
    """Something whose text is odd."""

    def __init__(self, said: str) -> None:
        self.said = said

    def __str__(self) -> str:
        """What it was made with."""
        return self.said


def labels(provider: Provider, text: str) -> None:
    """By position, by name, as what has text, and again on the way of what is known."""
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
    """Help."""
    Counter("a", f"x{text}x", provider=provider).inc()


def info(provider: Provider, text: str) -> None:
    """Values of pairs."""
    Info("a", "A.", ["x"], provider=provider).labels(text).info({"v": text, "w": Thing(text)})


def states(provider: Provider, text: str) -> None:
    """States, which can be set as they were given."""
    Enum("a", "A.", ["x"], states=[text, "other"], provider=provider).labels(text).state(text)


def attributes(provider: Provider, text: str) -> None:
    """Names and values of attributes, of a measurement, an instrument, a meter and the provider."""
    provider.add_attributes({f"p{text}": text})
    meter = provider.meter(f"m{text}", version=text, attributes={f"m{text}": text})
    counter = meter.counter("shop.orders", help=text, unit=f"{{{text}}}", attributes={f"i{text}": Thing(text)})
    for _ in range(2):
        counter.add(1, {f"a{text}": text, "list": [text, Thing(text)], "type": Text(text)})


def callbacks(provider: Provider, text: str) -> None:
    """What callbacks observe, what functions are called, and what they raise."""

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
    """What the metrics are of."""
    provider.describe({f"g{text}": text}, {f"service{text}": text})
    provider.meter("m").counter("shop.orders").add(1)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The test runner's own reports cannot carry what is logged here."""
    caplog.set_level(logging.CRITICAL + 1, "mpmetrics")


ENTRIES = [labels, documentation, info, states, attributes, callbacks, resource]


def check(provider: Provider, *more: Any) -> str:
    """Every format, coding and way out; what the text format says."""
    collector = Collector(provider, options=ExporterOptions(resource_labels=True), sources=more)
    body = b""
    for accept in ACCEPTS[::-1]:
        packed = collector.scrape(accept, "gzip")
        body = collector.scrape(accept, None)[1]
        text = body.decode()
        assert packed[0].get("Content-Encoding") != "gzip" or gzip.decompress(packed[1]).startswith(b"# HELP")
        assert list((parse_openmetrics if accept and "open" in accept else parse_text)(text))
    generate_latest(collector)  # type: ignore[arg-type]  # what a registry, a push and a text file do
    return body.decode()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_odd_text(entry: Callable[[Provider, str], None]) -> None:
    """Each kind of odd text at each entry: parsers read the whole scrape, in each of the formats."""
    for text in ODD:
        provider = Provider()
        entry(provider, text)
        body = check(provider)
        assert (text in SURROGATES) == ("\N{REPLACEMENT CHARACTER}" in body)
        provider.shutdown()


def test_odd_labels_beside_each_other(provider: Provider, lint: Callable[[bytes], str]) -> None:
    """All of them in one scrape, in private memory and in a store: promtool reads it, too."""
    for text in ODD:
        labels(provider, text)
    check(provider)
    assert "error while linting" not in lint(Collector(provider).render()[1])


@pytest.mark.parametrize("entry", [labels, documentation, info, states], ids=lambda entry: entry.__name__)
def test_without_the_replacement_it_would_come_in(
    entry: Callable[[Provider, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: where text is taken as it is, it can be written neither to a slab nor to a scrape."""
    for module in ("instrument", "info", "enum"):
        monkeypatch.setattr(f"mpmetrics.instruments.{module}.text", str)
    provider = Provider()

    def declare_and_check() -> None:
        entry(provider, "\ud800")
        check(provider)

    with pytest.raises(UnicodeEncodeError):
        declare_and_check()


def test_equal_text_is_one_series(provider: Provider, shown: Callable[[Any], Any]) -> None:
    """What differs only in what cannot be carried is one series, also on the fast path, and can be removed."""
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
def test_names_are_refused_where_they_enter(name: str, where: str) -> None:
    """A name that Prometheus would not take raises, and nothing is made."""
    if not name and where in ("unit", "namespace", "options"):
        return  # none is given
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
def test_registries(provider: Provider, style: Any) -> None:
    """Their names may be anything that can be written; labels are as everywhere; what cannot be written is refused."""
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


def test_odd_drivers() -> None:
    """What a driver of one's own is called shows as a label, whatever it is."""

    class Odd(Driver):
        def __repr__(self) -> str:
            return "driver \ud800"

        def once(self) -> None:
            """Nothing."""

    assert "driver \N{REPLACEMENT CHARACTER}" in check(Provider(), *sources([Odd(1.0)]))


def test_file_of_a_declaration(shared: Provider, store_directory: str) -> None:
    """Source files whose names are no text are no harm: they stand in records, for messages."""
    code = compile("Counter('a', 'A.', provider=provider).inc()", "odd\udcff.py", "exec")
    exec(code, {"Counter": Counter, "provider": shared})  # noqa: S102 (the only way to such a name)
    other = Provider(store_directory)
    with contextlib.closing(Collector(other)) as collector:
        assert b"a_total 1.0\n" in collector.render()[1]
    other.shutdown()


def test_rendering_never_fails() -> None:
    """The last line: whatever a source shows, a scrape of the rest is not lost for it."""
    reading = Reading("a", "gauge", "\ud800", samples=[Sample("", (("x", "\udfff"),), 1.0)])
    assert b'a{x="?"} 1.0\n' in render_text([reading])
    assert b'a{x="?"} 1.0\n' in render_openmetrics([reading])


def test_the_hot_path_does_not_check(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is looked at when a series is made, and not again; by the compiled core not in Python."""
    calls: list[object] = []
    monkeypatch.setattr(
        "mpmetrics.instruments.instrument.text", lambda value: calls.append(value) or naming.text(value)
    )
    counter = Counter("a", "A.", ["x"], provider=provider)
    calls.clear()
    for _ in range(100):
        counter.labels("v").inc()
    assert calls in ([], ["v"])
