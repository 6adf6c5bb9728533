"""One writing job per run directory: a lock file with an owner and a heartbeat.

    RUN/lock.json   owner (random), beats, last beat, host, machine, process, start, command

A thread of the owner writes the file anew every `BEAT_SECONDS`. A second job is refused when the owner is alive: its
process is there (same machine), or the file changes while it is watched. It takes the lock over when the owner's
process is gone (same machine), or when nothing changed for `STALE_SECONDS`; the watching needs no agreement of clocks,
an old time of the last beat only shortens it, to two beats at least.

On a local disk a free lock is taken by creating a hard link, which succeeds for one job only. Object stores offer no
such step to pyarrow, and a stale lock must be replaced: there a job writes its name, waits `SETTLE_SECONDS`, and goes
on if its name is still there. The race that stays: two jobs that start at the same moment, one of which takes longer
than that between its look and its write. The first then finds the other's name at its next beat and stops. Parts are
committed atomically and depend on their settings only, so two jobs with the same arguments do each other no harm even
then.

Cost: one small object read and written per beat.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil
import pyarrow.fs as pafs

from raycurate.errors import UserError
from raycurate.run.filesystem import read_json, resolve, write_json

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
SETTLE_SECONDS = 1.0
LOCK_FILE = "lock.json"
READ_ATTEMPTS = 5
# What this thread of work holds: stages call one another, and only the outermost takes the lock.
_held: ContextVar[frozenset[str]] = ContextVar("_held", default=frozenset())
log = logging.getLogger("raycurate")


def _machine() -> str:
    """This boot of this machine and its process numbers: a container has its own."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{os.readlink('/proc/self/ns/pid')}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What the lock file says of its owner. Times are seconds since 1970."""

    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=_machine)
    pid: int = field(default_factory=os.getpid)
    born: float = field(default_factory=lambda: psutil.Process().create_time())
    command: str = field(default_factory=lambda: shlex.join(sys.argv)[:200])
    started: float = field(default_factory=time.time)
    last_beat: float = field(default_factory=time.time)
    beats: int = 0

    def next_beat(self) -> Claim:
        """The same owner, alive now."""
        return replace(self, last_beat=time.time(), beats=self.beats + 1)

    def process_lives(self) -> bool | None:
        """Whether the owner's process is there; None where this machine cannot know."""
        if self.machine != _machine():
            return None
        if self.pid == os.getpid():  # a lock of this process that it could not remove has no thread any more
            return any(thread.name == f"run-lock-{self.owner}" for thread in threading.enumerate())
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.started))
        ago = max(0.0, time.time() - self.last_beat)
        return (
            f"host {self.host}, process {self.pid}, started {begun}, last sign of life {ago:.0f} s ago: {self.command}"
        )


class RunLock:
    """The lock of one run directory, taken and released by `run_lock`."""

    def __init__(self, uri: str, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS) -> None:
        self.uri, self.beat_seconds, self.stale_seconds = uri, beat_seconds, stale_seconds
        self.claim = Claim()
        self.lost: str | None = None
        self._taken, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name=f"run-lock-{self.claim.owner}")
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        self._ignored_interrupts = False

    def acquire(self) -> None:
        """Take the lock, or wait until its owner turns out to be dead.

        Raises:
            UserError: the owner lives, or the run directory cannot be written.
        """
        self._hear_interrupts()
        self._thread.start()
        try:
            found = self._read()
            if found is not None:
                self._watch(found)
            if found is not None or not self._create():
                self._replace()
        except OSError as error:
            self._end()
            raise UserError(
                f"cannot write to the run directory {self.uri}: {error}. Give another place, or the rights to this one."
            ) from error
        except BaseException:
            self._end()
            raise
        self._taken.set()

    def release(self) -> None:
        """Stop the heartbeat; remove the file, if it is still this job's."""
        self._end()
        with contextlib.suppress(OSError):  # a lock that cannot be removed becomes stale
            found = self._read()
            if found is not None and found.owner == self.claim.owner:
                self._place[0].delete_file(self._place[1])

    def _end(self) -> None:
        self._stop.set()
        self._taken.set()
        self._thread.join()
        if self._ignored_interrupts:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _hear_interrupts(self) -> None:
        """Let the heartbeat, and nothing else, interrupt a job that ignores SIGINT (a script's `raycurate ... &`)."""
        if self._in_main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            self._ignored_interrupts = True
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        if self.lost is not None:
            raise KeyboardInterrupt

    @property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        filesystem, root = resolve(self.uri)
        return filesystem, f"{root}/{LOCK_FILE}"

    def _read(self) -> Claim | None:
        """The owner. An object store may hand out a mixture of two versions as one replaces the other: read again."""
        for attempt in range(READ_ATTEMPTS):
            try:
                value = read_json(*self._place)
            except FileNotFoundError:  # removed between the look and the read
                return None
            except ValueError:
                time.sleep(0.1 * 2**attempt)
                continue
            return None if value is None else Claim(**value)
        raise OSError(f"{self.uri}/{LOCK_FILE} is not the file of a lock; remove it if no job works there")

    def _write(self) -> None:
        write_json(*self._place, asdict(self.claim))

    def _refuse(self, owner: Claim) -> UserError:
        return UserError(
            f"the run directory {self.uri} is in use by another job ({owner}). Wait for it or end it, then start this "
            "one again: what is finished is kept. Two experiments at once need two run directories. The lock of a job "
            f"that died is taken over after {self.stale_seconds:.0f} s."
        )

    def _watch(self, owner: Claim) -> None:
        """Return when the owner is dead or has let go; raise when it lives."""
        lives = owner.process_lives()
        if lives:
            raise self._refuse(owner)
        if lives is False:
            log.info("run: taking over the lock of a job whose process is gone (%s)", owner)
            return
        age = time.time() - owner.last_beat
        wait = min(max(self.stale_seconds - age, 2 * self.beat_seconds), self.stale_seconds)
        log.info("run: locked by another job (%s); watching %.0f s for a sign of life", owner, wait)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(self.beat_seconds / 10)
            found = self._read()
            if found is None:
                return
            if (found.owner, found.beats) != (owner.owner, owner.beats):
                raise self._refuse(found)
        log.info("run: taking over the lock: no sign of life for %.0f s (%s)", self.stale_seconds, owner)

    def _create(self) -> bool:
        """Take a free lock on a local disk in one step; False where that is not possible."""
        filesystem, path = self._place
        if not isinstance(filesystem, pafs.LocalFileSystem):
            return False
        own = f"{path}.{self.claim.owner}"
        write_json(filesystem, own, asdict(self.claim))
        try:
            os.link(own, path)
        except FileExistsError:
            found = self._read()
            if found is not None:
                raise self._refuse(found) from None
            return False
        except OSError:  # a file system without hard links
            return False
        finally:
            os.unlink(own)
        return True

    def _replace(self) -> None:
        """Write our name, and go on if it is still there after a while."""
        self._write()
        time.sleep(SETTLE_SECONDS)
        found = self._read()
        if found is None or found.owner != self.claim.owner:
            raise self._refuse(found or self.claim)

    def _beat(self) -> None:
        """Thread: stay alive in the file; stop the job when the file says that it is another's."""
        self._taken.wait()
        while not self._stop.wait(self.beat_seconds):
            try:
                found = self._read()
                if found is None or found.owner != self.claim.owner:
                    self.lost = "removed" if found is None else f"taken over by another job ({found})"
                    break
                self.claim = self.claim.next_beat()
                self._write()
            except OSError as error:
                log.warning("run: cannot renew the lock of %s: %s", self.uri, error)
        if self.lost is not None and self._in_main_thread and not self._stop.is_set():
            os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def run_lock(uri: str, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS) -> Iterator[None]:
    """Hold a run directory while the body writes to it. Inside the body the same lock costs nothing.

    Raises:
        UserError: another job holds it, or took it while this one showed no sign of life.
    """
    uri = uri.rstrip("/")
    if uri in _held.get():
        yield
        return
    lock = RunLock(uri, beat_seconds=beat_seconds, stale_seconds=stale_seconds)
    lock.acquire()
    token = _held.set(_held.get() | {uri})
    try:
        yield
    except BaseException as error:
        if lock.lost is None:
            raise
        raise _lost(lock) from error
    finally:
        _held.reset(token)
        lock.release()
    if lock.lost is not None:
        raise _lost(lock)


def _lost(lock: RunLock) -> UserError:
    return UserError(
        f"the lock of the run directory {lock.uri} was {lock.lost} while this job ran, so this job stopped. What it "
        "committed is kept; start it again when the run directory is free."
    )
