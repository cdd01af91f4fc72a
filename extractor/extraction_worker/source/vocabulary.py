"""Reviewed lists of names: what user SQL may hold and call. Tests compare them with the servers' catalogs."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The grammar's nodes ---------------------------------------------------------------------------------------------

ALLOWED_NODES = _words("""
    ParseResult RawStmt Node SelectStmt ResTarget WithClause CommonTableExpr CTESearchClause CTECycleClause
    RangeVar RangeSubselect RangeFunction RangeTableSample RangeTableFunc RangeTableFuncCol JoinExpr Alias ColumnDef
    SortBy WindowDef GroupingSet GroupingFunc SubLink List
    ColumnRef A_Star A_Const Integer Float Boolean String BitString A_ArrayExpr A_Indices A_Indirection RowExpr
    A_Expr BoolExpr NullTest BooleanTest CaseExpr CaseWhen CoalesceExpr MinMaxExpr CollateClause
    FuncCall NamedArgExpr SQLValueFunction TypeCast TypeName XmlExpr XmlSerialize
    JsonFormat JsonReturning JsonOutput JsonValueExpr JsonBehavior JsonArgument JsonKeyValue JsonIsPredicate
    JsonFuncExpr JsonTablePathSpec JsonTable JsonTableColumn JsonParseExpr JsonScalarExpr JsonSerializeExpr
    JsonObjectConstructor JsonArrayConstructor JsonArrayQueryConstructor
    JsonAggConstructor JsonObjectAgg JsonArrayAgg
""")
REFUSED_NODES = {
    "IntoClause": "INTO would create a table",
    "LockingClause": "FOR UPDATE and FOR SHARE would lock rows",
    "ParamRef": "there is nothing to bind parameters ($1) to",
    "InsertStmt": "INSERT would write",
    "UpdateStmt": "UPDATE would write",
    "DeleteStmt": "DELETE would write",
    "MergeStmt": "MERGE would write",
}

# SQLValueFunction: the words that are neither these nor the clock are refused.
SESSION_VALUES = frozenset(
    {"SVFOP_CURRENT_ROLE", "SVFOP_CURRENT_USER", "SVFOP_USER", "SVFOP_SESSION_USER", "SVFOP_CURRENT_CATALOG"}
)
CLOCK_WORDS = {
    "SVFOP_CURRENT_DATE": "current_date",
    "SVFOP_CURRENT_TIMESTAMP": "current_timestamp",
    "SVFOP_CURRENT_TIMESTAMP_N": "current_timestamp",
    "SVFOP_LOCALTIMESTAMP": "localtimestamp",
    "SVFOP_LOCALTIMESTAMP_N": "localtimestamp",
}
CLOCK_FUNCTIONS = frozenset({"now", "transaction_timestamp"})


# Functions of pg_catalog -----------------------------------------------------------------------------------------

AGGREGATES = _words("""
    any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist
    dense_rank every json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
    json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict
    jsonb_object_agg_unique jsonb_object_agg_unique_strict max min mode percent_rank percentile_cont percentile_disc
    range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg
""")
"""Aggregate functions of pg_catalog; a test compares them with the servers'."""

SETS = _words("""
    generate_series generate_subscripts json_array_elements json_array_elements_text json_each json_each_text
    json_object_keys json_populate_recordset json_to_recordset jsonb_array_elements jsonb_array_elements_text
    jsonb_each jsonb_each_text jsonb_object_keys jsonb_path_query jsonb_path_query_tz jsonb_populate_recordset
    jsonb_to_recordset pg_snapshot_xip regexp_matches regexp_split_to_table string_to_table ts_parse ts_token_type
    txid_snapshot_xip unnest
""")
"""Set-returning functions of pg_catalog that may be called; a test compares them with the servers'."""

REVIEWED = _words("""
    anytextcat textanycat concat concat_ws format quote_literal quote_nullable array_to_string
    to_char to_number to_date to_timestamp convert convert_from convert_to length
    date time timetz timestamp timestamptz timezone date_part date_trunc date_add date_subtract extract overlaps
    make_timestamptz generate_series money numeric
    enum_first enum_last enum_range
    to_json to_jsonb row_to_json array_to_json json_build_array json_build_object jsonb_build_array jsonb_build_object
    json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
    json_object_agg_unique_strict jsonb_agg jsonb_agg_strict
    json_populate_record json_populate_recordset json_to_record json_to_recordset
    jsonb_populate_record jsonb_populate_recordset jsonb_to_record jsonb_to_recordset
    jsonb_path_exists_tz jsonb_path_match_tz jsonb_path_query_tz jsonb_path_query_array_tz jsonb_path_query_first_tz
    json_to_tsvector jsonb_to_tsvector to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery
    ts_headline xml xml_is_well_formed pg_typeof pg_column_size pg_collation_for
    current_database current_user session_user version
""")
"""STABLE functions of pg_catalog without side effects that read no table.

They depend on settings that the session contract fixes (TimeZone, DateStyle), on the role and its database, or on
the catalog's entry of their arguments' types. Left out on purpose, among others: what runs SQL given as text
(``query_to_xml``, ``table_to_xml``, ``ts_stat``, the two-argument ``ts_rewrite``), reads the clock
(``age`` of one argument, ``statement_timestamp``), assigns a transaction id (``txid_current``), shows the server or
its settings (``current_setting``, ``pg_stat_*``, ``inet_server_addr``), or runs any type's input function by name
(``pg_input_is_valid``).
"""

# Volatile before PostgreSQL 14 for time with time zone alone; AT TIME ZONE is this function.
ONCE_VOLATILE = frozenset({"timezone"})

# Grammar words whose function has another name on older servers: date_part before 14, similar_escape before 13.
RENAMED = frozenset({"extract", "similar_to_escape"})
