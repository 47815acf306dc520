"""TLS to RabbitMQ: whom we believe, and who we are. All connections of this process have it, Celery's too."""

from __future__ import annotations

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.pyamqp import SSLTransport

SCHEME: Final = "amqps"


class VerifyingTransport(SSLTransport):  # type: ignore[misc]
    """AMQP over TLS to a server whose certificate is valid and names the host of the URL. kombu's own compares no names.

    `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` in the URL name files, as in a `rediss://` URL. They are read for each connection, so
    a renewed certificate needs no restart.
    """

    def establish_connection(self) -> Any:
        given = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        files = {name.removeprefix("ssl_"): value for name, value in given.items()}
        # The host of this attempt: there may be several. kombu itself keeps the first one's name.
        self.client.ssl = {**files, "server_hostname": self.client.hostname}
        return super().establish_connection()


TRANSPORT_ALIASES[SCHEME] = f"{__name__}:{VerifyingTransport.__name__}"
