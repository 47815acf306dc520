"""`python -m worker`: one worker for one model, until SIGTERM or SIGINT.

`contracts.exit_codes` lists its exit codes.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

from broker.topology import check_topology
from contracts import exit_codes
from contracts.errors import QueueMisdeclared, SettingsError
from contracts.model_source import local_folder
from contracts.settings import WorkerSettings
from store.layout import require_layout
from telemetry import logs, metrics, tracing
from telemetry.server import OperationServer
from worker.app import consume, create_app
from worker.engine.host import EngineLoadError
from worker.naming import model_name
from worker.runtime import Runtime
from worker.verdicts import check_policy

log = logs.get_logger("worker")


def main() -> int:
    """Run a worker with the settings of the environment. Answers the exit code."""
    try:
        settings = WorkerSettings.from_env()
        if settings.engine == "diffusers":
            # The engine reports a missing folder too, but only after it has imported torch.
            local_folder(settings.model)
        check_policy(settings)
        asyncio.run(require_layout(settings))
    except SettingsError as error:
        sys.stderr.write(f"darkroom worker: {error}\n")
        return exit_codes.UNUSABLE
    logs.configure(settings, service="worker")
    tracing.configure(settings, "worker")
    metrics.BUILD.labels("worker", version("darkroom")).set(1)
    runtime = Runtime(settings)
    if settings.metrics_port:
        # Probes must be answered while the model loads, which may take minutes.
        try:
            OperationServer(settings.metrics_port, runtime.fault, runtime.unready).start()
        except SettingsError as error:
            sys.stderr.write(f"darkroom worker: {error}\n")
            return exit_codes.UNUSABLE
    try:
        return _serve(settings, runtime)
    finally:
        tracing.shutdown()


def _serve(settings: WorkerSettings, runtime: Runtime) -> int:
    try:
        spec = runtime.start()
        check_topology(settings, [spec.name])
    except (QueueMisdeclared, SettingsError) as error:
        sys.stderr.write(f"darkroom worker: {error}\n")
        runtime.stop()
        return exit_codes.UNUSABLE
    except EngineLoadError as error:
        log.error("model_unloadable", model=model_name(settings), reason=str(error), may_pass=error.may_pass)
        # The engine's libraries may have written many lines. The reason stands on the last one.
        sys.stderr.write(f"darkroom worker: {' '.join(str(error).split())}\n")
        runtime.stop()
        return exit_codes.FAILED if error.may_pass else exit_codes.UNUSABLE
    code = 0
    try:
        code = consume(create_app(settings, runtime, spec), settings, runtime)
    except SystemExit as system_exit:
        # Celery always ends this way.
        log.info("consumer_ended", code=str(system_exit.code))
    finally:
        runtime.stop()
    return exit_codes.FAILED if runtime.failed or code else exit_codes.ENDED


if __name__ == "__main__":
    sys.exit(main())
