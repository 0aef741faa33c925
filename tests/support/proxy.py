"""A way to a server that loses answers, as a network does, or a server that goes down."""

from __future__ import annotations

import select
import socket
import threading


class Proxy:
    """Listens on loopback and passes on to a Unix socket. Of every `nth` commit, the server hears and nobody else."""

    def __init__(self, target: str, nth: int = 0) -> None:
        self._target, self.nth = target, nth
        self.commits = self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            while True:
                for side in select.select([client, server], [], [])[0]:
                    if not (data := side.recv(65536)):
                        return
                    (server if side is client else client).sendall(data)
                    if side is client and b"COMMIT" in data and self._loses():
                        server.recv(65536)  # it has committed
                        return

    def _loses(self) -> bool:
        self.commits += 1
        if self.nth and self.commits % self.nth == 0:
            self.lost += 1
            return True
        return False
