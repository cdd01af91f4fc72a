"""Errors: every reason and exit code is one error's, and secrets don't survive in messages."""

import pytest

from extraction_contract.exit_codes import EXIT_CODES
from extraction_contract.messages import SNAPSHOT_EXIT_CODES
from extraction_worker.errors import (
    AuthenticationFailed,
    SnapshotLost,
    SourceInDanger,
    SourceUnavailable,
    Terminal,
    Transient,
    scrub,
)
from extraction_worker.report import exit_codes


def test_reasons_labels_and_exit_codes_are_of_one_error_each():
    kinds = exit_codes.all_errors()
    assert len(kinds) > 20
    for attribute in (lambda kind: kind.reason, lambda kind: kind.exit_code, lambda kind: kind.label()):
        assert len({attribute(kind) for kind in kinds}) == len(kinds)
    assert all(3 <= kind.exit_code <= 130 for kind in kinds)


def test_families_have_exit_codes_apart():
    codes = {kind.exit_code: kind for kind in exit_codes.all_errors()}
    assert all(issubclass(kind, Transient) for code, kind in codes.items() if 40 <= code < 60)
    assert all(issubclass(kind, Terminal) for code, kind in codes.items() if code < 40)


def test_labels_are_snake_case():
    assert AuthenticationFailed.label() == "authentication_failed"


def test_a_message_ends_with_what_to_do():
    assert str(SourceUnavailable("It is away.", hint="Wait.")) == "It is away. Wait."
    assert str(SourceUnavailable("It is away.")) == "It is away."


@pytest.mark.parametrize(
    "text",
    [
        "could not connect to postgresql://me:hunter2@db/shop",
        "connection string: host=db password=hunter2 user=me",
        "password='hunter2 with blanks' host=db",
        "PASSWORD: hunter2",
        "token=hunter2",
        "s3://key:hunter2@bucket",
    ],
)
def test_passwords_are_scrubbed_from_the_messages_of_drivers(text):
    assert "hunter2" not in scrub(text)
    assert "***" in scrub(text)


def test_messages_are_on_one_line():
    assert scrub("FATAL:  no\n\tLINE 1\r\n") == "FATAL: no LINE 1"


@pytest.mark.parametrize("stale", [exit_codes.PAGE, exit_codes.MODULE])
def test_the_page_of_exit_codes_and_the_module_of_the_contract_are_written_and_checked(
    stale, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for file in (exit_codes.PAGE, exit_codes.MODULE):
        file.parent.mkdir(parents=True)
    assert exit_codes.main(["--check"]) == 1
    assert exit_codes.main([]) == 0
    assert exit_codes.main(["--check"]) == 0
    assert (
        "| 14 | AuthenticationFailed | terminal | The server refused the role or its password. |" in exit_codes.render()
    )
    capsys.readouterr()
    stale.write_text("old")
    assert exit_codes.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{stale} isn't what extraction_worker.errors says: run make generate\n"


def test_the_contract_knows_what_each_exit_code_means():
    assert {code: reason for code, (reason, _) in EXIT_CODES.items()} == {
        kind.exit_code: kind.reason for kind in exit_codes.all_errors()
    }
    assert EXIT_CODES[14][1] == "The server refused the role or its password."


def test_the_contract_knows_the_exit_codes_of_a_lost_snapshot():
    codes = {kind.exit_code: kind.reason for kind in (SnapshotLost, SourceInDanger)}
    assert codes == SNAPSHOT_EXIT_CODES
