"""Drivers: metrics outward, every few seconds. Of a registry into Prometheus; to a Pushgateway; into a file."""

from mpmetrics.drivers.config import Config
from mpmetrics.drivers.driver import Driver
from mpmetrics.drivers.prometheus import PrometheusDriver
from mpmetrics.drivers.pushgateway import PushgatewayDriver
from mpmetrics.drivers.textfile import TextfileDriver

__all__ = ["Config", "Driver", "PrometheusDriver", "PushgatewayDriver", "TextfileDriver"]
