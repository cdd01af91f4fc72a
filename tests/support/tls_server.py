"""A PostgreSQL that has TLS, with a certificate of an authority of its own."""

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from extraction_worker.demo.postgres import PostgresServer, postgres_server


@contextmanager
def postgres_with_tls(binaries: Path) -> Iterator[tuple[PostgresServer, bytes]]:
    """Yield a server whose certificate is for ``localhost``, and its authority's PEM."""
    ca_key, ca = authority("test authority")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = sign(name, key, ca, ca_key, host="localhost")
    with postgres_server(binaries) as server:
        server.stop()
        files = {
            "server.crt": pem(certificate),
            "server.key": key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        }
        for file, content in files.items():
            path = server.data / file
            path.write_bytes(content)
            path.chmod(0o600)
            if identity := server._identity():
                shutil.chown(path, identity["user"])
        server.settings = {"ssl": "on"}
        server.start()
        yield server, pem(ca)


def authority(name: str):
    """Return the key and certificate of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key, sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, None, key, ca=True)


def sign(subject, key, issuer, issuer_key, *, ca=False, host=None):
    """Return a certificate."""
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)
