"""A job with all that it refers to: its source, and secrets that are read when they are needed."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from extraction_contract.load import Manifests, ObjectKey, object_key
from extraction_contract.mask import MASK_KEY_BYTES
from extraction_contract.models import DataSource, ExtractionJob, Secret
from extraction_contract.problems import ManifestError, Origin, Problem

_MAX_SECRET_BYTES = 1 << 20


class SecretError(LookupError):
    """A value of a Secret that can't be had; the message names Secret and key, and never shows a value."""


class SecretNotFound(SecretError):
    """The Secret or its key isn't there."""


class SecretStore(Protocol):
    """Where the values of Secrets come from."""

    def get(self, namespace: str, name: str, key: str) -> SecretStr:
        """Return a value as it is now; it may have been rotated since the last call.

        Raises
        ------
        SecretNotFound
            The Secret isn't there, or has no such key.
        SecretError
            It is there and can't be read.
        """
        ...


@dataclass(frozen=True)
class LocalSecrets:
    """Secrets of a local run: from manifests, otherwise from ``FOLDER/NAME/KEY`` as pods see mounted ones."""

    secrets: Mapping[ObjectKey, Secret] = field(repr=False)
    folder: Path | None = None

    def get(self, namespace: str, name: str, key: str) -> SecretStr:
        """Return a value; files are read anew each time, and lose one newline at the end."""
        where = f"Secret {namespace}/{name}"
        secret = self.secrets.get(ObjectKey(namespace, name))
        if secret is not None:
            try:
                value = secret.value(key)
            except ValueError as error:
                raise SecretError(f"{where}, key {key}: {error}") from None
            if value is None:
                raise SecretNotFound(f"{where} has no key {key}")
            return value
        if self.folder is None:
            raise SecretNotFound(f"no {where} was given: add its manifest, or --secrets-dir DIR with DIR/{name}/{key}")
        return self._read(name, key, where)

    def _read(self, name: str, key: str, where: str) -> SecretStr:
        # Names of objects and keys can't leave the folder: neither may hold a slash or begin with a dot.
        if not all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", part) for part in (name, key)):
            raise SecretError(f"{where}: its name or the key can't be the name of a file")
        path = Path(self.folder or ".", name, key)
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_SECRET_BYTES + 1)
            text = content.decode()
        except FileNotFoundError:
            raise SecretNotFound(f"{where}: there is no file {path}") from None
        except OSError as error:
            raise SecretError(f"{where}: {path}: {error.strerror}") from None
        except UnicodeError:
            raise SecretError(f"{where}: {path} isn't UTF-8 text") from None
        if len(content) > _MAX_SECRET_BYTES:
            raise SecretError(f"{where}: {path} is larger than {_MAX_SECRET_BYTES} bytes")
        return SecretStr(text.removesuffix("\n").removesuffix("\r"))


@dataclass(frozen=True)
class Credentials:
    """A role of the source and its password."""

    username: str
    password: SecretStr


@dataclass(frozen=True)
class S3Credentials:
    """A key of the store."""

    access_key_id: str
    secret_access_key: SecretStr
    session_token: SecretStr | None = None


@dataclass(frozen=True)
class ResolvedSource:
    """A source and its secrets. Each method reads the secrets as they are now; they raise ManifestError."""

    source: DataSource
    secrets: SecretStore = field(repr=False)
    origin: Origin = field(repr=False)

    def credentials(self) -> Credentials:
        """Return the role and its password."""
        name, blamed = self.source.spec.credentials_secret_ref.name, "spec.credentialsSecretRef"
        username = self._get(name, "username", blamed)
        return Credentials(username.get_secret_value(), self._get(name, "password", blamed))

    def ca(self) -> bytes | None:
        """Return the certificate authorities of the source in PEM; None is the system's."""
        reference = self.source.spec.connection.ca_secret_ref
        if reference is None:
            return None
        return self._get(reference.name, reference.key, "spec.connection.caSecretRef").get_secret_value().encode()

    def _get(self, name: str, key: str, path: str) -> SecretStr:
        return _get(self.secrets, object_key(self.source).namespace, name, key, self.origin, path)


@dataclass(frozen=True)
class ResolvedJob:
    """A job, its source and its secrets. Each method reads the secrets as they are now; they raise ManifestError."""

    job: ExtractionJob
    source: DataSource
    secrets: SecretStore = field(repr=False)
    job_origin: Origin = field(repr=False)
    source_origin: Origin = field(repr=False)

    def of_source(self) -> ResolvedSource:
        """Return the source alone."""
        return ResolvedSource(self.source, self.secrets, self.source_origin)

    def credentials(self) -> Credentials:
        """Return the role and its password."""
        return self.of_source().credentials()

    def source_ca(self) -> bytes | None:
        """Return the certificate authorities of the source in PEM; None is the system's."""
        return self.of_source().ca()

    def s3_credentials(self) -> S3Credentials | None:
        """Return the key of the store; None is what the environment gives, or that there is no store."""
        sink = self.job.spec.sink.s3
        if sink is None or sink.credentials_secret_ref is None:
            return None
        name, blamed = sink.credentials_secret_ref.name, (self.job_origin, "spec.sink.s3.credentialsSecretRef")
        found = S3Credentials(
            access_key_id=self._get(name, "accessKeyId", *blamed).get_secret_value(),
            secret_access_key=self._get(name, "secretAccessKey", *blamed),
            session_token=self._find(name, "sessionToken", *blamed),
        )
        token = found.session_token.get_secret_value() if found.session_token is not None else ""
        for key, text in (
            ("accessKeyId", found.access_key_id),
            ("secretAccessKey", found.secret_access_key.get_secret_value()),
            ("sessionToken", token),
        ):
            # They become headers of requests, and a line break in one would begin another.
            if re.fullmatch(r"[\x21-\x7e]*", text) is None:
                message = f"Secret {name}, key {key}: only printable ASCII characters without blanks can be sent"
                raise ManifestError([Problem(self.job_origin, "spec.sink.s3.credentialsSecretRef", message)])
        return found

    def sink_ca(self) -> bytes | None:
        """Return the certificate authorities of the store in PEM; None is the system's."""
        sink = self.job.spec.sink.s3
        if sink is None or sink.ca_secret_ref is None:
            return None
        reference = sink.ca_secret_ref
        value = self._get(reference.name, reference.key, self.job_origin, "spec.sink.s3.caSecretRef")
        return value.get_secret_value().encode()

    def mask_keys(self) -> Mapping[str, SecretStr]:
        """Return the keys of the masks that hash, by the column that each is for."""
        keys: dict[str, SecretStr] = {}
        for index, mask in enumerate(self.job.spec.masks):
            reference = mask.key_secret_ref
            if reference is None:
                continue
            path = f"spec.masks[{index}].keySecretRef"
            found = self._get(reference.name, reference.key, self.job_origin, path)
            if len(found.get_secret_value().encode()) < MASK_KEY_BYTES:
                message = (
                    f"Secret {reference.name}, key {reference.key}: a mask's key has {MASK_KEY_BYTES} bytes or more"
                )
                raise ManifestError([Problem(self.job_origin, path, message)])
            keys[mask.column] = found
        return keys

    def _get(self, name: str, key: str, origin: Origin, path: str) -> SecretStr:
        return _get(self.secrets, object_key(self.job).namespace, name, key, origin, path)

    def _find(self, name: str, key: str, origin: Origin, path: str) -> SecretStr | None:
        """Return a value, or None when it isn't there."""
        try:
            return self._get(name, key, origin, path)
        except ManifestError as error:
            if isinstance(error.__cause__, SecretNotFound):
                return None
            raise


def _get(secrets: SecretStore, namespace: str, name: str, key: str, origin: Origin, path: str) -> SecretStr:
    """Return a value; a Secret is in the namespace of what refers to it."""
    try:
        return secrets.get(namespace, name, key)
    except SecretError as error:
        raise ManifestError([Problem(origin, path, str(error))]) from error


def _check(checks: Iterable[Callable[[], object]]) -> None:
    """Read each secret once; raise one ManifestError with all problems."""
    problems: list[Problem] = []
    for check in checks:
        try:
            check()
        except ManifestError as error:
            problems.extend(error.problems)
    if problems:
        raise ManifestError(problems)


def resolve_source(source: DataSource, manifests: Manifests, secrets_dir: Path | None = None) -> ResolvedSource:
    """Find all that a source refers to.

    Parameters
    ----------
    source
        One of ``manifests.sources``.
    manifests, secrets_dir
        As for :func:`resolve`.

    Raises
    ------
    ManifestError
        A Secret or a key of one is missing; all of them are named.
    """
    origin = manifests.origins["DataSource", object_key(source)]
    resolved = ResolvedSource(source, LocalSecrets(manifests.secrets, secrets_dir), origin)
    _check([resolved.credentials, resolved.ca])
    return resolved


def resolve(job: ExtractionJob, manifests: Manifests, secrets_dir: Path | None = None) -> ResolvedJob:
    """Find all that a job refers to.

    Parameters
    ----------
    job
        One of ``manifests.jobs``.
    manifests
        Where its DataSource and perhaps its Secrets are.
    secrets_dir
        A folder laid out like mounted Secrets, ``NAME/KEY``; a Secret in the manifests goes before it.

    Raises
    ------
    ManifestError
        The DataSource, a Secret or a key of one is missing; all of them are named.
    """
    key = object_key(job)
    origin = manifests.origins["ExtractionJob", key]
    source_key = ObjectKey(key.namespace, job.spec.data_source_ref.name)
    source = manifests.sources.get(source_key)
    if source is None:
        message = f"no DataSource {source_key} was given: add its manifest"
        raise ManifestError([Problem(origin, "spec.dataSourceRef.name", message)])
    source_origin = manifests.origins["DataSource", source_key]
    resolved = ResolvedJob(job, source, LocalSecrets(manifests.secrets, secrets_dir), origin, source_origin)
    _check([resolved.credentials, resolved.source_ca, resolved.s3_credentials, resolved.sink_ca, resolved.mask_keys])
    return resolved
