"""gunicorn's configuration for the mails: the collector imports the module with the callbacks."""

from mpmetrics.integrations.gunicorn import install

workers = 2

install(globals(), callbacks=["examples.async_metrics.metrics"])
