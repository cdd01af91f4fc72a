"""Faults from a seed: the same schedule again, every fault as often, and each one healed."""

from collections import Counter
from itertools import pairwise

from support.faults import Fault, Happened, Report, Run, Storm, Strike, schedule, sequence


def fault(name: str, log: list[str], *, hit: str = "it", longest: float = 0.0) -> Fault:
    def inject(draw) -> str:
        log.append(f"{name} {draw.randint(0, 999)}")
        return hit

    return Fault(name, inject, (lambda: log.append(f"heal {name}")) if longest else None, longest)


NAMES = ("kill", "cut", "silence")


def test_a_seed_gives_the_same_schedule_and_another_one_another():
    faults = [fault(name, [], longest=0.1) for name in NAMES]
    first, again, other = (schedule(seed, faults, 9, 60) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert list(first) == sorted(first, key=lambda strike: strike.at)
    assert max(strike.at for strike in first) <= 60


def test_every_fault_comes_as_often_as_any_other():
    strikes = schedule(1, [fault(name, []) for name in NAMES], 30, 60)
    assert Counter(strike.fault for strike in strikes) == dict.fromkeys(NAMES, 10)


def test_a_fault_that_lasts_is_not_injected_again_until_it_is_healed():
    strikes = [s for s in schedule(3, [fault(name, [], longest=9) for name in NAMES], 100, 60) if s.fault == "cut"]
    assert len(strikes) > 2
    assert all(one.at + one.lasts <= next_one.at for one, next_one in pairwise(strikes))


def test_a_sequence_has_each_named_fault_once_and_in_order():
    faults = [fault(name, [], longest=2) for name in NAMES]
    strikes = sequence(7, faults, ("silence", "cut"), 10)
    assert [(strike.at, strike.fault) for strike in strikes] == [(0, "silence"), (5, "cut")]
    assert all(0.6 <= strike.lasts <= 2 for strike in strikes)
    assert strikes == sequence(7, faults, ("silence", "cut"), 10)


def test_a_storm_injects_when_due_heals_what_lasts_and_draws_the_same_victims():
    log: list[str] = []
    faults = [fault("kill", log), fault("silence", log, longest=5), fault("miss", log, hit="", longest=5)]
    strikes = (Strike(1, "kill", 0, 1), Strike(2, "silence", 3, 2), Strike(3, "miss", 3, 3), Strike(9, "silence", 3, 4))
    storm = Storm(faults, strikes)
    storm.advance(0.5)
    assert log == []
    storm.advance(2.5)
    assert [line.split()[0] for line in log] == ["kill", "silence"]
    storm.advance(4)
    storm.advance(5.6)
    assert [line.split()[0] for line in log[2:]] == ["miss", "heal"]
    storm.advance(9)
    assert not storm.is_over
    storm.end()
    assert storm.is_over
    assert log[-1] == "heal silence"
    assert [(one.at, one.fault) for one in storm.happened] == [(2.5, "kill"), (2.5, "silence"), (9, "silence")]
    repeated: list[str] = []
    again = Storm([fault("kill", repeated)], strikes[:1])
    again.advance(1)
    assert repeated == log[:1]


def test_a_report_counts_faults_and_endings(tmp_path):
    runs = [Run("a", 5, True, ["SnapshotLost"], 2, 9.4), Run("b", 5, False, ["SnapshotLost"], 1, 3.2)]
    report = Report("Chaos", [Happened(1.0, "kill", "pod", 0.0)], runs, 12.3, "a machine", ["b left uploads"])
    report.write(tmp_path, "it")
    text = (tmp_path / "it.md").read_text()
    assert "1 faults, 2 jobs from the seeds 5:\n1 published the same set, 1 nothing.\n" in text
    assert "It took 12 s on a machine.\n\n**Violated:** b left uploads\n" in text
    assert "| SnapshotLost | 2 |" in text
    assert '"published": true' in (tmp_path / "it.json").read_text()
