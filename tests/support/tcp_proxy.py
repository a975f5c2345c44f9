"""A line between two sockets that can be cut: bytes are passed on until `cut` drops them all."""

import contextlib
import socket
import threading


class TcpProxy:
    """Passes connections on to a port of this machine."""

    def __init__(self, port):
        self._port, self._open, self._lock = port, [], threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.num_cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Reset every connection; what was on its way is lost."""
        with self._lock:
            ends, self._open = self._open, []
        self.num_cuts += bool(ends)
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self):
        self._listening.close()
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                with self._lock:
                    self._open += [here, there]
                for a, b in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    def _pass_on(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65_536):
                b.sendall(data)
