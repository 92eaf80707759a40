from pathlib import Path

from ops.children import (
    LOG_BYTES_MAX,
    RESTART_DELAY_MAX_S,
    RESTART_DELAY_S,
    TAIL_LINES,
    restart_delay_s,
    tail,
    trim_log,
)


def test_restarts_wait_longer_each_time_up_to_a_limit() -> None:
    delays = [restart_delay_s(failures, jitter=0) for failures in range(1, 50)]

    assert delays[:3] == [RESTART_DELAY_S, 2 * RESTART_DELAY_S, 4 * RESTART_DELAY_S]
    assert delays == sorted(delays)
    assert delays[-1] == RESTART_DELAY_MAX_S


def test_jitter_takes_up_to_half_of_the_wait_off() -> None:
    assert restart_delay_s(1, jitter=1) == RESTART_DELAY_S / 2


def test_the_tail_of_a_log_is_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("of a run before\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(100))

    assert tail(log, start)[-1] == "line 99"
    assert len(tail(log, start)) == TAIL_LINES
    assert tail(log, log.stat().st_size) == []


def test_a_log_that_is_too_long_is_moved_aside_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * LOG_BYTES_MAX)
        assert not trim_log(log)
        writer.write(b"y")

        assert trim_log(log)
        writer.write(b"after")

    assert log.read_bytes() == b"after"
    assert (tmp_path / "x.log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_a_log_that_is_not_there_is_left_alone(tmp_path: Path) -> None:
    assert not trim_log(tmp_path / "none.log")
