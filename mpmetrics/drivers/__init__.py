"""Drivers send metrics out every few seconds: from a registry into Prometheus, to a Pushgateway, or into a file."""

from mpmetrics.drivers.config import Config
from mpmetrics.drivers.driver import Driver
from mpmetrics.drivers.prometheus import PrometheusDriver
from mpmetrics.drivers.pushgateway import PushgatewayDriver
from mpmetrics.drivers.textfile import TextfileDriver

__all__ = ["Config", "Driver", "PrometheusDriver", "PushgatewayDriver", "TextfileDriver"]
