"""gunicorn's configuration: one driver for the whole server, and on request a Pushgateway and a text file.

``PUSHGATEWAY=127.0.0.1:9091`` pushes all metrics there; ``TEXTFILE=/var/lib/node_exporter/shop.prom`` writes them to
that file.
"""

import os

from mpmetrics.drivers import Driver, PrometheusDriver, PushgatewayDriver, TextfileDriver
from mpmetrics.integrations.gunicorn import install
from mpmetrics.registry import default_registry

workers = 2

drivers: list[Driver] = [PrometheusDriver(default_registry, 1.0, "shop")]
if "PUSHGATEWAY" in os.environ:
    drivers.append(PushgatewayDriver(None, os.environ["PUSHGATEWAY"], "shop", interval=1.0))
if "TEXTFILE" in os.environ:
    drivers.append(TextfileDriver(None, os.environ["TEXTFILE"], interval=1.0))

install(globals(), drivers=drivers)
