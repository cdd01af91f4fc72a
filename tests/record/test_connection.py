"""Where the record is: TLS unless plain text is asked for, and no password where others can read it."""

from pathlib import Path

import psycopg
import pytest

from extraction_record.connection import Place, PlaceError

URL = "postgresql://db.example.com:5433/record"


def test_certificate_and_host_name_are_verified_unless_something_else_is_asked_for():
    found = Place(URL).parameters()
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "system")
    assert (found["host"], found["port"], found["dbname"]) == ("db.example.com", "5433", "record")
    assert Place(f"{URL}?sslrootcert=/ca.crt").parameters()["sslrootcert"] == "/ca.crt"
    assert Place(f"{URL}?sslmode=disable").parameters()["sslmode"] == "disable"
    assert "sslrootcert" not in Place(f"{URL}?sslmode=require").parameters()


def test_a_server_without_tls_is_refused_by_default(recorded, record18: Place):
    verified = Place(record18.url.replace("sslmode=disable", ""), record18.credentials)
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(**verified.parameters())


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://me:hunter2@db/record", "has a password"),
        ("host=db password=hunter2", "has a password"),
        ("postgresql://db:hunter2x/record?nope=1", "can't be read"),
    ],
)
def test_a_url_that_cant_be_used_is_refused_without_being_shown(url: str, problem: str):
    with pytest.raises(PlaceError, match=problem) as caught:
        Place(url).parameters()
    assert "hunter2" not in str(caught.value)


def test_credentials_are_read_anew_for_each_connection(tmp_path: Path):
    place = Place(URL, tmp_path)
    with pytest.raises(PlaceError, match="username can't be read"):
        place.parameters()
    (tmp_path / "username").write_text("writer")
    for password in ("first\n", "second"):
        (tmp_path / "password").write_text(password)
        found = place.parameters()
        assert (found["user"], found["password"]) == ("writer", password.strip())
    assert "second" not in repr(place)
