"""A TCP proxy in front of PostgreSQL, through which its absence can be played in many ways."""

import contextlib
import select
import socket
import threading
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Passes bytes between its clients and the server of `url`, unless told otherwise.

    Attributes
    ----------
    url
        The same database, through the proxy.
    accepted
        How many connections were made to it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent = threading.Event()
        self._stranded: set[socket.socket] = set()
        self.accepted = 0
        self._listen(0)
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self._port}"))

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            server = socket.create_connection(self._target)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError), client, server:
            while True:
                for readable in select.select([client, server], [], [], 0.2)[0]:
                    while self._silent.is_set() or client in self._stranded:
                        if client.fileno() < 0:
                            return
                        threading.Event().wait(0.05)
                    data = readable.recv(65536)
                    if not data:
                        return
                    other[readable].sendall(data)

    def cut(self) -> None:
        """End every connection, as a server that crashes."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def down(self) -> None:
        """Refuse connections, and end those that are there."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def up(self) -> None:
        """Serve again."""
        self._listen(self._port)

    def silence(self) -> None:
        """Swallow every byte from now on, as a network that loses all packets."""
        self._silent.set()

    def strand(self) -> None:
        """Swallow every byte of the connections that are there; new ones work, as after a failover."""
        with self._lock:
            self._stranded.update(client for client, _ in self._pairs)

    def speak(self) -> None:
        """Deliver again."""
        self._silent.clear()

    def close(self) -> None:
        """End it."""
        self.speak()
        self._stranded.clear()
        self.down()
