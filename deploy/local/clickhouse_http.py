#!/usr/bin/env python3
"""One ClickHouse shard for development: the embedded engine behind HTTP.

    clickhouse_http.py --port 21021 --data DIR [--host 127.0.0.1] [--spool DIR]

Serves ClickHouse's HTTP interface over one data folder: queries in the URL or
the body, parameters, settings, INSERT data in any format, compression both ways,
streamed results, and errors with ClickHouse's codes and statuses. Stops on
SIGTERM once the requests in flight are answered.
"""

import argparse
import logging
import os
import shutil
import signal
import socketserver
import sys
import threading

from clickhouse.engine import Engine
from clickhouse.handler import Connection

# Enough for the fifty inserts and the readers of a whole fleet at once; beyond
# it requests wait for a connection.
MAX_CONNECTIONS = 128
DRAIN_SECONDS = 20


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, address, data: str, spool: str):
        # Bind first: a second server on the port must fail before it touches
        # the data folder.
        super().__init__(address, Connection)
        self.engine = Engine(data, MAX_CONNECTIONS)
        self.spool = spool
        self.draining = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    def begin(self):
        with self._changed:
            self._busy += 1

    def end(self):
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def drain(self):
        """Waits for the requests in flight, up to a limit."""
        self.draining.set()
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, DRAIN_SECONDS)


def choose_spool(data: str) -> str:
    """A folder for INSERT bodies: in memory where there is room, else on disk."""
    memory = "/dev/shm"
    try:
        free = shutil.disk_usage(memory).free
    except OSError:
        free = 0
    # Containers often have 64 MB there, less than a few bodies.
    if free < 1 << 30:
        return os.path.join(data, "..", "spool-" + os.path.basename(data.rstrip("/")))
    mark = os.path.realpath(data).strip("/").replace("/", "-")
    return os.path.join(memory, "fleet-clickhouse-" + mark)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", required=True, help="data folder, used by this process alone")
    parser.add_argument("--spool", help="folder for INSERT bodies while they are read")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    os.makedirs(options.data, exist_ok=True)
    spool = options.spool or choose_spool(options.data)
    shutil.rmtree(spool, ignore_errors=True)
    os.makedirs(spool, mode=0o700)

    server = Server((options.host, options.port), options.data, spool)

    def stop(*_):
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    logging.info(
        "ClickHouse %s on http://%s:%s, data in %s, bodies in %s",
        server.engine.version, options.host, options.port, options.data, spool,
    )  # fmt: skip
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    server.drain()
    server.engine.close()
    shutil.rmtree(spool, ignore_errors=True)
    logging.info("stopped")
    # Threads of clients that keep an idle connection must not hold the exit up.
    os._exit(0)


if __name__ == "__main__":
    main()
