"""Signals: the first asks, time or a second one forces, and a main thread that cannot listen ends with its process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from relink_jax import errors
from relink_jax.runtime import signals, stopping

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def _unasked():
    stopping.forget()
    yield
    stopping.forget()


def _work(seconds, safe=False):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
        if safe:
            stopping.check_here("work")


def _signalled(within, *numbers, seconds=10.0, safe=False):
    """Works under `heeded(within)` while the signals come one after the other."""
    with signals.heeded(within):
        for number in numbers[:-1]:
            os.kill(os.getpid(), number)
            _work(0.2)
        os.kill(os.getpid(), numbers[-1])
        _work(seconds, safe)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_work_stops_at_its_safe_point(number):
    with pytest.raises(errors.StoppedError, match="work stopped as asked"):
        _signalled(30, number, safe=True)
    _signalled(30, number, seconds=0.3)  # nothing is forced before its time


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_time_forces(number):
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _signalled(0.3, number)
    assert 0.3 <= time.monotonic() - begun < 5
    assert stopping.asked()


def test_a_second_signal_forces():
    with pytest.raises(KeyboardInterrupt):
        _signalled(30, signal.SIGTERM, signal.SIGHUP)


def test_without_safe_points_the_first_signal_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        _signalled(0, signal.SIGTERM)
    assert not stopping.asked()


def test_sigint_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        _signalled(30, signal.SIGINT)


def test_what_was_ignored_stays_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _signalled(0, signal.SIGHUP, seconds=0.2)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    kept = signal.getsignal(signal.SIGTERM)
    with signals.heeded(0):
        assert signal.getsignal(signal.SIGTERM) != kept
    assert signal.getsignal(signal.SIGTERM) == kept


CHILD = """
import ctypes, dataclasses, sys
from relink_jax import cli
from relink_jax.runtime import signals, stopping
from relink_jax.stages import catalogue, cluster

def polite(*_):
    import jax
    assert jax.distributed.is_initialized() and jax.process_count() == 1
    print("ready", flush=True)
    while True:
        stopping.check("work")

def blocked(*_):
    mutex = ctypes.create_string_buffer(64)  # zeros: a mutex that nobody holds
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("ready", flush=True)
    lock(mutex)  # for ever, and no signal ends it

signals.HARD = 0.2
cluster.run = {"polite": polite, "blocked": blocked}[sys.argv[1]]
catalogue.STAGES["cluster"] = dataclasses.replace(catalogue.STAGES["cluster"], safe_points=("",))
sys.exit(cli.main(["cluster", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["polite", "--cluster=one"], "relink cluster: work stopped as asked; everything finished is kept, run the same command to go on\n"),
        (["blocked", "--stop_within=0.3"], "relink: the work did not end within 0.2 s of the stop, so the process does; run the same command to go on\n"),
    ],
)
def test_a_child_that_is_told_to_stop_exits_75(words, told):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n", child.communicate(timeout=60)[1]
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 75, err
    assert err.endswith(told)
