"""A ready-made gunicorn configuration: ``gunicorn -c python:gunicorn_conf app:app``.

Everything else is gunicorn's default and can be set on its command line. With a configuration of your own, call
``mpmetrics.integrations.gunicorn.install(globals())`` at its end instead.
"""

from mpmetrics.integrations.gunicorn import install

install(globals())
