"""Clients that ask a service again and again."""

import threading
import time
from collections import Counter

from tests.support.http import Connection
from tests.support.service import Service, eventually


class Load:
    """Clients that ask again and again, and count what they get; none of them retries."""

    def __init__(self, service: Service, *, clients: int = 5, keep_alive: bool = True, path: str = "/pid") -> None:
        self.outcomes: Counter[str] = Counter()
        self._service, self._keep_alive, self._path = service, keep_alive, path
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _client(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            try:
                connection = connection or Connection(self._service.port)
                status, headers, _ = connection.get(self._path)
                self.outcomes[str(status)] += 1
                last = not self._keep_alive or headers.get("connection") == "close"
            except (OSError, ValueError) as error:
                self.outcomes[type(error).__name__] += 1
                last = True
            if last and connection is not None:
                connection.close()
                connection = None
            time.sleep(0.02)
        if connection is not None:
            connection.close()

    def wait_for(self, answers: int) -> None:
        """Wait for so many more of them."""
        seen = self.outcomes.total()
        eventually(lambda: self.outcomes.total() >= seen + answers, pause=0.01)

    def stop(self) -> Counter[str]:
        """End the clients, and return what they got: statuses, and names of errors."""
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
        return self.outcomes
