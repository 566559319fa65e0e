"""A ready-made gunicorn configuration: ``gunicorn -c python:gunicorn_conf app:app``.

All other settings are gunicorn's defaults and can be set on its command line. If you have a configuration file of your
own, call ``mpmetrics.integrations.gunicorn.install(globals())`` at its end instead.
"""

from mpmetrics.integrations.gunicorn import install

install(globals())
