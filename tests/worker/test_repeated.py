"""Work in a thread of its own: until it is stopped, and what it has is closed there."""

import threading

from extraction_worker.repeated import Repeated


def test_it_is_done_again_until_it_is_stopped_and_ends_in_its_own_thread():
    done, ended = [], []
    often = threading.Event()

    def work() -> float:
        done.append(threading.current_thread().name)
        if len(done) == 3:
            often.set()
        return 0.0

    repeated = Repeated("busy", work, 0.0, at_end=lambda: ended.append(threading.current_thread().name))
    repeated.start()
    assert often.wait(20)
    repeated.stop()
    repeated.stop()
    assert (set(done), ended) == ({"busy"}, ["busy"])


def test_pauses_are_kept_and_cut_short_by_the_end():
    done = []
    repeated = Repeated("idle", lambda: done.append(1) or 0.0, 3600.0)
    repeated.start()
    repeated.stop()
    assert not done
    Repeated("never", lambda: 0.0, 0.0).stop()
