"""Planning of columns, without a database: what is refused, what the SELECT list says."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_worker.errors import InvalidQuery
from extraction_worker.model import Column, ColumnPlan, PgType
from extraction_worker.source.type_rules import decimal_type
from extraction_worker.source.types import (
    Conversion,
    plan_column,
    plan_columns,
    select_list,
    target_schema,
    target_type,
    transport_schema,
    transport_type,
)


def scalar(name: str, *, namespace: str = "pg_catalog", kind: str = "b", typmod: int = -1) -> PgType:
    return PgType.model_validate(
        {"oid": 1, "namespace": namespace, "name": name, "kind": kind, "typmod": typmod, "formatted": name}
    )


def array(element: PgType, typmod: int = -1) -> PgType:
    return scalar("_" + element.name, typmod=typmod).model_copy(update={"element": element})


def domain(base: PgType) -> PgType:
    return scalar("d", namespace="public", kind="d").model_copy(update={"base": base})


def column(pg_type: PgType, name: str = "c", *, nullable: bool = True) -> Column:
    return Column(name=name, type=pg_type, nullable=nullable)


def numeric_typmod(precision: int, scale: int) -> int:
    return (precision << 16 | scale & 0x7FF) + 4


@pytest.mark.parametrize("choice", ["Fail", "Null", "String"])
@pytest.mark.parametrize(
    "pg_type",
    [scalar("record", kind="p"), array(scalar("record", kind="p")), domain(scalar("void", kind="p"))],
    ids=["record", "record[]", "domain"],
)
def test_pseudo_types_are_refused_by_name(pg_type: PgType, choice: str) -> None:
    with pytest.raises(InvalidQuery, match=r"Column 'c' has the pseudo-type .* Cast it to a named type"):
        plan_column(column(pg_type), choice)  # type: ignore[arg-type]


def test_a_relation_without_columns_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="no column"):
        plan_columns([], "Fail")


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidQuery, match="2 columns have the name 'c'"):
        plan_columns([column(scalar("int4")), column(scalar("text")), column(scalar("text"), "d")], "Fail")


def test_casts_carry_no_typmod() -> None:
    # It would round, or cut, a value of a column that was changed since it was planned.
    for name in ("numeric", "varchar", "bpchar", "timestamp"):
        plan = plan_column(column(scalar(name, typmod=numeric_typmod(12, 2))), "Fail")
        assert "(" not in plan.expression


def test_a_type_of_a_user_is_not_the_one_of_the_catalog() -> None:
    plan = plan_column(column(scalar("int4", namespace="public")), "Fail")
    assert (plan.expression, plan.arrow) == ('"c"::pg_catalog.text', "string")


def test_guards_follow_all_columns_under_names_of_their_own() -> None:
    plans = plan_columns(
        [column(array(scalar("int4")), "guard 0"), column(scalar("date"), "d"), column(array(scalar("inet")), "g")],
        "Fail",
    )
    assert select_list(plans) == (
        'CASE WHEN pg_catalog.array_ndims("guard 0") > 1 OR pg_catalog.array_lower("guard 0", 1) <> 1 THEN NULL'
        ' ELSE "guard 0"::pg_catalog.int4[] END AS "guard 0",'
        ' "d"::pg_catalog.date AS "d",'
        ' CASE WHEN pg_catalog.array_ndims("g") > 1 OR pg_catalog.array_lower("g", 1) <> 1 THEN NULL'
        ' ELSE "g"::pg_catalog.text[] END AS "g",'
        ' "guard 0" IS NULL AS "guard 0?", "g" IS NULL AS "guard 2"'
    )
    assert transport_schema(plans).names == ["guard 0", "d", "g", "guard 0?", "guard 2"]
    assert target_schema(plans).names == ["guard 0", "d", "g"]


def test_nulls_are_allowed_where_null_takes_the_place_of_a_value() -> None:
    columns = [
        column(scalar("date"), "d", nullable=False),
        column(array(scalar("int4")), "a", nullable=False),
        column(scalar("int4"), "i", nullable=False),
        column(scalar("int4"), "n"),
    ]
    for choice, nullable in {"Fail": ["n"], "Null": ["d", "a", "n"], "String": ["n"]}.items():
        schema = target_schema(plan_columns(columns, choice))  # type: ignore[arg-type]
        assert [field.name for field in schema if field.nullable] == nullable


def test_the_source_type_is_in_the_schema() -> None:
    schema = target_schema(plan_columns([column(scalar("inet"))], "Fail"))
    assert schema.field("c").metadata == {b"extraction.source_type": b"inet"}


def test_numbers_in_an_array_have_the_precision_of_the_array() -> None:
    plan = plan_column(column(array(scalar("numeric"), typmod=numeric_typmod(12, 2))), "Fail")
    assert target_type(plan) == pa.list_(pa.decimal128(12, 2))
    assert transport_type(plan) == pa.list_(pa.string())
    assert plan.arrow == "list<item: decimal128(12, 2)>"


@given(precision=st.integers(1, 1000), scale=st.integers(-1000, 1000))
def test_a_decimal_has_room_for_every_number_of_its_type(precision: int, scale: int) -> None:
    found = decimal_type(numeric_typmod(precision, scale))
    # The extremes: the highest digit stands at 10^(precision-scale-1), the lowest at 10^-scale.
    digits, fraction = max(precision, precision - scale, scale), max(scale, 0)
    if digits > 76:
        assert found is None
    else:
        assert (found.precision, found.scale) == (digits, fraction)
        assert found.bit_width == (128 if digits <= 38 else 256)


def test_a_plan_names_a_conversion() -> None:
    plan = plan_column(column(scalar("json")), "Fail")
    assert Conversion(ColumnPlan.from_json(plan.to_json()).conversion) is Conversion.JSON
