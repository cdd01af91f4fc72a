"""An S3 server: :func:`start_s3_server` runs this file in a process of its own, ``python s3_server.py HOST``.

It is moto's, without what moto's own command does for each request: finding out which of AWS's services is meant, under
a lock, and logging.
"""

import os
import subprocess
import sys
import threading


def start_s3_server(host: str = "127.0.0.1", **environment: str) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a server on an address of this machine, with more in its environment; return its process and its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, host], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if line.startswith(b"ready "):
            # Of what goes wrong it prints a trace; an unread pipe would block it.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, int(line.split()[1])
        said.append(line.decode(errors="replace"))
    process.wait()
    raise RuntimeError(f"the S3 server did not start:\n{''.join(said)}")


def main(host: str) -> None:
    """Serve until a signal ends the process; say ``ready PORT`` once it can be asked."""
    import logging

    from moto.server import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server(host, 0, create_backend_app("s3"), threaded=True, request_handler=MotoRequestHandler)
    os.environ["MOTO_PORT"] = str(server.server_port)
    sys.stdout.write(f"ready {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
