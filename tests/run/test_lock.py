"""One writing job per run directory: the second is told who has it, the dead are succeeded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from raycurate.errors import UserError
from raycurate.run.filesystem import read_json, resolve, write_bytes, write_json
from raycurate.run.lock import Claim, run_lock

BEAT = 0.1
QUICK = {"beat_seconds": BEAT, "stale_seconds": 6 * BEAT}


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path) -> str:
    """A run directory on a local disk and on an object store."""
    if request.param == "local":
        return str(tmp_path / "run")
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}"


def lock_of(uri: str) -> dict | None:
    filesystem, path = resolve(uri)
    return read_json(filesystem, f"{path}/lock.json")


def write_lock(uri: str, claim: Claim) -> None:
    filesystem, path = resolve(uri)
    write_json(filesystem, f"{path}/lock.json", asdict(claim))


def elsewhere(**changes) -> Claim:
    """The claim of a job on another machine."""
    return replace(Claim(), owner="other", machine="another boot", host="node-7", pid=77, **changes)


def test_the_lock_is_there_while_it_is_held_and_gone_afterwards(uri):
    """Inside, the same lock costs nothing; the beats count up."""
    with run_lock(uri, **QUICK):
        first = lock_of(uri)
        with run_lock(uri + "/"):
            assert lock_of(uri)["owner"] == first["owner"]
        deadline = time.monotonic() + 20
        while lock_of(uri)["beats"] < first["beats"] + 2:
            assert time.monotonic() < deadline
            time.sleep(BEAT)
    assert lock_of(uri) is None


def test_an_error_lets_go_of_the_lock(tmp_path):
    with pytest.raises(KeyError), run_lock(str(tmp_path)):
        raise KeyError
    assert lock_of(str(tmp_path)) is None


def test_a_second_job_on_this_machine_is_refused_and_told_who_has_it(uri):
    with run_lock(uri):
        refused: list[UserError] = []

        def second() -> None:
            try:
                with run_lock(uri):
                    pass
            except UserError as error:
                refused.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        owner = lock_of(uri)
        assert f"host {owner['host']}, process {os.getpid()}, started 20" in str(refused[0])
        assert "Wait for it or end it" in str(refused[0])
    assert lock_of(uri) is None


HOLD = """
import sys, time
from raycurate.run.lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_taken_over_at_once(uri):
    process = subprocess.Popen([sys.executable, "-c", HOLD, uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {process.pid}"), run_lock(uri):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with run_lock(uri):
        assert lock_of(uri)["pid"] == os.getpid()


def test_a_job_elsewhere_that_beats_is_alive_whatever_its_clock_says(uri):
    """An hour behind, but the file changes while it is watched."""
    stop = threading.Event()

    def beat() -> None:
        claim = elsewhere(last_beat=time.time() - 3600)
        while not stop.is_set():
            claim = replace(claim, beats=claim.beats + 1)
            write_lock(uri, claim)
            stop.wait(BEAT)

    write_lock(uri, elsewhere())
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="host node-7, process 77"), run_lock(uri, beat_seconds=5):
            pass
    finally:
        stop.set()
        thread.join()
    assert lock_of(uri)["owner"] == "other"


def test_a_job_elsewhere_that_shows_no_life_is_succeeded(uri):
    """Not before the time is over."""
    write_lock(uri, elsewhere())
    started = time.monotonic()
    with run_lock(uri, **QUICK):
        assert time.monotonic() - started >= 5 * BEAT
        assert lock_of(uri)["pid"] == os.getpid()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_job_whose_lock_was_taken_stops_and_leaves_the_lock_alone(uri, ignored):
    """Its main thread is interrupted at the next beat, also where a script started it with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)

    def job() -> None:
        with run_lock(uri, **QUICK):
            write_lock(uri, elsewhere())
            time.sleep(60)

    started = time.monotonic()
    try:
        with pytest.raises(UserError, match="taken over by another job .host node-7"):
            job()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 50
    assert lock_of(uri)["owner"] == "other"


LOSE = """
import os, signal, sys, time
from dataclasses import asdict, replace
from raycurate.errors import UserError
from raycurate.run.filesystem import resolve, write_json
from raycurate.run.lock import Claim, run_lock
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
try:
    with run_lock(sys.argv[1], beat_seconds=0.5):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        print("still there", flush=True)
        filesystem, path = resolve(sys.argv[1])
        write_json(filesystem, f"{path}/lock.json", asdict(replace(Claim(), owner="other")))
        time.sleep(60)
except UserError as error:
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    print(error)
"""


def test_a_job_in_the_background_of_a_script_stops_too(tmp_path):
    """It was started with SIGINT ignored: an interrupt from outside stays ignored, a lost lock ends the job."""
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{LOSE}", tmp_path]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert time.monotonic() - started < 50
    assert done.stdout.startswith("still there\nthe lock of the run directory")


def test_a_file_that_is_half_old_half_new_is_read_again(uri):
    """As an object store may hand out; a file that stays unreadable is an error that says what to do."""
    filesystem, path = resolve(uri)
    write_lock(uri, elsewhere(last_beat=0.0))
    write_bytes(filesystem, f"{path}/lock.json", b'{"owner": "a"} trailing')
    mended = threading.Timer(0.2, lambda: write_lock(uri, elsewhere(last_beat=0.0)))
    mended.start()
    with run_lock(uri, **QUICK):
        assert lock_of(uri)["pid"] == os.getpid()
    mended.join()
    write_bytes(filesystem, f"{path}/lock.json", b"no lock")
    with pytest.raises(UserError, match="not the file of a lock"), run_lock(uri):
        pass


def test_of_many_jobs_that_start_at_once_one_gets_the_lock(uri):
    held: list[int] = []
    refused = threading.Semaphore(0)
    start = threading.Barrier(4)

    def contend(number: int) -> None:
        start.wait()
        try:
            with run_lock(uri):
                held.append(number)
                assert all(refused.acquire(timeout=60) for _ in range(3))
        except UserError:
            refused.release()

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1


def test_a_run_directory_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the run directory"), run_lock(str(tmp_path / "file" / "run")):
        pass
