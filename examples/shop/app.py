"""A small shop as a plain WSGI application, counted with mpmetrics.

It shows what a real application must get right about its metrics: labels that a client cannot make up (route
templates and known methods, never raw paths), failures that are counted like everything else, and state that
does not live in one process. A cookie holds the cart, so any worker can answer any request. One worker may open
a cart and another take the payment; `shop_carts_open` is right because it adds up over all workers. (The shop
believes an old cookie that a client sends again, which pays twice. A real shop keeps its carts in a database.)

The application counts a response before it hands the body to the server. So a client that has read a response
finds it in the next scrape.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field
from html import escape
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from mpmetrics import Counter, Gauge, Histogram, UpDownCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

REQUESTS = Counter("shop_requests", "Requests answered", ["route", "method", "code"])
LATENCY = Histogram("shop_request_seconds", "Time from request to response, in seconds", ["route"])
IN_PROGRESS = Gauge("shop_requests_in_progress", "Requests being answered now", multiprocess_mode="livesum")
CARTS_OPEN = UpDownCounter("shop_carts_open", "Carts with something in them, not yet paid for")
ITEMS_SOLD = Counter("shop_items_sold", "Items paid for", ["product"])
ORDER_VALUE = Histogram("shop_order_value_euros", "Value of an order", buckets=(5, 10, 20, 50, 100, 200))
LAST_ORDER = Gauge("shop_last_order_timestamp_seconds", "Unix time of the last order", multiprocess_mode="max")

METHODS = frozenset({"GET", "POST"})
MAX_FORM_BYTES = 1000
MAX_QUANTITY = 99
SLOW_SECONDS = 0.5


@dataclass(frozen=True)
class Product:
    """One thing for sale; the price is in euro cents."""

    name: str
    cents: int


CATALOGUE = {
    "tea": Product("Green tea, 100 g", 690),
    "pot": Product("Iron tea pot", 5400),
    "cup": Product("Porcelain cup", 1250),
    "tin": Product("Tea tin", 890),
}


@dataclass(frozen=True)
class Request:
    """What a handler needs: the product in the path, if any, the form and the cart."""

    sku: str
    form: dict[str, str]
    cart: dict[str, int]


@dataclass(frozen=True)
class Response:
    """A handler's answer; `cart` is the new cart, or None if it does not change."""

    body: str
    status: HTTPStatus = HTTPStatus.OK
    headers: list[tuple[str, str]] = field(default_factory=list)
    cart: dict[str, int] | None = None


class Refused(Exception):  # noqa: N818 - an answer to the client, not an error of the shop
    """The request cannot be served; the response tells the client why."""

    def __init__(self, status: HTTPStatus, message: str, headers: list[tuple[str, str]] | None = None) -> None:
        super().__init__(message)
        self.response = Response(page(status.phrase, f"<p>{escape(message)}</p>"), status, headers or [])


def page(title: str, content: str) -> str:
    """Return a whole HTML page; `content` is HTML, `title` is plain text."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
    return f"{head}<h1>{escape(title)}</h1>{content}<p><a href=/>Catalogue</a> <a href=/cart>Cart</a></p>\n"


def euros(cents: int) -> str:
    """Return an amount as on a price tag."""
    return f"€ {cents // 100}.{cents % 100:02d}"


def show_catalogue(_request: Request) -> Response:
    """List the products."""
    rows = (f"<li><a href=/products/{sku}>{escape(p.name)}</a>, {euros(p.cents)}" for sku, p in CATALOGUE.items())
    return Response(page("Tea shop", f"<ul>{''.join(rows)}</ul>"))


def show_product(request: Request) -> Response:
    """Show one product, with a form to put it in the cart."""
    product = find(request.sku)
    form = (
        f"<form method=post action=/cart><input type=hidden name=sku value={request.sku}>"
        "<input name=quantity value=1 size=2> <button>Add to cart</button></form>"
    )
    return Response(page(product.name, f"<p>{euros(product.cents)}</p>{form}"))


def show_cart(request: Request) -> Response:
    """Show the cart, with a button to pay."""
    if not request.cart:
        return Response(page("Cart", "<p>It is empty.</p>"))
    rows = "".join(f"<li>{count} x {escape(CATALOGUE[sku].name)}" for sku, count in request.cart.items())
    pay = f"<form method=post action=/checkout><button>Pay {euros(total(request.cart))}</button></form>"
    return Response(page("Cart", f"<ul>{rows}</ul>{pay}"))


def add_to_cart(request: Request) -> Response:
    """Put `quantity` of `sku` into the cart and show it."""
    sku, quantity = request.form.get("sku", ""), request.form.get("quantity", "1")
    find(sku)
    wanted = number(quantity, MAX_QUANTITY)
    if not wanted:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The quantity has to be a number from 1 to {MAX_QUANTITY}.")
    if not request.cart:
        CARTS_OPEN.inc()
    count = min(request.cart.get(sku, 0) + wanted, MAX_QUANTITY)
    return Response("", HTTPStatus.SEE_OTHER, [("Location", "/cart")], cart={**request.cart, sku: count})


def check_out(request: Request) -> Response:
    """Sell the contents of the cart. No money moves: this is an example."""
    if not request.cart:
        raise Refused(HTTPStatus.CONFLICT, "There is nothing in the cart.")
    cents = total(request.cart)
    for sku, count in request.cart.items():
        ITEMS_SOLD.labels(sku).inc(count)
    ORDER_VALUE.observe(cents / 100)
    LAST_ORDER.set(time.time())
    CARTS_OPEN.dec()
    return Response(page("Thank you", f"<p>You paid {euros(cents)}.</p>"), cart={})


def be_slow(_request: Request) -> Response:
    """Take half a second, like a page with a slow database; watch `shop_requests_in_progress`."""
    time.sleep(SLOW_SECONDS)
    return Response(page("Slow", f"<p>This took {SLOW_SECONDS} seconds.</p>"))


ROUTES: dict[str, dict[str, Callable[[Request], Response]]] = {
    "/": {"GET": show_catalogue},
    "/products/{sku}": {"GET": show_product},
    "/cart": {"GET": show_cart, "POST": add_to_cart},
    "/checkout": {"POST": check_out},
    "/slow": {"GET": be_slow},
}
UNMATCHED = "(unmatched)"


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request and count it."""
    method = environ["REQUEST_METHOD"]
    route, sku = match(environ.get("PATH_INFO", ""))
    IN_PROGRESS.inc()
    try:
        with LATENCY.labels(route).time():
            response = answer(environ, method, route, sku)
    finally:
        IN_PROGRESS.dec()
    REQUESTS.labels(route, method if method in METHODS else "other", str(response.status.value)).inc()

    body = response.body.encode()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        *response.headers,
    ]
    if response.cart is not None:
        headers.append(("Set-Cookie", cart_cookie(response.cart)))
    start_response(f"{response.status.value} {response.status.phrase}", headers)
    return [body]


app = application


def match(path: str) -> tuple[str, str]:
    """Return the route template of a path, and the product in it."""
    prefix, _, sku = path.rpartition("/")
    if prefix == "/products" and sku:
        return "/products/{sku}", sku
    return (path, "") if path in ROUTES and "{" not in path else (UNMATCHED, "")


def answer(environ: WSGIEnvironment, method: str, route: str, sku: str) -> Response:
    """Run the handler of a route; a failure in it becomes a response too."""
    try:
        handlers = ROUTES.get(route)
        if handlers is None:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        if method not in handlers:
            allow = [("Allow", ", ".join(handlers))]
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "This page does not do that.", allow)
        form = read_form(environ) if method == "POST" else {}
        return handlers[method](Request(sku, form, read_cart(environ)))
    except Refused as refusal:
        return refusal.response
    except Exception:  # noqa: BLE001 - a broken handler is answered and counted as a 500
        environ["wsgi.errors"].write(traceback.format_exc())
        return Response(page("Sorry", "<p>Something broke.</p>"), HTTPStatus.INTERNAL_SERVER_ERROR)


def read_form(environ: WSGIEnvironment) -> dict[str, str]:
    """Return the fields of a posted form, the last one where a name repeats."""
    length = number(environ.get("CONTENT_LENGTH") or "0", MAX_FORM_BYTES)
    if length is None:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A form has at most {MAX_FORM_BYTES} bytes.")
    text = environ["wsgi.input"].read(length).decode(errors="replace")
    return {name: values[-1] for name, values in parse_qs(text).items()}


def read_cart(environ: WSGIEnvironment) -> dict[str, int]:
    """Return the cart that the client sent, without products that the shop does not sell."""
    try:
        cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get("cart")
    except CookieError:
        return {}
    cart = {}
    for item in cookie.value.split("|") if cookie else ():
        sku, _, text = item.partition(":")
        count = number(text, MAX_QUANTITY)
        if sku in CATALOGUE and count:
            cart[sku] = count
    return cart


def cart_cookie(cart: dict[str, int]) -> str:
    """Return the cookie that `read_cart` reads; for an empty cart, one that deletes it."""
    value = "|".join(f"{sku}:{count}" for sku, count in cart.items())
    return f"cart={value}; Path=/; HttpOnly; SameSite=Lax" + ("" if cart else "; Max-Age=0")


def number(text: str, most: int) -> int | None:
    """Return the number in a client's text, or None unless it is a plain one from 0 to `most`."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(most)):
        return None
    return value if (value := int(text)) <= most else None


def find(sku: str) -> Product:
    """Return the product with this number; refuse the request if none has it."""
    if sku not in CATALOGUE:
        raise Refused(HTTPStatus.NOT_FOUND, "There is no such product.")
    return CATALOGUE[sku]


def total(cart: dict[str, int]) -> int:
    """Return the price of a cart, in euro cents."""
    return sum(CATALOGUE[sku].cents * count for sku, count in cart.items())
