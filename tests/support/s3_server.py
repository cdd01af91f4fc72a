"""An S3 server: ``python s3_server.py HOST PORT``, which says "ready" once it can be asked.

It is moto's, without what moto's own command does for each request: finding out which of AWS's services is meant, under
a lock, and logging.
"""

import logging
import os
import sys

from moto.server import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


def main(host: str, port: str) -> None:
    """Serve until a signal ends the process."""
    os.environ["MOTO_PORT"] = port
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server(host, int(port), create_backend_app("s3"), threaded=True, request_handler=MotoRequestHandler)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
