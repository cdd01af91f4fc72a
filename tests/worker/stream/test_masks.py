"""Masks over batches: what is written in place of values, for any value and any slice."""

import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_worker.errors import InvalidManifest
from extraction_worker.model import Column, MaskPlan, PgType
from extraction_worker.source.types import plan_columns, target_schema
from extraction_worker.stream.mask_keys import key_id
from extraction_worker.stream.masks import Masks

KEY = b"a key of thirty-two bytes or more"


def pg(name: str, **fields: object) -> PgType:
    return PgType.model_validate(
        {"oid": 1, "namespace": "pg_catalog", "name": name, "kind": "b", "formatted": name} | fields
    )


def mask(method: str, **fields: object) -> MaskPlan:
    return MaskPlan.model_validate({"method": method} | fields)


def masked(kind: str, plan: MaskPlan, values: list[object], *, policy: str = "Fail", key: bytes = KEY) -> pa.Array:
    """Return what becomes of values, read in a slice with something before and behind them."""
    column = Column(name="c", type=pg(kind), nullable=True)
    columns = plan_columns((column,), policy, {"c": plan})  # type: ignore[arg-type]
    schema = target_schema(columns)
    padded = pa.array([*values[:1], *values, *values[-1:]], schema.field("c").type)
    batch = pa.RecordBatch.from_arrays([padded.slice(1, len(values)) if values else padded], schema=schema)
    found = Masks(columns, {"c": key}).apply(batch)
    assert found.schema == schema
    found.validate(full=True)
    return found.column(0)


HASH = mask("Hash", key_id=key_id(KEY))


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_hash_is_the_hmac_of_the_text(values):
    expected = [None if value is None else hmac.new(KEY, value.encode(), "sha256").hexdigest() for value in values]
    assert masked("text", HASH, values).to_pylist() == expected


@pytest.mark.parametrize("length", [32, 63, 64, 65, 200])
def test_keys_of_any_length_hash_as_in_the_standard(length):
    key = b"k" * length
    plan = mask("Hash", key_id=key_id(key))
    assert masked("text", plan, ["v"], key=key).to_pylist() == [hmac.new(key, b"v", "sha256").hexdigest()]


def test_a_batch_with_nothing_but_nulls_stays_so():
    assert masked("text", HASH, [None, None]).to_pylist() == [None, None]
    assert masked("text", HASH, []).to_pylist() == []


def test_a_repeated_value_is_hashed_once(monkeypatch):
    hashed: list[bytes] = []

    class Counting:
        def __init__(self, real) -> None:
            self.real = real

        def copy(self):
            return Counting(self.real.copy())

        def update(self, value: bytes) -> None:
            hashed.append(value)
            self.real.update(value)

        def digest(self) -> bytes:
            return self.real.digest()

    original = hashlib.sha256
    monkeypatch.setattr("extraction_worker.stream.masks.hashlib.sha256", lambda data: Counting(original(data)))
    masked("text", HASH, ["a", "b", None, "a"] * 1000)
    assert [value for value in hashed if len(value) == 1] == [b"a", b"b"]


@pytest.mark.parametrize("keys", [{}, {"c": b"another key of thirty-two bytes!!"}, {"d": KEY}])
def test_another_key_than_the_plans_is_refused_and_not_shown(keys):
    columns = plan_columns((Column(name="c", type=pg("text"), nullable=True),), "Fail", {"c": HASH})
    with pytest.raises(InvalidManifest, match="isn't the one that the job was planned with") as refused:
        Masks(columns, keys)
    assert "thirty" not in str(refused.value)


def test_nothing_shows_a_key():
    columns = plan_columns((Column(name="c", type=pg("text"), nullable=True),), "Fail", {"c": HASH})
    masks = Masks(columns, {"c": KEY})
    assert "thirty" not in repr(masks) + repr(vars(masks)) + repr(columns)
    assert key_id(KEY) != hmac.new(KEY, b"", "sha256").hexdigest()[:16]
    assert len({key_id(KEY), key_id(KEY + b"."), KEY.hex()[:16]}) == 3


@given(
    st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
    st.integers(0, 10), st.integers(0, 10), st.sampled_from(["***", "", "·"]),
)  # fmt: skip
def test_a_part_is_shown_of_long_values_only(values, first, last, replacement):
    def expected(value: str | None) -> str | None:
        if value is None:
            return None
        if len(value) < 2 * (first + last):
            return replacement
        return value[:first] + replacement + value[len(value) - last :]

    plan = mask("Partial", keep_first=first, keep_last=last, replacement=replacement)
    assert masked("text", plan, values).to_pylist() == [expected(value) for value in values]


def floor(moment: datetime, to: str) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match to:
        case "Hour":
            return moment.replace(minute=0, second=0, microsecond=0)
        case "Week":
            return day - timedelta(days=day.weekday())
        case "Month":
            return day.replace(day=1)
        case "Quarter":
            return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
        case "Year":
            return day.replace(month=1, day=1)
    return day


MOMENTS = st.datetimes(datetime.fromisoformat("0001-01-08"), datetime.fromisoformat("9999-12-31"))
TO = st.sampled_from(["Year", "Quarter", "Month", "Week", "Day"])


@given(st.lists(st.none() | MOMENTS), TO | st.just("Hour"), st.booleans())
def test_timestamps_are_rounded_down(values, to, zoned):
    values = [value if value is None or not zoned else value.replace(tzinfo=UTC) for value in values]
    found = masked("timestamptz" if zoned else "timestamp", mask("Truncate", to=to), values).to_pylist()
    assert found == [None if value is None else floor(value, to) for value in values]


@given(st.lists(st.none() | MOMENTS), TO)
def test_dates_are_rounded_down(values, to):
    days = [None if value is None else value.date() for value in values]
    found = masked("date", mask("Truncate", to=to), days).to_pylist()
    expected = [None if value is None else floor(datetime.fromisoformat(value.isoformat()), to) for value in days]
    assert found == [None if value is None else value.date() for value in expected]


def test_the_ends_of_the_calendar_are_rounded_down_in_their_own_year():
    # PostgreSQL's first and last dates: 4714-11-24 BC, 5874897-12-31. Arrow's own rounding wraps beyond 32767.
    first, last = -2_440_588, 2_145_042_905
    column = plan_columns(
        (Column(name="c", type=pg("date"), nullable=True),), "Fail", {"c": mask("Truncate", to="Year")}
    )
    batch = pa.RecordBatch.from_arrays(
        [pa.array([first, last], pa.int32()).view(pa.date32())], schema=target_schema(column)
    )
    found = Masks(column, {}).apply(batch).column(0).view(pa.int32()).to_pylist()
    # From 1 January of a year that isn't a leap year: 327 days to 24 November, 364 to 31 December.
    assert found == [first - 327, last - 364]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", "", ""), ("int4", "-7", -7), ("bool", "true", True), ("float8", "1.5", 1.5),
        ("date", "2000-01-01", date(2000, 1, 1)),
        ("timestamp", "2000-01-01T12:00:00", datetime.fromisoformat("2000-01-01T12:00:00")),
        ("timestamptz", "2000-01-01T12:00:00+00:00", datetime(2000, 1, 1, 12, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_a_constant_takes_the_place_of_every_value_and_of_null(kind, text, value):
    found = masked(kind, mask("Constant", value=text), [None, None, None])
    assert found.to_pylist() == [value] * 3


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int4", "1.5"), ("int4", "3000000000"), ("int4", ""), ("bool", "yes"), ("date", "yesterday"), ("uuid", "0"),
        ("timestamp", "2000-01-01T12:00:00+00:00"), ("timestamptz", "2000-01-01T12:00:00"), ("float8", "much"),
        ("bytea", "00"),
    ],
)  # fmt: skip
def test_a_constant_of_another_type_is_refused(kind, text):
    with pytest.raises(InvalidManifest, match="isn't one of type"):
        masked(kind, mask("Constant", value=text), [None])


def test_a_constant_of_a_decimal_has_its_digits():
    typmod = ((12 << 16) | 2) + 4
    column = Column(name="c", type=pg("numeric", typmod=typmod, formatted="numeric(12,2)"), nullable=True)
    plan = plan_columns((column,), "Fail", {"c": mask("Constant", value="-1.5")})
    batch = pa.RecordBatch.from_arrays([pa.nulls(1, pa.decimal128(12, 2))], schema=target_schema(plan))
    assert str(Masks(plan, {}).apply(batch).column(0)[0].as_py()) == "-1.50"
    for text in ("1.555", "99999999999.00", "NaN", "1e400"):
        with pytest.raises(InvalidManifest, match="isn't one of type"):
            plan_columns((column,), "Fail", {"c": mask("Constant", value=text)})


@pytest.mark.parametrize("kind", ["text", "int4", "uuid", "bytea", "json", "date", "bool"])
def test_null_takes_the_place_of_every_value(kind):
    assert masked(kind, mask("Nullify"), [None, None]).null_count == 2


def test_what_is_not_read_is_not_selected():
    columns = (Column(name="c", type=pg("text"), nullable=False),)
    for plan in (mask("Nullify"), mask("Constant", value="x")):
        (found,) = plan_columns(columns, "Fail", {"c": plan})
        assert found.expression == 'CASE WHEN false THEN "c"::pg_catalog.text END'
        assert found.nullable


@pytest.mark.parametrize(
    ("kind", "plan", "policy", "says"),
    [
        ("text", mask("Truncate", to="Day"), "Fail", "Truncate is for dates and timestamps"),
        ("date", mask("Truncate", to="Day"), "String", "Under onUnrepresentable String"),
        ("date", mask("Truncate", to="Hour"), "Fail", "has no hours"),
    ],
)
def test_what_cannot_be_rounded_is_refused(kind, plan, policy, says):
    with pytest.raises(InvalidManifest, match=says):
        masked(kind, plan, [None], policy=policy)


def test_a_mask_of_no_column_is_refused():
    with pytest.raises(InvalidManifest, match="no column 'D' is extracted"):
        plan_columns((Column(name="d", type=pg("text"), nullable=True),), "Fail", {"D": mask("Nullify")})


def test_columns_without_a_mask_are_the_same_buffers():
    columns = plan_columns(
        (Column(name="a", type=pg("text"), nullable=True), Column(name="c", type=pg("text"), nullable=True)),
        "Fail", {"c": HASH},
    )  # fmt: skip
    batch = pa.RecordBatch.from_arrays([pa.array(["x"]), pa.array(["y"])], schema=target_schema(columns))
    found = Masks(columns, {"c": KEY}).apply(batch)
    assert found.column(0).buffers()[2].address == batch.column(0).buffers()[2].address
    plain = plan_columns((Column(name="a", type=pg("text"), nullable=True),), "Fail")
    batch = pa.RecordBatch.from_arrays([pa.array(["x"])], schema=target_schema(plain))
    assert Masks(plain, {}).apply(batch) is batch
