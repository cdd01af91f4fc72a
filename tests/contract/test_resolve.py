"""What a job refers to: found, named when it is missing, and secrets read anew each time."""

import logging
from pathlib import Path

import pytest

from extraction_contract.load import load_files
from extraction_contract.problems import ManifestError
from extraction_contract.resolve import LocalSecrets, ResolvedJob, SecretError, SecretNotFound, resolve

MANIFESTS = """
apiVersion: extraction-operator.io/v1alpha1
kind: DataSource
metadata: {name: shop, namespace: eu}
spec:
  type: PostgreSQL
  connection: {host: shop-db, database: shop, caSecretRef: {name: shop-ca}}
  credentialsSecretRef: {name: shop-reader}
---
apiVersion: extraction-operator.io/v1alpha1
kind: ExtractionJob
metadata: {name: orders, namespace: eu}
spec:
  dataSourceRef: {name: shop}
  table: public.orders
  sink:
    s3: {bucket: lake, credentialsSecretRef: {name: lake-writer}, caSecretRef: {name: lake-ca, key: root.pem}}
"""
SECRETS = """
apiVersion: v1
kind: Secret
metadata: {name: shop-reader, namespace: eu}
data: {username: cmVhZGVy, password: aHVudGVyMg==}
---
apiVersion: v1
kind: Secret
metadata: {name: lake-writer, namespace: eu}
stringData: {accessKeyId: key, secretAccessKey: hunter2}
"""
FILES = {
    "shop-reader/username": "reader\n",
    "shop-reader/password": "hunter2\n",
    "shop-ca/ca.crt": "PEM\n",
    "lake-writer/accessKeyId": "key",
    "lake-writer/secretAccessKey": "hunter2",
    "lake-ca/root.pem": "PEM",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Secrets as they are mounted."""
    for name, text in FILES.items():
        path = tmp_path / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "secrets"


def resolved(tmp_path: Path, text: str, secrets_dir: Path | None = None) -> ResolvedJob:
    """Load and resolve the only job of a text."""
    path = tmp_path / "job.yaml"
    path.write_text(text)
    manifests = load_files([path])
    return resolve(manifests.job(), manifests, secrets_dir)


def test_secrets_come_from_a_folder(tmp_path: Path, folder: Path) -> None:
    job = resolved(tmp_path, MANIFESTS, folder)
    assert job.source.metadata.name == "shop"
    assert job.credentials().username == "reader"
    assert job.credentials().password.get_secret_value() == "hunter2"
    assert job.source_ca() == b"PEM"
    assert job.sink_ca() == b"PEM"
    key = job.s3_credentials()
    assert key is not None
    assert (key.access_key_id, key.secret_access_key.get_secret_value(), key.session_token) == ("key", "hunter2", None)


def test_a_session_token_is_optional(tmp_path: Path, folder: Path) -> None:
    (folder / "lake-writer" / "sessionToken").write_text("token")
    key = resolved(tmp_path, MANIFESTS, folder).s3_credentials()
    assert key is not None
    assert key.session_token is not None
    assert key.session_token.get_secret_value() == "token"


def test_secrets_in_manifests_go_before_the_folder(tmp_path: Path, folder: Path) -> None:
    (folder / "shop-reader" / "username").write_text("somebody else")
    job = resolved(tmp_path, MANIFESTS + "---" + SECRETS, folder)
    assert job.credentials().username == "reader"
    assert job.source_ca() == b"PEM"


def test_rotated_files_are_read_anew(tmp_path: Path, folder: Path) -> None:
    job = resolved(tmp_path, MANIFESTS, folder)
    (folder / "shop-reader" / "password").write_text("rotated\r\n")
    assert job.credentials().password.get_secret_value() == "rotated"
    (folder / "shop-reader" / "password").unlink()
    with pytest.raises(ManifestError, match=r"job.yaml, document 1, spec.credentialsSecretRef: .* no file .*password"):
        job.credentials()


def test_only_one_newline_is_stripped(tmp_path: Path, folder: Path) -> None:
    (folder / "shop-reader" / "password").write_text(" two\n\n")
    assert resolved(tmp_path, MANIFESTS, folder).credentials().password.get_secret_value() == " two\n"


def test_without_references_the_environment_decides(tmp_path: Path) -> None:
    text = MANIFESTS.replace(", caSecretRef: {name: shop-ca}", "").replace(
        "s3: {bucket: lake, credentialsSecretRef: {name: lake-writer}, caSecretRef: {name: lake-ca, key: root.pem}}",
        "volume: {claimName: lake}",
    )
    job = resolved(tmp_path, text + "---" + SECRETS)
    assert job.source_ca() is None
    assert job.s3_credentials() is None
    assert job.sink_ca() is None


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        resolved(tmp_path, MANIFESTS.replace("name: shop, namespace: eu", "name: shop, namespace: us"))
    assert str(caught.value).endswith(
        "job.yaml, document 2, spec.dataSourceRef.name: no DataSource eu/shop was given: add its manifest"
    )


def test_every_missing_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        resolved(tmp_path, MANIFESTS)
    assert [(p.origin.document, p.path) for p in caught.value.problems] == [
        (1, "spec.credentialsSecretRef"),
        (1, "spec.connection.caSecretRef"),
        (2, "spec.sink.s3.credentialsSecretRef"),
        (2, "spec.sink.s3.caSecretRef"),
    ]
    assert (
        "no Secret eu/shop-reader was given: add its manifest, or --secrets-dir DIR with DIR/shop-reader/username"
        in (str(caught.value))
    )


def test_a_missing_key_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ManifestError, match="Secret eu/shop-reader has no key password"):
        resolved(tmp_path, MANIFESTS + "---" + SECRETS.replace(", password: aHVudGVyMg==", ""), folder)


def test_a_value_that_is_no_base64_is_not_shown(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ManifestError, match="Secret eu/shop-reader, key password: the value isn't base64") as caught:
        resolved(tmp_path, MANIFESTS + "---" + SECRETS.replace("aHVudGVyMg==", "hunter2"), folder)
    assert "hunter2" not in str(caught.value)


def test_an_unreadable_token_is_not_taken_for_none(tmp_path: Path, folder: Path) -> None:
    (folder / "lake-writer" / "sessionToken").mkdir()
    with pytest.raises(ManifestError, match="sessionToken: Is a directory"):
        resolved(tmp_path, MANIFESTS, folder)


@pytest.mark.parametrize(
    ("name", "key"), [("..", "x"), ("a", ".."), ("a", "../b"), ("a/b", "c"), ("a", ""), ("a", "/b")]
)
def test_no_name_leaves_the_folder(folder: Path, name: str, key: str) -> None:
    with pytest.raises(SecretError, match="can't be the name of a file"):
        LocalSecrets({}, folder).get("eu", name, key)


def test_mounted_secrets_are_links(folder: Path) -> None:
    # A kubelet swaps ..data to rotate all keys of a Secret at once.
    data = folder / "shop-reader" / "..2026"
    data.mkdir()
    (data / "token").write_text("linked")
    (folder / "shop-reader" / "..data").symlink_to("..2026")
    (folder / "shop-reader" / "token").symlink_to("..data/token")
    assert LocalSecrets({}, folder).get("eu", "shop-reader", "token").get_secret_value() == "linked"


def test_what_is_no_text_or_too_much_is_refused(folder: Path) -> None:
    (folder / "shop-reader" / "binary").write_bytes(b"\xff")
    (folder / "shop-reader" / "large").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(SecretError, match="isn't UTF-8 text"):
        LocalSecrets({}, folder).get("eu", "shop-reader", "binary")
    with pytest.raises(SecretError, match="is larger than"):
        LocalSecrets({}, folder).get("eu", "shop-reader", "large")
    with pytest.raises(SecretNotFound, match="no Secret eu/x was given"):
        LocalSecrets({}).get("eu", "x", "y")


def test_nothing_shows_a_secret(tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = resolved(tmp_path, MANIFESTS + "---" + SECRETS, folder)
    logging.getLogger("test").warning("%s %r %s %r", job, job, job.credentials(), job.s3_credentials())
    assert "orders" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("key", ["accessKeyId", "secretAccessKey", "sessionToken"])
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a b", "a\0", "a\tb", "\x7f", "ä", "a\nb"])
def test_a_key_of_the_store_that_would_be_another_header_is_refused_and_not_shown(folder: Path, key: str, value: str):
    (folder / "lake-writer" / key).write_text(value)
    manifests = folder.parent / "job.yaml"
    manifests.write_text(MANIFESTS)
    loaded = load_files([manifests])
    with pytest.raises(ManifestError) as refused:
        resolve(loaded.job(), loaded, folder)
    [problem] = refused.value.problems
    assert problem.path == "spec.sink.s3.credentialsSecretRef"
    assert key in problem.message
    assert value not in problem.message
