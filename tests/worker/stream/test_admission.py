"""Memory: plans stay within limits, wide chunks run alone."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction_worker.stream.admission import MIB, PROCESS_BYTES, Admission, memory_for_row, memory_limit, memory_plan


@given(limit=st.integers(1, 1 << 44), threads=st.integers(1, 256))
def test_batches_of_all_threads_fit_whatever_the_limit(limit, threads):
    plan = memory_plan(limit, threads)
    assert 1 <= plan.threads <= threads
    assert MIB // 4 <= plan.batch_bytes <= 2 * MIB
    assert plan.ordinary_row_bytes <= plan.wide_row_bytes
    if limit >= PROCESS_BYTES + 16 * MIB:
        assert plan.threads * plan.batch_bytes * 10 <= limit - PROCESS_BYTES


def test_more_memory_never_means_smaller_batches_or_rows():
    plans = [memory_plan(mib * MIB, 4) for mib in (64, 128, 192, 256, 512, 1024, 8192)]
    assert [plan.wide_row_bytes for plan in plans] == sorted(plan.wide_row_bytes for plan in plans)
    assert [plan.threads for plan in plans] == sorted(plan.threads for plan in plans)


@given(row=st.integers(2 * MIB, 1 << 33), threads=st.integers(1, 16))
def test_the_memory_that_a_refused_row_is_told_to_need_is_enough_and_not_more(row, threads):
    needed = memory_for_row(row)
    assert memory_plan(needed, threads).wide_row_bytes >= row
    if needed > PROCESS_BYTES + 16 * MIB:
        assert memory_plan(needed - 8, threads).wide_row_bytes < row


def test_a_256_mib_process_reads_rows_of_a_mebibyte_with_two_threads():
    plan = memory_plan(256 * MIB, 2)
    assert plan.threads == 2
    assert plan.ordinary_row_bytes >= MIB


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "268435456\n"}, 268435456),
        ({"memory.max": "max\n", "meminfo": "MemTotal: 9\nMemAvailable:    2000 kB\n"}, 1000 * 1024),
        ({"memory/memory.limit_in_bytes": "134217728"}, 134217728),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "meminfo": "MemAvailable: 8 kB"}, 4096),
        ({}, 1024 * MIB),
        ({"meminfo": "MemAvailable:"}, 1024 * MIB),
    ],
)
def test_the_limit_is_the_cgroups_or_half_of_what_is_available(tmp_path: Path, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory_limit(tmp_path, tmp_path / "meminfo") == expected


def test_ordinary_chunks_run_side_by_side_up_to_the_number_of_threads():
    admission = Admission(2)
    inside = threading.Barrier(2, timeout=20)

    def work():
        with admission.ordinary():
            inside.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_wide_chunk_runs_alone_and_holds_new_ones_back():
    admission = Admission(2)
    events: list[str] = []
    first_in, first_may_go, wide_done = threading.Event(), threading.Event(), threading.Event()

    def first():
        with admission.ordinary():
            first_in.set()
            assert first_may_go.wait(20)
            events.append("first out")

    def wide():
        with admission.wide():
            events.append("wide")
        wide_done.set()

    def later():
        with admission.ordinary():
            events.append("later")

    threads = [threading.Thread(target=first), threading.Thread(target=wide), threading.Thread(target=later)]
    threads[0].start()
    assert first_in.wait(20)
    threads[1].start()
    while not admission._wide_waiting:
        threading.Event().wait(0.001)
    threads[2].start()
    first_may_go.set()
    for thread in threads:
        thread.join(20)
    assert events == ["first out", "wide", "later"]


def test_a_failure_inside_gives_the_share_back():
    admission = Admission(1)
    for enter in (admission.ordinary, admission.wide) * 2:
        with pytest.raises(ZeroDivisionError), enter():
            1 / 0  # noqa: B018
    with admission.wide():
        pass
