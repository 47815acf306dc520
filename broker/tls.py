"""TLS to RabbitMQ, with verified certificates. All connections of this process use it, Celery's too."""

from __future__ import annotations

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.pyamqp import SSLTransport

SCHEME: Final = "amqps"


class VerifyingTransport(SSLTransport):  # type: ignore[misc]
    """AMQP over TLS. The server's certificate must be valid and name the host of the URL.

    kombu's transport does not check the name. `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` in the URL
    name files, as in a `rediss://` URL. They are read for each connection, so a renewed certificate needs
    no restart.
    """

    def establish_connection(self) -> Any:
        """Connect, with the current files and the host name of this attempt."""
        options = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        files = {name.removeprefix("ssl_"): value for name, value in options.items()}
        # The URL may name several hosts, one per attempt. kombu keeps the first host's name.
        self.client.ssl = {**files, "server_hostname": self.client.hostname}
        return super().establish_connection()


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{VerifyingTransport.__name__}"
