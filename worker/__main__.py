"""`python -m worker`: one worker for one model, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from importlib.metadata import version

from broker.topology import check_topology
from contracts.errors import QueueMisdeclared, SettingsError
from contracts.settings import WorkerSettings
from telemetry import logs, metrics, tracing
from telemetry.server import OperationServer
from worker.app import consume, create_app
from worker.engine.host import EngineUnloadable
from worker.naming import model_name
from worker.runtime import Runtime

log = logs.get_logger("worker")


def main() -> int:
    try:
        settings = WorkerSettings.from_env()
    except SettingsError as error:
        sys.stderr.write(f"darkroom worker: {error}\n")
        return 2
    logs.configure(settings, service="worker")
    tracing.configure(settings, "worker")
    metrics.BUILD.labels("worker", version("darkroom")).set(1)
    runtime = Runtime(settings)
    if settings.metrics_port:
        # Before the model is loaded, which may take minutes: whoever runs the worker sees that it lives.
        OperationServer(settings.metrics_port, runtime.fault, runtime.unready).start()
    try:
        return _serve(settings, runtime)
    finally:
        tracing.shutdown()


def _serve(settings: WorkerSettings, runtime: Runtime) -> int:
    try:
        spec = runtime.start()
        check_topology(settings, [spec.name])
    except QueueMisdeclared as error:
        sys.stderr.write(f"darkroom worker: {error}\n")
        runtime.stop()
        return 2
    except EngineUnloadable as error:
        log.error("model_unloadable", model=model_name(settings), reason=str(error))
        runtime.stop()
        return 1
    try:
        consume(create_app(settings, runtime, spec), settings, runtime)
    except SystemExit as ended:
        # Celery leaves this way, whatever it was that ended it.
        log.info("consumer_ended", code=str(ended.code))
    finally:
        runtime.stop()
    return 1 if runtime.failed else 0


if __name__ == "__main__":
    sys.exit(main())
