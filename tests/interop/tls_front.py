"""A TLS listener in front of a plain one, as a load balancer is: clients then run with the https addresses that they ask for."""

import asyncio
import contextlib
import ssl
import threading


def trusting(ca_file):
    """The settings with which tokenmint, Ruby, curl, Node and Python trust a certificate authority."""
    names = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"]
    return dict.fromkeys(names, str(ca_file))


class TlsFront:
    """Listens with TLS at `url`, and passes the bytes on to a port of 127.0.0.1."""

    def __init__(self, certificate, port):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*certificate)
        self.port = port
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(timeout=10)
        self.url = f"https://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _listen(self):
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context, backlog=1000)

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

    def close(self):
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=10)

    async def _stop(self):
        self.server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def copy(reader, writer):
    """Copies until one side ends, and then closes the other."""
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
