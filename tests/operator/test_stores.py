"""Whether the operator warns of its own stores."""

from pathlib import Path

import pytest

from extraction_operator.config import Config, RecordConfig
from extraction_operator.plan.settings import Settings
from extraction_operator.stores import security
from extraction_record.connection import Place

PASSWORD = "canary-of-a-password"


def config(tmp_path: Path, record: str = "", redis: str = "") -> Config:
    """Return a configuration with a record at a URL, and Redis at one."""
    file = tmp_path / "url"
    if redis:
        file.write_text(redis)
    return Config(
        plan=Settings(image="extractor"), identity="me", record=RecordConfig(Place(record)) if record else None,
        redis_url_file=file if redis else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "redis"),
    [
        ("postgresql://db/record", f"rediss://:{PASSWORD}@cache/0"),
        ("postgresql://db/record?sslmode=verify-full", ""),
        ("", f"rediss+sentinel://:{PASSWORD}@one,two/shop/0"),
        ("", "rediss+cluster://one/?ssl_cert_reqs=required"),
        ("", "unix:///run/redis.sock"),
    ],
)
def test_a_store_that_proves_its_name_is_secure(tmp_path, record, redis):
    found = security(config(tmp_path, record, redis))
    assert found is not None
    assert (found.type, found.status) == ("StoresSecure", True)


@pytest.mark.parametrize(
    ("record", "redis", "reason", "said"),
    [
        ("postgresql://db/record?sslmode=disable", "", "RecordNotSecure", "without TLS, or may be: sslmode is disable"),
        ("postgresql://db/record?sslmode=prefer", "", "RecordNotSecure", "without TLS, or may be: sslmode is prefer"),
        ("postgresql://db/record?sslmode=require", "", "RecordNotSecure", "Nobody checks"),
        ("", f"redis://:{PASSWORD}@cache/0", "RedisNotSecure", "without TLS"),
        ("", "redis+cluster://one", "RedisNotSecure", "without TLS"),
        ("", f"redis+sentinel://:{PASSWORD}@one/shop", "RedisNotSecure", "without TLS"),
        ("", f"rediss://:{PASSWORD}@cache/0?ssl_cert_reqs=none", "RedisNotSecure", "Nobody checks"),
        ("", "rediss://cache/0?db=1&ssl_check_hostname=False", "RedisNotSecure", "Nobody checks"),
        (
            "postgresql://db/record?sslmode=disable",
            "redis://cache/0",
            "RecordNotSecure",
            "Redis is reached without TLS",
        ),
        ("postgresql://db/record", "redis://cache/0", "RedisNotSecure", "Redis is reached without TLS"),
    ],
)
def test_a_store_that_others_could_read_or_be_is_warned_of(tmp_path, record, redis, reason, said):
    found = security(config(tmp_path, record, redis))
    assert found is not None
    assert (found.status, found.reason) == (False, reason)
    assert said in found.message
    assert PASSWORD not in found.message


def test_without_stores_nothing_is_said_and_what_cant_be_read_is_for_others_to_say(tmp_path):
    assert security(config(tmp_path)) is None
    found = security(config(tmp_path, "postgresql://db:nowhere:5/record", "no URL"))
    assert found is not None
    assert found.status is True
