"""Ready-made metrics: of HTTP servers, of HTTP calls to other servers, and of the process."""

from mpmetrics.instrumentation.asgi import ASGIMiddleware
from mpmetrics.instrumentation.http_client import HTTPClientMetrics
from mpmetrics.instrumentation.process import observe_process
from mpmetrics.instrumentation.wsgi import WSGIMiddleware

__all__ = ["ASGIMiddleware", "HTTPClientMetrics", "WSGIMiddleware", "observe_process"]
