"""DataSource: a database that jobs read, and how gently."""

import re
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from extraction_contract.base import API_VERSION, Contract, Matches, Rule, Unique
from extraction_contract.meta import CASecretRef, Conditions, Metadata, SecretRef
from extraction_contract.scalars import Bytes, Duration, Lasts, Quantity, TimeOfDay, TimeZone

_HOST = r"[A-Za-z0-9_.:-]+"
_DATABASE = r"[^=\x00-\x1f\x7f]+"
_FUNCTION = r'([^."()\x00-\x1f\x7f]+\.)?[^."()\x00-\x1f\x7f]+'


class Connection(Contract):
    """How to reach the server. The user name and the password are in the Secret of ``credentialsSecretRef``."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    """Host name or IP address. One host: all sessions must reach the server that holds the snapshot."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """TCP port."""
    database: Annotated[str, Field(min_length=1, max_length=63)]
    """Name of the database."""
    ssl_mode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    """How TLS is used, with libpq's words; ``verify-full`` checks the certificate and its host name."""
    ca_secret_ref: CASecretRef | None = None
    """The certificate authorities to trust; the system's where this is unset."""

    # The first two are rules of the whole, because the API server repeats the value in the error of a field: here it
    # may hold a password.
    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "host",
            "host must be one host name or IP address, not a URI and not a list",
            f"self.host.matches(r'^{_HOST}$')",
            lambda self: re.fullmatch(_HOST, self.host) is not None,
        ),
        Rule(
            "database",
            "database must be the plain name of a database, not a URI and not a connection string",
            f"self.database.matches(r'^{_DATABASE}$') && !self.database.contains('://')",
            lambda self: re.fullmatch(_DATABASE, self.database) is not None and "://" not in self.database,
        ),
        Rule(
            "caSecretRef",
            "caSecretRef needs sslMode verify-ca or verify-full: otherwise no certificate is verified",
            "!has(self.caSecretRef) || self.sslMode in ['verify-ca', 'verify-full']",
            lambda self: self.ca_secret_ref is None or self.ssl_mode in {"verify-ca", "verify-full"},
        ),
    )


Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


class Window(Contract):
    """A time at which jobs may begin, by the wall clock of its time zone.

    A time that a change of the clock leaves out doesn't come on that day, and one that it repeats comes twice.
    """

    days: Annotated[tuple[Day, ...], Field(max_length=7), Unique()] = ()
    """Days on which it opens; none is every day."""
    start: TimeOfDay
    """When it opens, ``HH:MM``."""
    end: TimeOfDay
    """When it closes, ``HH:MM``; on the next day unless it is later than ``start``."""
    time_zone: TimeZone = "UTC"
    """Name of the time zone, e.g. ``Europe/Berlin``."""
    max_connections: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Connections that the operator gives to jobs meanwhile; unset is ``limits.maxConnections``."""


class Limits(Contract):
    """What all jobs together may ask of this source."""

    max_connections: Annotated[int, Field(ge=2, le=1000)] = 10
    """Connections to the server at any moment, over all jobs, clusters and laptops: one holds the snapshot, the
    others plan and read."""
    windows: Annotated[tuple[Window, ...], Field(max_length=16)] = ()
    """When the operator lets jobs begin; none is always. The first that is open counts. While none is, no job begins,
    and those at work go on with one worker pod each."""
    bytes_per_second: Annotated[Quantity, Bytes("64Ki", "1Ti")] | None = None
    """Bytes received per second, over the workers of a job; unset is as fast as the source can send."""
    active_jobs: Annotated[int, Field(ge=1, le=1000)] = 5
    """Jobs that run at the same time; others wait."""
    statement_timeout: Annotated[Duration, Lasts("1s", "1h")] = Duration("60s")
    """Longest statement while planning. Reading isn't bounded by it: a slow sink would look like a slow query."""
    lock_timeout: Annotated[Duration, Lasts("100ms", "10m")] = Duration("5s")
    """Longest wait for the lock that keeps the table as it is."""
    yield_to_ddl_after: Annotated[Duration, Field(alias="yieldToDDLAfter"), Lasts("1s", "1h")] = Duration("5s")
    """The job gives way (``snapshot.onLoss``) when DDL has waited for its lock this long, because the application's
    queries wait behind that DDL."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "windows",
            "the maxConnections of windows must not exceed limits.maxConnections, which the source enforces",
            "!has(self.windows) || self.windows.all(w, !has(w.maxConnections)"
            " || w.maxConnections <= self.maxConnections)",
            lambda self: all((window.max_connections or 0) <= self.max_connections for window in self.windows),
        ),
    )


class Pool(Contract):
    """The connections of one worker pod, or of one local process."""

    size: Annotated[int, Field(ge=1, le=64)] = 2
    """Connections, and threads that read, at most."""
    min_idle: Annotated[int, Field(ge=0, le=64)] = 1
    """Connections that are kept open while they wait for work."""
    acquire_timeout: Annotated[Duration, Lasts("100ms", "10m")] = Duration("5s")
    """Longest wait for a connection of the pool before it is tried again later."""
    idle_timeout: Annotated[Duration, Lasts("1s", "24h")] = Duration("5m")
    """An idle connection is closed after this time."""
    max_lifetime: Annotated[Duration, Lasts("1s", "24h")] = Duration("10m")
    """A connection is replaced after this time, when it is next idle."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "minIdle",
            "minIdle must not exceed size",
            "self.minIdle <= self.size",
            lambda self: self.min_idle <= self.size,
        ),
    )


class Policy(Contract):
    """What jobs may do with this source."""

    allow_functions: Annotated[
        tuple[
            Annotated[
                str,
                Field(min_length=1, max_length=127),
                Matches(_FUNCTION, "must be SCHEMA.NAME or NAME, as the catalog spells it: no quotes, no arguments"),
            ],
            ...,
        ],
        Field(max_length=256),
        Unique(),
    ] = ()
    """Functions that ``query`` and ``where`` may call besides the built-in ones that only compute, as ``SCHEMA.NAME``,
    or ``NAME`` for one of pg_catalog. Being read-only doesn't stop a function that sends, locks or writes: name none
    of these."""
    sensitive_columns: Annotated[
        tuple[
            Annotated[
                str,
                Field(min_length=1, max_length=127),
                Matches(
                    r"[^\[\]\x00-\x1f\x7f]+",
                    "must be the name of a column, with * for any characters and ? for one, in any case",
                ),
            ],
            ...,
        ],
        Field(max_length=256),
        Unique(),
    ] = ()
    """Columns, e.g. ``*email*``, that no job may write unless it masks them, and none may be partitioned by."""
    row_security: Literal["Refuse"] = "Refuse"
    """Row-level security would hide rows silently, so a table that has it for this role is refused."""


class Protection(Contract):
    """Signs that the source is in trouble, and from where on jobs slow down or give way (``snapshot.onLoss``)."""

    slow_at_replication_lag: Annotated[Duration, Lasts("1s", "24h")] = Duration("30s")
    """Readers halve their speed while a replica, or the source if it is one, is this far behind."""
    yield_at_replication_lag: Annotated[Duration, Lasts("1s", "24h")] = Duration("5m")
    """The snapshot is given up when a replica, or the source if it is one, is this far behind."""
    yield_at_snapshot_age: Annotated[int, Field(ge=1000, le=1500000000)] = 100_000_000
    """The snapshot is given up when the server has begun this many transactions since: VACUUM can't clean up after
    them, in any table."""
    yield_to_index_build_after: Annotated[Duration, Lasts("1s", "24h")] = Duration("60s")
    """The snapshot is given up when CREATE INDEX CONCURRENTLY, or its like, has waited for its end this long."""
    slow_at_free_connections: Annotated[int, Field(ge=0, le=1000)] = 3
    """Readers give half of their connections back while the server has fewer than this left for everybody else."""


class DataSourceSpec(Contract):
    """A database and the limits it is read under."""

    type: Literal["PostgreSQL"]
    """The kind of database."""
    connection: Connection
    """How to reach the server."""
    credentials_secret_ref: SecretRef
    """The Secret with the keys ``username`` and ``password``. Pods mount it; the operator never reads it."""
    limits: Limits = Limits()
    """What all jobs together may ask of this source."""
    budget_group: (
        Annotated[
            str,
            Field(min_length=1, max_length=253),
            Matches(r"[A-Za-z0-9_.:/-]+", "must consist of letters, digits and _.:/-"),
        ]
        | None
    ) = None
    """Sources with the same group share one budget of connections; unset is ``HOST:PORT``."""
    pool: Pool = Pool()
    """The connections of one worker pod."""
    protection: Protection = Protection()
    """When jobs slow down or give way because the source is in trouble."""
    policy: Policy = Policy()
    """What jobs may do with this source."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "limits.windows",
            "the maxConnections of windows must exceed pool.size: a job needs one that holds its snapshot, and a pool",
            "!has(self.limits.windows) || self.limits.windows.all(w, !has(w.maxConnections)"
            " || w.maxConnections > self.pool.size)",
            lambda self: all(
                window.max_connections is None or window.max_connections > self.pool.size
                for window in self.limits.windows
            ),
        ),
    )


class ServerStatus(Contract):
    """What the last check that reached the server found."""

    version: Annotated[str, Field(max_length=64)]
    """The server's version, e.g. ``18.6``."""
    latency_milliseconds: Annotated[int, Field(ge=0)]
    """Of one round trip from a pod, the least of several, rounded up."""
    tls: Annotated[str, Field(max_length=64)] = ""
    """Protocol of the connection, e.g. ``TLSv1.3``; empty without TLS."""
    pooler: bool = False
    """Whether a connection pooler, in session mode, stands between."""
    replica: bool = False
    """Whether the server is in recovery: a replica."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """The server's own limit."""
    role_connection_limit: Annotated[int, Field(ge=-1)] = -1
    """The role's limit; -1 is none."""
    can_write: bool = False
    """Whether the role could write: it should not be able to."""


class DataSourceStatus(Contract):
    """What the operator found about the source."""

    observed_generation: Annotated[int, Field(ge=-1)] = -1
    """The generation of the spec that this status is about; -1 before the first look."""
    conditions: Conditions = ()
    """Ready, Reconciling and Stalled, as kstatus reads them; ReadOnly warns of a role that could write,
    Secure of a connection without TLS or to a server that isn't verified."""
    server: ServerStatus | None = None
    """What the last check that reached the server found."""
    checked_at: datetime | None = None
    """When the last check ended."""
    checks: Annotated[int, Field(ge=0)] = 0
    """Number of the last check; names its Job."""
    failed_checks: Annotated[int, Field(ge=0)] = 0
    """Checks that failed in a row; the next one waits the longer. 1 while checks find no connection free."""
    check_request: Annotated[str, Field(max_length=256)] = ""
    """The value of the annotation ``extraction-operator.io/check`` that the last check answers."""
    active_jobs: Annotated[int, Field(ge=0)] = 0
    """Jobs that were admitted and haven't ended."""
    waiting_jobs: Annotated[int, Field(ge=0)] = 0
    """Jobs that wait for room in the budget."""
    reserved_connections: Annotated[int, Field(ge=0)] = 0
    """Connections that are promised to jobs and checks of the budget group."""


class DataSource(Contract):
    """A database that jobs extract from: how to reach it, and how gently it is to be read."""

    api_version: Literal["extraction-operator.io/v1alpha1"] = API_VERSION
    kind: Literal["DataSource"] = "DataSource"
    metadata: Metadata
    spec: DataSourceSpec
    """What is declared."""
    status: DataSourceStatus = DataSourceStatus()
    """What was found."""

    @property
    def budget_group(self) -> str:
        """The group whose sources share one budget; ``HOST:PORT`` unless declared."""
        return self.spec.budget_group or f"{self.spec.connection.host}:{self.spec.connection.port}"
