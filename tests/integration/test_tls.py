"""The platform over TLS to RabbitMQ and Redis, each side with a certificate, and what happens when one expires."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from kombu import Connection
from typer.testing import CliRunner, Result

from broker.topology import publisher_connection
from cli.main import app
from cli.services import process
from cli.services.rabbitmq import RabbitServer
from cli.services.redis import RedisServer
from contracts.settings import BackendSettings
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HOST = "127.0.0.1"


@dataclass
class Files:
    """An authority, and the certificates that it issues, as files."""

    folder: Path
    authority: trustme.CA

    def issue(self, name: str, host: str, *, valid: bool = True) -> None:
        """`NAME.pem` and `NAME.key`; what is not valid was so until yesterday."""
        day = datetime.timedelta(days=1)
        until = datetime.datetime.now(datetime.UTC) + (day if valid else -day)
        made = self.authority.issue_cert(host, not_before=until - 30 * day, not_after=until)
        made.cert_chain_pems[0].write_to_path(self.folder / f"{name}.pem")
        made.private_key_pem.write_to_path(self.folder / f"{name}.key")

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def query(self) -> str:
        ours = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
        return "&".join(f"{key}={self.path(name)}" for key, name in ours.items())


class TlsProxy:
    """TLS in front of a Redis that has none: asks each caller for a certificate. Reads its own anew for each start."""

    def __init__(self, port: int, files: Files) -> None:
        self.port = process.free_port()
        self._inner, self._files = port, files
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._files.path("ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._files.path("server.pem"), self._files.path("server.key"))
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, HOST, self.port, ssl=context)
            started.set()
            await self._ending.wait()
            server.close()

        def run() -> None:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(serve())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0.05))
            self._loop.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert started.wait(20)

    def stop(self) -> None:
        """Cuts all connections."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(20)
            self._thread = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(HOST, self._inner)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.CancelledError):
                while data := await source.read(65_536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))


@dataclass
class Site:
    files: Files
    redis: RedisServer
    proxy: TlsProxy
    rabbit: RabbitServer
    tls_port: int

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DARKROOM_REDIS_URL": f"rediss://{HOST}:{self.proxy.port}/0?{self.files.query}",
            "DARKROOM_BROKER_URL": f"amqps://guest:guest@{HOST}:{self.tls_port}//?{self.files.query}",
            "DARKROOM_BLOB_DIR": str(self.files.folder / "blobs"),
        }

    def cut(self) -> None:
        """All connections are lost; the servers read their certificates anew."""
        self.proxy.stop()
        self.proxy.start()
        self.rabbit.control("eval", "ssl:clear_pem_cache().")
        self.rabbit.control("close_all_connections", "of the test")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    files = Files(folder, trustme.CA())
    files.authority.cert_pem.write_to_path(folder / "ca.pem")
    files.issue("server", HOST)
    files.issue("client", "darkroom.example")
    port = process.free_port()
    config = (
        f"listeners.ssl.default = {HOST}:{port}\n"
        f"ssl_options.cacertfile = {files.path('ca.pem')}\n"
        f"ssl_options.certfile = {files.path('server.pem')}\n"
        f"ssl_options.keyfile = {files.path('server.key')}\n"
        "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
    )
    redis, rabbit = RedisServer(folder / "redis"), RabbitServer(folder / "rabbitmq", config)
    proxy = TlsProxy(redis.port, files)
    with ExitStack() as stack:
        for each in (redis, rabbit, proxy):
            stack.callback(each.stop)
            each.start()
        yield Site(files, redis, proxy, rabbit, port)


@pytest.fixture(autouse=True)
def valid(site: Site) -> Iterator[None]:
    """Certificates are valid again after each test."""
    yield
    site.files.issue("server", HOST)
    site.files.issue("client", "darkroom.example")
    site.cut()


@pytest.fixture
def doctor(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(**environ: str) -> Result:
        for name, value in {**site.environ, **environ}.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(app, ["doctor"])

    return run


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_picture_over_tls_and_over_a_renewal(site: Site, tmp_path: Path) -> None:
    """A client certificate that expires shuts the platform out; the renewed file lets it in, with no restart."""
    environ = {**site.environ, "DARKROOM_ENGINE": "fake", "DARKROOM_MODEL": "fake"}
    with Stack.open(environ, tmp_path, site.redis, site.rabbit) as stack:
        assert stack.ended(stack.submit(prompt="before"))["status"] == "succeeded"
        site.files.issue("client", "darkroom.example", valid=False)
        site.cut()
        wait_for(lambda: stack.http.get("/readyz").status_code == 503)
        site.files.issue("client", "darkroom.example")
        site.files.issue("server", HOST)
        site.cut()
        stack.wait_ready(1)
        assert stack.ended(stack.submit(prompt="after"))["status"] == "succeeded"
        assert [each.poll() for each in stack.processes.values()] == [None, None], "nobody was restarted"


def test_a_server_whose_certificate_has_expired(site: Site, doctor: Callable[..., Result]) -> None:
    assert "FAULT" not in doctor().output
    site.files.issue("server", HOST, valid=False)
    site.cut()
    said = doctor()
    assert said.exit_code == 1
    assert said.output.count("certificate") >= 2, said.output
    assert "the broker's certificate, or the client's, is refused" in said.output
    assert "Redis' certificate, or the client's, is refused" in said.output
    assert said.output.count("check the dates of both certificates") == 2


def test_a_client_without_a_certificate(site: Site, doctor: Callable[..., Result]) -> None:
    alone = f"ssl_ca_certs={site.files.path('ca.pem')}"
    for name, url in site.environ.items():
        if name.endswith("_URL"):
            done = doctor(**{name: url.partition("?")[0] + "?" + alone})
            assert done.exit_code == 1, done.output
            assert "FAULT" in done.output


@pytest.mark.parametrize("host", ["other.example", "127.0.0.2"])
def test_a_certificate_of_another_host(site: Site, host: str) -> None:
    """kombu's own transport compares no names: whoever has any certificate of a trusted authority could listen in."""
    site.files.issue("server", host)
    site.cut()
    settings = BackendSettings(broker_url=site.environ["DARKROOM_BROKER_URL"])
    with refused(), publisher_connection(settings) as connection:
        connection.connect()


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(ssl.SSLCertVerificationError):
        yield


def test_an_authority_that_is_not_trusted(site: Site, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    url = site.environ["DARKROOM_BROKER_URL"].replace(site.files.path("ca.pem"), str(tmp_path / "other.pem"))
    with refused(), Connection(url) as connection:
        connection.connect()
