"""Clients that mean harm, as a process of its own: ``python -m tests.attack.hostile KIND PORT CONNECTIONS SECONDS``.

None of them knows the secret, but for ``slow-body-secret``. Each connection that the server closes is opened again,
at most ``REOPENED_PER_SECOND`` in all. Loopback only.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from testkit.web_process import PATH, SECRET

REOPENED_PER_SECOND = 500
DRIP_SECONDS = 0.2
_POST = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
_GET = b"GET %s HTTP/1.1\r\nHost: x\r\n"
_FOR_EVER = 3600.0


class Client:
    """One hostile connection.

    Args:
        connection: a connected, non-blocking socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._connection, data)

    async def drip(self, data: bytes) -> None:
        """Send it byte by byte."""
        for number in range(len(data)):
            await self.send(data[number : number + 1])
            await asyncio.sleep(DRIP_SECONDS)

    async def read_until_closed(self) -> None:
        """Read whatever comes until the server closes."""
        while await self._loop.sock_recv(self._connection, 65536):
            pass

    def end_sending(self) -> None:
        """Close one direction."""
        self._connection.shutdown(socket.SHUT_WR)


async def silent(client: Client) -> None:
    """Connects, and sends nothing."""
    await client.read_until_closed()


async def half_open(client: Client) -> None:
    """Closes its own direction, and stays."""
    client.end_sending()
    await client.read_until_closed()
    await asyncio.sleep(_FOR_EVER)


async def slow_head(client: Client) -> None:
    """A head that comes byte by byte and never ends."""
    await client.send(_POST)
    await client.drip(b"X-Slow: " + b"a" * 10_000)


async def slow_body(client: Client) -> None:
    """A whole head without the secret, and a body that comes byte by byte, whatever is answered."""
    await client.send(_POST + b"Content-Length: 100000\r\n\r\n")
    await client.drip(b"a" * 100_000)


async def slow_body_secret(client: Client) -> None:
    """The same with the secret: a sender behind a very bad link."""
    head = f"X-CXone-Webhook-Secret: {SECRET}\r\nContent-Length: 100000\r\n\r\n".encode()
    await client.send(_POST + head)
    await client.drip(b"a" * 100_000)


async def withheld_body(client: Client) -> None:
    """Announces a body to a resource that wants none, and does not send it."""
    await client.send(_GET % b"/healthz" + b"Content-Length: 1000\r\n\r\n")
    await asyncio.sleep(_FOR_EVER)


async def never_reading(client: Client) -> None:
    """Asks for a large answer many times on one connection, and reads none."""
    await client.send((_GET % b"/openapi.json" + b"\r\n") * 500)
    await client.send((_GET % b"/metrics" + b"\r\n") * 500)
    await asyncio.sleep(_FOR_EVER)


async def large_head(client: Client) -> None:
    """A head of 780 kB."""
    await client.send(_POST + b"X-A: " + (b"a" * 90 + b"\r\nX-A: ") * 8_000)
    await client.read_until_closed()


async def many_lines(client: Client) -> None:
    """A head of as many lines as there is room for."""
    await client.send(_POST + b"".join(b"X-%d: a\r\n" % number for number in range(1_600)) + b"\r\n")
    await client.read_until_closed()


async def pipelined(client: Client) -> None:
    """A hundred requests without the secret at once."""
    await client.send((_POST + b"Content-Length: 2\r\n\r\n{}") * 100)
    await client.read_until_closed()


async def guesses(client: Client) -> None:
    """A wrong secret, again and again."""
    await client.send(_POST + b"X-CXone-Webhook-Secret: 0123456789abcdef\r\nContent-Length: 2\r\n\r\n{}")
    await client.read_until_closed()


KINDS: dict[str, Callable[[Client], Awaitable[None]]] = {
    kind.__name__.replace("_", "-"): kind
    for kind in (
        silent,
        half_open,
        slow_head,
        slow_body,
        slow_body_secret,
        withheld_body,
        never_reading,
        large_head,
        many_lines,
        pipelined,
        guesses,
    )
}


class Pace:
    """Spreads what is opened over time."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self) -> None:
        """Until the next connection may be opened."""
        now = time.monotonic()
        self._next = max(now, self._next) + 1 / REOPENED_PER_SECOND
        await asyncio.sleep(self._next - now)


async def _connection(kind: Callable[[Client], Awaitable[None]], port: int, pace: Pace) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await pace.wait()
        with socket.socket() as connection, suppress(OSError):
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await kind(Client(connection))


async def _attack(kind: str, port: int, connections: int, seconds: float) -> None:
    pace = Pace()
    tasks = [asyncio.ensure_future(_connection(KINDS[kind], port, pace)) for _ in range(connections)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Attack until the time is over."""
    kind, port, connections, seconds = sys.argv[1:]
    asyncio.run(_attack(kind, int(port), int(connections), float(seconds)))


if __name__ == "__main__":
    main()
