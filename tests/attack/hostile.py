"""Hostile clients in a process of their own: ``python -m tests.attack.hostile KIND PORT CONNECTIONS SECONDS``.

Only ``slow-body-secret`` knows the secret. Each connection that the server closes is reopened, at most
``REOPENED_PER_SECOND`` in all. Loopback only.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from testkit.web_process import PATH, SECRET

REOPENED_PER_SECOND = 500
TRICKLE_SECONDS = 0.2
_POST = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n".encode()
_GET = b"GET %s HTTP/1.1\r\nHost: x\r\n"
_FOREVER = 3600.0


class Client:
    """One hostile connection.

    Args:
        connection: A connected, non-blocking socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._loop = connection, asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._connection, data)

    async def trickle(self, data: bytes) -> None:
        """Send one byte at a time."""
        for number in range(len(data)):
            await self.send(data[number : number + 1])
            await asyncio.sleep(TRICKLE_SECONDS)

    async def read_until_closed(self) -> None:
        """Read until the server closes."""
        while await self._loop.sock_recv(self._connection, 65536):
            pass

    def end_sending(self) -> None:
        """Close the sending direction."""
        self._connection.shutdown(socket.SHUT_WR)


async def silent(client: Client) -> None:
    """Connect, and send nothing."""
    await client.read_until_closed()


async def half_open(client: Client) -> None:
    """Close the sending direction, and stay connected."""
    client.end_sending()
    await client.read_until_closed()
    await asyncio.sleep(_FOREVER)


async def slow_head(client: Client) -> None:
    """Send a head byte by byte, without an end."""
    await client.send(_POST)
    await client.trickle(b"X-Slow: " + b"a" * 10_000)


async def slow_body(client: Client) -> None:
    """Send a complete head without the secret, then a body byte by byte, whatever the response."""
    await client.send(_POST + b"Content-Length: 100000\r\n\r\n")
    await client.trickle(b"a" * 100_000)


async def slow_body_secret(client: Client) -> None:
    """Do the same with the secret, as a client on a very slow link."""
    head = f"X-CXone-Webhook-Secret: {SECRET}\r\nContent-Length: 100000\r\n\r\n".encode()
    await client.send(_POST + head)
    await client.trickle(b"a" * 100_000)


async def withheld_body(client: Client) -> None:
    """Announce a body to a resource that needs none, and do not send it."""
    await client.send(_GET % b"/healthz" + b"Content-Length: 1000\r\n\r\n")
    await asyncio.sleep(_FOREVER)


async def never_reading(client: Client) -> None:
    """Request a large response many times on one connection, and read none."""
    await client.send((_GET % b"/openapi.json" + b"\r\n") * 500)
    await client.send((_GET % b"/metrics" + b"\r\n") * 500)
    await asyncio.sleep(_FOREVER)


async def large_head(client: Client) -> None:
    """Send a head of 780 kB."""
    await client.send(_POST + b"X-A: " + (b"a" * 90 + b"\r\nX-A: ") * 8_000)
    await client.read_until_closed()


async def many_lines(client: Client) -> None:
    """Send a head with as many lines as the size limit allows."""
    await client.send(_POST + b"".join(b"X-%d: a\r\n" % number for number in range(1_600)) + b"\r\n")
    await client.read_until_closed()


async def pipelined(client: Client) -> None:
    """Send a hundred requests without the secret at once."""
    await client.send((_POST + b"Content-Length: 2\r\n\r\n{}") * 100)
    await client.read_until_closed()


async def guesses(client: Client) -> None:
    """Send a wrong secret on each connection."""
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


class ConnectRate:
    """Limits how many connections are opened a second."""

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next connection may be opened."""
        now = time.monotonic()
        self._next = max(now, self._next) + 1 / REOPENED_PER_SECOND
        await asyncio.sleep(self._next - now)


async def _connection(kind: Callable[[Client], Awaitable[None]], port: int, rate: ConnectRate) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await rate.wait()
        with socket.socket() as connection, suppress(OSError):
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await kind(Client(connection))


async def _attack(kind: str, port: int, connections: int, seconds: float) -> None:
    rate = ConnectRate()
    tasks = [asyncio.ensure_future(_connection(KINDS[kind], port, rate)) for _ in range(connections)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Attack for the given time."""
    kind, port, connections, seconds = sys.argv[1:]
    asyncio.run(_attack(kind, int(port), int(connections), float(seconds)))


if __name__ == "__main__":
    main()
