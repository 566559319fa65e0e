"""gunicorn: one line in the configuration file gives the whole server one metrics endpoint.

gunicorn calls ``install`` in the master, while it reads the configuration, before it imports a preloaded application.
``install`` touches nothing on disk, since gunicorn may only check its configuration; metrics wait in memory. When
gunicorn starts, the epoch begins. When the master is ready, it forks the collector process, and its loop supervises
that from then on. Workers need no hooks for counting: each leases a slab at its first write, and the kernel releases
the lease when the worker dies.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import TYPE_CHECKING, Any

from gunicorn import util

from mpmetrics.callbacks.callback import check_limits
from mpmetrics.collector.asked_workers import WORKER_TIMEOUT
from mpmetrics.collector.callback_modules import CallbackModules, parse_modules
from mpmetrics.collector.crashed_callbacks import CrashedCallbacks
from mpmetrics.collector.exporter_options import ExporterOptions
from mpmetrics.drivers.collector_drivers import check_drivers, sources
from mpmetrics.endpoint.collector import Collector
from mpmetrics.endpoint.process import Endpoint
from mpmetrics.errors import StoreError
from mpmetrics.http.address import DEFAULT_BIND, Address
from mpmetrics.http.security.settings import Security
from mpmetrics.instrumentation.process import observe_process
from mpmetrics.integrations.hooks import chain, is_ours
from mpmetrics.integrations.listeners import Listeners, resolve
from mpmetrics.integrations.logs import log_through
from mpmetrics.integrations.protect import protect
from mpmetrics.integrations.server_store import PASSED_ON, ServerStore
from mpmetrics.integrations.settings import Settings
from mpmetrics.integrations.supervisor import Supervisor
from mpmetrics.provider import Provider, set_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence

    from mpmetrics.drivers import Driver

__all__ = ["install"]

log = logging.getLogger("mpmetrics")

STOP_GRACE = 2.0

_OVERRIDDEN = (
    "mpmetrics does not run: hooks that are defined below install() replaced its own; call install() at the end of the"
    " configuration"
)

_HANDED = "MPMETRICS_LISTENERS"
"""Environment variable that tells the next master (SIGUSR2) which descriptors are the endpoint's sockets."""

_UNIX_PATH_MAX = 100
"""Most bytes of a unix socket's path; every system allows this many."""


def install(
    namespace: MutableMapping[str, Any],
    *,
    bind: str | Iterable[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    callbacks: str | Sequence[str] | None = None,
    max_age: float = 0.0,
    worker_timeout: float = WORKER_TIMEOUT,
    options: ExporterOptions | None = None,
    attributes: Mapping[str, object] | None = None,
    resource: Mapping[str, object] | None = None,
    process_metrics: bool = False,
    drivers: Sequence[Driver] = (),
    security: Security | None = None,
    environ: MutableMapping[str, str] = os.environ,
) -> None:
    """Add this server's metrics endpoint to the gunicorn configuration ``namespace``, which is its ``globals()``.

    Call it at the end of the configuration file. Hooks that the file defines above are called, too, before ours.

    * ``bind``: one or more addresses of the endpoint, ``host:port``, ``[ipv6]:port`` or ``unix:/path``; by default
      ``MPMETRICS_BIND``, else ``127.0.0.1:9464``. It also listens at ``metrics.sock`` in the epoch's directory.
    * ``directory``: the store; by default ``MPMETRICS_DIR``, else a new one on tmpfs, removed when the server ends.
    * ``callbacks``: modules that register callbacks, which the collector imports; by default ``MPMETRICS_CALLBACKS``,
      comma-separated. The callbacks of a preloaded application run without this.
    * ``max_age``, ``worker_timeout`` and ``options``: as in :class:`mpmetrics.Collector`.
    * ``attributes`` and ``resource``: as in :class:`mpmetrics.Provider`.
    * ``process_metrics``: each worker reports its CPU time, memory and so on.
    * ``drivers``: drivers of :mod:`mpmetrics.drivers`, which run in the collector. Each scrape also shows what the
      drivers of registries flushed.
    * ``security``: files of certificates and credentials that protect the endpoint; by default those that
      ``MPMETRICS_TLS_CERT`` and so on name, see :class:`mpmetrics.Security`.

    Raises TypeError and ValueError for an invalid address, module name or other argument, and
    :class:`~mpmetrics.errors.SecurityError` for files that cannot be used. On a reload, it logs a bad address or bad
    files instead, and the addresses and the protection in force stay. If no protection was in force, bad files close
    the endpoint until a reload finds good ones.
    """
    if bind is None:
        bind = environ.get("MPMETRICS_BIND") or DEFAULT_BIND
    server = _Server.current
    held = None if server is None else server.settings
    addresses = resolve(bind, None if held is None else held.addresses)
    if callbacks is None:
        callbacks = environ.get("MPMETRICS_CALLBACKS", "")
    wanted = security if security is not None else Security.from_environ(environ)
    protection = protect(wanted, None if held is None else held.protection, again=held is not None)
    settings = Settings(
        addresses if protection is not None else [],
        protection,
        os.fspath(directory) if directory is not None else None,
        parse_modules(callbacks),
        max_age,
        worker_timeout,
        options or ExporterOptions(),
        check_drivers(drivers),
    )
    check_limits(worker_timeout, max_age, "install()")
    if server is None:
        server = _Server(environ)
    server.provider.describe(attributes, resource)
    server.configure(settings)
    _Server.current = server
    if process_metrics:
        observe_process(server.provider)
    for hook, ours in server.hooks().items():
        namespace[hook] = chain(namespace.get(hook), ours)


class _Server:
    """What this master has: the provider that its workers inherit, the epoch, and the collector process."""

    current: _Server | None = None

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self.provider = Provider.deferred()
        self._server_store = ServerStore(environ)
        self._handed = environ.pop(_HANDED, "{}")
        self._supervisor: Supervisor | None = None
        self._listeners = Listeners()
        self._settings: Settings
        self._crashed = CrashedCallbacks()
        self._started = False
        self.provider.memory.be_auxiliary()
        set_provider(self.provider)

    @property
    def settings(self) -> Settings:
        """The settings of the configuration that was read last."""
        return self._settings

    def configure(self, settings: Settings) -> None:
        """Use the settings of a configuration that was read."""
        self._settings = settings

    def hooks(self) -> dict[str, Callable[..., Any]]:
        """Return our hooks, by the names of gunicorn."""
        return {
            "on_starting": self.on_starting,
            "when_ready": self.when_ready,
            "on_reload": self.on_reload,
            "post_fork": self.post_fork,
            "post_worker_init": self.post_worker_init,
            "pre_exec": self.pre_exec,
            "on_exit": self.on_exit,
        }

    def on_starting(self, server: Any) -> None:
        """In the master, before it forks: begin the epoch."""
        self._started = True
        log_through(server.log)
        self._begin(server)

    def _begin(self, server: Any) -> None:
        """Begin the epoch and move all metrics into it; if that fails, log why, and the server runs without."""
        try:
            self._server_store.enter(self.provider, self._settings.directory, server.cfg)
        except (StoreError, OSError) as error:
            self.provider.unavailable = str(error)
            log.error("%s; the server runs, but its metrics stay private to each process until a reload", error)
            return
        self.provider.unavailable = None

    def when_ready(self, server: Any) -> None:
        """In the master, before the first worker: start the collector process; the master's loop supervises it."""
        if not self._started:
            return  # on_starting was replaced; each worker logs that
        # If the master before counts in another epoch, it answers the scrapes until it ends, so we take no sockets.
        self._listeners.take_over(self._handed, self._settings.addresses if self._server_store.is_shared else [])
        self._listeners.set(self._settings.addresses, self._settings.scheme)
        self._listeners.open()
        self._supervisor = Supervisor("metrics collector", functools.partial(self._collect, server))
        self._supervisor.check()
        # gunicorn has no regular hook, but its loop calls this method at least once a second.
        manage_workers = server.manage_workers

        def manage_workers_and_collector() -> None:
            manage_workers()
            self._look_after_collector()

        server.manage_workers = manage_workers_and_collector

    def _look_after_collector(self) -> None:
        if self._supervisor is not None:
            if self._listeners.open():
                self._supervisor.stop(STOP_GRACE)  # the next collector inherits the new socket
            self._supervisor.check()

    def _collect(self, server: Any, parent: int, heartbeat: int) -> None:
        """Run the collector process, from its first line to its last."""
        cfg = server.cfg
        for listener in server.LISTENERS:
            listener.sock.close()
        if self._settings.protection is not None:
            self._settings.protection.renew()  # as the master's user, since others may not read the files
        util.set_owner_process(cfg.uid, cfg.gid, initgroups=cfg.initgroups)
        util._setproctitle(f"metrics collector [{cfg.proc_name}]")  # noqa: SLF001 (gunicorn has no public function)
        epoch = self.provider.epoch
        election, unix = None, None
        if epoch is not None:
            election = os.path.join(epoch.path, "collector.lock")
            path = os.path.join(epoch.path, "metrics.sock")
            unix = Address(path=path) if len(os.fsencode(path)) <= _UNIX_PATH_MAX else None
        self.provider.memory.be_auxiliary()
        self._crashed.take_over()
        modules = CallbackModules(self._settings.modules, self._crashed)
        collector = Collector(
            self.provider,
            options=self._settings.options,
            max_age=self._settings.max_age,
            worker_timeout=self._settings.worker_timeout,
            modules=modules,
            watch=self._crashed,
            sources=sources(self._settings.drivers),
        )
        for driver in self._settings.drivers:
            driver.use(collector)
        Endpoint(
            collector,
            self._listeners.sockets(),
            unix=unix,
            parent=parent,
            heartbeat=heartbeat,
            election=election,
            modules=modules,
            services=self._settings.drivers,
            protection=self._settings.protection,
        ).run()
        self._crashed.leave()

    def on_reload(self, server: Any) -> None:
        """In the master, after SIGHUP: restart the collector with the new settings."""
        if self._started and self.provider.epoch is None:
            self._begin(server)  # the workers that are about to be forked will count in it
        if self._supervisor is not None:
            self._listeners.set(self._settings.addresses, self._settings.scheme)
            self._listeners.open()
            self._supervisor.stop(STOP_GRACE)
            self._crashed = CrashedCallbacks()
            self._supervisor.check()

    def post_fork(self, server: Any, worker: Any) -> None:
        """In a worker: let go of the collector, its sockets and its keys."""
        if not self._started:
            log.error("%s", _OVERRIDDEN)
        self._listeners.close()
        self._settings = self._settings.for_worker()
        if self._supervisor is not None:
            self._supervisor.release_in_child()
        if not is_ours(worker.cfg.post_worker_init):  # defined below install()
            worker.cfg.set("post_worker_init", chain(worker.cfg.post_worker_init, self.post_worker_init))

    def post_worker_init(self, worker: Any) -> None:
        """In a worker, after the application is loaded and gevent has patched, if used: answer collectors."""
        self.provider.service.start()

    def pre_exec(self, server: Any) -> None:
        """In the child that becomes the new master: pass the epoch and the sockets on to it."""
        for name in PASSED_ON:
            if name in self._environ:
                server.cfg.env_orig[name] = self._environ[name]
        server.cfg.env_orig[_HANDED] = self._listeners.hand_over()

    def on_exit(self, server: Any) -> None:
        """In the master, after the last worker: end the collector, leave the epoch, remove a store of our own."""
        if self._supervisor is not None:
            self._supervisor.stop(STOP_GRACE)
        if server.reexec_pid or (server.master_pid and server.master_pid == os.getppid()):
            self._listeners.close()  # another master listens at them, too: the next one or the one before
        else:
            self._listeners.remove()
        self.provider.shutdown()
        self._server_store.leave()
