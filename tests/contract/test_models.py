"""What the models add to their fields: names, paths, secrets."""

import base64
import operator
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from extraction_contract.models import (
    Connection,
    DataSource,
    DataSourceRef,
    DataSourceSpec,
    ExtractionJob,
    ExtractionJobSpec,
    Metadata,
    S3Sink,
    Secret,
    SecretRef,
    Sink,
    VolumeSink,
)
from extraction_contract.secret import SecretMetadata

S3 = Sink(s3=S3Sink(bucket="lake"))


def job(*, sink: Sink = S3, namespace: str | None = None, table: str | None = "public.orders", **spec) -> ExtractionJob:
    """Return a job with this sink."""
    return ExtractionJob(
        metadata=Metadata(name="orders", namespace=namespace),
        spec=ExtractionJobSpec(data_source_ref=DataSourceRef(name="shop"), table=table, sink=sink, **spec),
    )


@pytest.mark.parametrize(
    ("sink", "path"),
    [
        (S3, "shop/orders"),
        (Sink(s3=S3Sink(bucket="lake", prefix="a/b/")), "a/b"),
        (Sink(volume=VolumeSink(claim_name="lake")), "shop/orders"),
        (Sink(volume=VolumeSink(claim_name="lake", path="a")), "a"),
    ],
)
def test_files_lie_at_the_declared_path_or_below_namespace_and_job(sink: Sink, path: str) -> None:
    assert job(sink=sink, namespace="shop").sink_path == path


def test_the_default_namespace_is_kubectls() -> None:
    assert job().sink_path == "default/orders"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("public.orders", ("public", "orders")),
        ("Public.ORDERS", ("public", "orders")),
        ('"Public"."Or.ders"', ("Public", "Or.ders")),
        ('shop."a""b"', ("shop", 'a"b')),
        ('shop."."', ("shop", ".")),
        ("s_1.t$2", ("s_1", "t$2")),
    ],
)
def test_a_table_is_named_as_in_sql(text: str, name: tuple[str, str]) -> None:
    assert job(table=text).table_name == name


@given(*[st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)] * 2)
def test_any_quoted_table_is_found_again(schema: str, table: str) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    assert job(table=f"{quoted(schema)}.{quoted(table)}").table_name == (schema, table)


def test_a_query_has_no_table() -> None:
    assert job(table=None, query="SELECT 1").table_name is None


def source(budget_group: str | None = None) -> DataSource:
    """Return a source of this budget group."""
    return DataSource(
        metadata=Metadata(name="shop"),
        spec=DataSourceSpec(
            type="PostgreSQL",
            connection=Connection(host="shop-db", database="shop"),
            credentials_secret_ref=SecretRef(name="reader"),
            budget_group=budget_group,
        ),
    )


def test_sources_on_one_server_share_a_budget() -> None:
    assert source().budget_group == "shop-db:5432"
    assert source("big-server").budget_group == "big-server"


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        source().spec.limits.max_connections = 100  # type: ignore[misc]


def test_errors_never_show_what_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Connection(host="postgresql://reader:hunter2@shop-db", database="shop")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        Connection(host="shop-db", database=["hunter2"])  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def secret(**fields) -> Secret:
    """Return a Secret."""
    return Secret(metadata=SecretMetadata(name="reader"), **fields)


def test_string_data_goes_before_data() -> None:
    encoded = SecretStr(base64.b64encode(b"old").decode())
    value = secret(data={"password": encoded, "username": encoded}, string_data={"password": SecretStr("new")})
    assert value.value("password") == SecretStr("new")
    assert value.value("username") == SecretStr("old")
    assert value.value("other") is None


def test_base64_may_be_folded() -> None:
    assert secret(data={"ca.crt": SecretStr("aGVsbG8g\nd29ybGQ=\n")}).value("ca.crt") == SecretStr("hello world")


@pytest.mark.parametrize("encoded", ["hunter2!", "aGVsbG8", "/w=="])
def test_a_value_that_is_no_base64_of_text_is_never_shown(encoded: str) -> None:
    with pytest.raises(ValueError, match="isn't base64 of UTF-8 text") as caught:
        secret(data={"password": SecretStr(encoded)}).value("password")
    assert encoded not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_secret_never_shows_its_values() -> None:
    value = secret(string_data={"password": SecretStr("hunter2")})
    for shown in (repr(value), str(value), value.model_dump_json(), str(value.model_dump())):
        assert "hunter2" not in shown


def test_models_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(source())) == source()
    assert pickle.loads(pickle.dumps(job().spec.partitioning.target_bytes)).text == "64Mi"
    assert pickle.loads(pickle.dumps(job().spec.snapshot.max_age)).text == "6h"


def test_the_contract_is_light() -> None:
    program = "import sys, extraction_contract.load, extraction_contract.resolve; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "numpy", "psycopg", "botocore", "kopf", "kubernetes", "extraction_worker"} & set(loaded)
    assert operator.add  # the standard library's, not a folder of ours
