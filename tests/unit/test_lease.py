"""One of several holds the lease; a live one is respected, a stale one taken over."""

from __future__ import annotations

import concurrent.futures
import threading
from types import SimpleNamespace

import pytest
import tensorstore as ts

from mmjax.errors import EXIT_LOST, EXIT_USER_ERROR, OutageError, UserError
from mmjax.lease import Lease

NEVER = 1e6


@pytest.fixture
def store():
    return ts.KvStore.open("memory://").result()


def lease(store, **options) -> Lease:
    options = {"renew_every": NEVER, "stale_after": 60.0, "wait": lambda s: None, **options}
    lost = options.pop("on_lost", pytest.fail)
    return Lease(store, ".lease", where="gs://bucket/run", on_lost=lost, **options)


def test_it_is_there_while_it_is_held(store):
    first = lease(store)
    first.acquire()
    assert b"stale_after_seconds" in store.read(".lease").result().value
    first.release()
    assert store.read(".lease").result().state == "missing"
    second = lease(store)
    second.acquire()
    second.release()


def test_a_live_one_is_refused_in_a_sentence_that_names_its_holder(store):
    first = lease(store)
    first.acquire()
    second = lease(store, wait=lambda seconds: first.renew())
    with pytest.raises(UserError, match=r"another run is working in gs://bucket/run \(process \d+"):
        second.acquire()
    assert first.renew()
    first.release()


def test_a_stale_one_is_taken_over_after_its_time_and_not_before(store):
    dead, waits = lease(store), []
    dead.acquire()
    heir = lease(store, wait=waits.append)
    heir.acquire()
    assert sum(waits) == pytest.approx(60)
    assert not dead.renew()
    dead.release()  # what it has lost is not its to give back
    assert heir.renew()
    heir.release()


def test_one_that_is_given_back_meanwhile_is_taken_at_once(store):
    first, waits = lease(store), []
    first.acquire()

    def wait(seconds):
        waits.append(seconds)
        first.release()

    second = lease(store, wait=wait)
    second.acquire()
    assert len(waits) == 1
    second.release()


def test_of_many_that_reach_for_it_at_once_one_gets_it(store):
    dead = lease(store)
    dead.acquire()
    start, leases = threading.Barrier(8), []

    def reach(_):
        together = iter([start.wait])  # all have read the stale one when the first goes on
        mine = lease(store, wait=lambda seconds: next(together, lambda: None)())
        try:
            mine.acquire()
        except UserError:
            return 0
        leases.append(mine)
        return 1

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(reach, range(8))) == 1
    assert leases[0].renew()
    leases[0].release()


def test_a_holder_that_lost_it_is_told_and_stops_renewing(store):
    told, known = [], threading.Event()

    def lost(error):
        told.append(error)
        known.set()

    holder = lease(store, renew_every=0.01, on_lost=lost)
    holder.acquire()
    store.write(".lease", "another's").result()
    assert known.wait(30)
    assert "another run took it over" in str(told[0])
    assert told[0].exit_code == EXIT_USER_ERROR  # to start it again would only be refused
    holder.release()
    assert store.read(".lease").result().value == b"another's"


class Flaky:
    """A store whose writes fail, or succeed without an answer that says so."""

    def __init__(self, store, error=None):
        self.store, self.error, self.answers = store, error, True

    def read(self, name):
        return self.store.read(name)

    def write(self, name, value, *, if_equal):
        if self.error:
            raise self.error
        done = self.store.write(name, value, if_equal=if_equal)
        return done if self.answers else self.store.write(name, value, if_equal=if_equal)


def test_a_write_whose_answer_was_lost_counts(store):
    flaky = Flaky(store)
    mine = lease(flaky)
    mine.acquire()
    flaky.answers = False  # the library tries again, and is refused by its own first write
    assert mine.renew()
    flaky.answers = True
    assert mine.renew()
    mine.release()


def test_renewals_that_fail_are_survived_until_it_would_be_stale(store, caplog):
    flaky, told, known = Flaky(store), [], threading.Event()

    def lost(error):
        told.append(error)
        known.set()

    # Stale at once: the first renewal that fails is too late.
    mine = lease(flaky, renew_every=0.01, stale_after=0.0, on_lost=lost)
    mine.acquire()
    flaky.error = ValueError("UNAVAILABLE: later")
    assert known.wait(30)
    assert "could not be renewed" in str(told[0])
    assert told[0].exit_code == EXIT_LOST  # what launchers start again
    assert "UNAVAILABLE" in caplog.text


class Silent:
    """What is asked of a store that is cut off."""

    def __init__(self):
        self.asked = []

    def result(self, timeout):
        self.asked.append(timeout)
        raise TimeoutError


def test_a_store_that_is_cut_off_is_noticed_before_another_run_may_take_over(store, monkeypatch):
    monkeypatch.setattr("mmjax.lease.time.monotonic", lambda: 100.0)
    mine = lease(store, renew_every=10.0)
    mine.acquire()
    silent = Silent()
    monkeypatch.setattr(mine, "_store", SimpleNamespace(write=lambda *_, **__: silent))
    monkeypatch.setattr("mmjax.lease.time.monotonic", lambda: 115.0)
    with pytest.raises(TimeoutError, match="no answer within 35 s"):
        mine.renew()
    monkeypatch.setattr("mmjax.lease.time.monotonic", lambda: 149.0)
    with pytest.raises(TimeoutError, match="no answer within 10 s"):
        mine.renew()
    mine.release()  # who ends does not wait for it
    assert silent.asked == [35.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("PERMISSION_DENIED: no\nmore"), UserError),
        (ValueError("UNAVAILABLE: CURL error\nmore"), OutageError),
        (TimeoutError("no answer within 50 s"), OutageError),
    ],
    ids=["no right", "outage", "silence"],
)
def test_a_store_that_cannot_be_written_is_one_sentence(store, error, kind):
    """A launcher tries again after an outage; the lease is the first that a run asks a bucket."""
    first = str(error).partition("\n")[0]
    with pytest.raises(UserError, match=rf"gs://bucket/run cannot be written \({first}") as told:
        lease(Flaky(store, error)).acquire()
    assert type(told.value) is kind
