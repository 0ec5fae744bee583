"""Photos from a server that fails in every way: what is whole stays, what is missing is known."""

from __future__ import annotations

import collections
import http.server
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from mmjax.errors import UserError
from tfds_builders.checks import BadRecordError
from tfds_builders.fetching import FetchReport, Limits
from tfds_builders.photochat import open_images
from tfds_builders.photochat.open_images import fetch_photos, photo_origin


def name(number: int, split: str = "train") -> str:
    return f"{split}/{number:016x}"


def jpeg(number: int) -> bytes:
    """A small photo of noise: no two are alike."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's plan says; a fault is a function of this handler."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.removeprefix("/").removesuffix(".jpg")
        with self.server.lock:
            self.server.asked.append(path)
            faults = self.server.faults[path]
            fault = faults.popleft() if faults else None
        if fault is not None:
            fault(self)
        elif path in self.server.photos:
            self.send(200, self.server.photos[path])
        else:
            self.send(404, b"not here")

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.photos: dict[str, bytes] = {}
        self.faults = collections.defaultdict(collections.deque)
        self.asked: list[str] = []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as found:
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv(open_images.VARIABLE, found.address)
        yield found
        found.over.set()
        found.shutdown()


def fetch(folder: Path, ids: list[str], **how: Any) -> FetchReport:
    """Without waiting."""
    how = {"parallel": 4, "sleep": lambda seconds: None, **how}
    return fetch_photos(ids, folder, **how)


def on_disk(folder: Path) -> dict[str, bytes]:
    """Everything below the folder's splits, leftovers too."""
    return {
        str(path.relative_to(folder)).removesuffix(".jpg"): path.read_bytes()
        for path in folder.glob("*/*")
    }


def fails(status: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.send(status, b"no", **headers)


def resets(handler: Handler) -> None:
    # With no time to linger the system answers what follows with a reset.
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def truncates(handler: Handler) -> None:
    handler.send(200, jpeg(1)[:300], length=len(jpeg(1)))
    handler.close_connection = True


def truncates_without_a_length(handler: Handler) -> None:
    handler.close_connection = True
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(jpeg(1)[:300])


def truncates_a_chunk(handler: Handler) -> None:
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"200\r\n" + jpeg(1)[:300])


def is_silent(handler: Handler) -> None:
    handler.server.over.wait()


def is_silent_in_the_body(handler: Handler) -> None:
    handler.send(200, jpeg(1)[:300], length=len(jpeg(1)))
    handler.wfile.flush()
    handler.server.over.wait()


def sends_a_page(handler: Handler) -> None:
    handler.send(200, b"<html>Please sign in</html>", Content_Type="text/html")


def sends_nothing(handler: Handler) -> None:
    handler.send(200, b"")


def speaks_no_http(handler: Handler) -> None:
    handler.wfile.write(b"\0\1\2\3 what?\r\n\r\n")
    handler.close_connection = True


PASSING = {
    "500": fails(500),
    "502": fails(502),
    "503 with Retry-After": fails(503, Retry_After="3"),
    "429 with a date": fails(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429 with nonsense": fails(429, Retry_After="soon"),
    "a reset": resets,
    "a body cut short": truncates,
    "a body cut short without a length": truncates_without_a_length,
    "a chunk cut short": truncates_a_chunk,
    "silence": is_silent,
    "silence in the body": is_silent_in_the_body,
    "a page": sends_a_page,
    "nothing": sends_nothing,
    "no HTTP": speaks_no_http,
}
FAST = Limits(read_seconds=0.3)


@pytest.mark.parametrize("kind", PASSING)
def test_what_may_pass_is_asked_for_again_until_it_is_whole(server, tmp_path, kind):
    server.photos = {name(1): jpeg(1), name(2): jpeg(2)}
    server.faults[name(2)].extend([PASSING[kind]] * 3)
    report = fetch(tmp_path, [name(1), name(2)], limits=FAST)
    assert (report.fetched, report.missing, report.failed) == (2, (), ())
    assert on_disk(tmp_path) == server.photos
    assert server.asked.count(name(2)) == 4


@pytest.mark.parametrize("kind", PASSING)
def test_what_does_not_pass_is_listed_and_asked_for_next_time(server, tmp_path, kind):
    server.photos = {name(1): jpeg(1), name(2): jpeg(2)}
    server.faults[name(2)].extend([PASSING[kind]] * 3)
    limits = Limits(read_seconds=0.3, tries=3)
    report = fetch(tmp_path, [name(1), name(2)], limits=limits)
    assert (report.fetched, report.missing) == (1, ())
    ((failed, reason),) = report.failed
    assert failed == "train/0000000000000002.jpg"
    assert reason
    assert "\n" not in reason
    assert set(on_disk(tmp_path)) == {name(1)}
    assert not (tmp_path / "missing.jsonl").exists()
    again = fetch(tmp_path, [name(1), name(2)], limits=limits)
    assert (again.had, again.fetched, again.failed) == (1, 1, ())
    assert on_disk(tmp_path) == server.photos
    assert server.asked.count(name(1)) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_the_server_does_not_have_is_remembered(server, tmp_path, status):
    server.photos = {name(1): jpeg(1)}
    server.faults[name(2)].append(fails(status))
    ids = [name(1), name(2)]
    for _ in range(3):
        report = fetch(tmp_path, ids)
        assert report.missing == ("train/0000000000000002.jpg",)
        assert report.failed == ()
    assert server.asked.count(name(2)) == 1
    (line,) = report.missing_list.read_text().splitlines()
    entry = json.loads(line)
    assert entry["reason"].startswith(f"HTTP {status}")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
    report.missing_list.unlink()
    server.photos[name(2)] = jpeg(2)
    assert fetch(tmp_path, ids).missing == ()
    assert on_disk(tmp_path) == server.photos


def test_a_list_of_missing_photos_that_was_cut_short_is_gone_on_with(server, tmp_path):
    server.photos = {name(1): jpeg(1)}
    ids = [name(k) for k in range(1, 5)]
    path = fetch(tmp_path, ids[:3]).missing_list
    path.write_text(path.read_text()[:-20])
    report = fetch(tmp_path, ids)
    assert sorted(report.missing) == [f"{absent}.jpg" for absent in ids[1:]]
    server.asked.clear()
    assert fetch(tmp_path, ids).missing == report.missing
    assert server.asked == []


def test_what_one_server_does_not_have_is_asked_of_another(server, tmp_path):
    server.photos = {name(1): jpeg(1)}
    assert fetch(tmp_path, [name(1), name(2)]).missing
    server.photos[f"mirror/{name(2)}"] = jpeg(2)
    report = fetch(tmp_path, [name(1), name(2)], address=f"{server.address}/mirror/")
    assert (report.had, report.fetched, report.missing) == (1, 1, ())


def test_an_address_that_has_none_of_the_photos_is_not_believed(server, tmp_path):
    ids = [name(k) for k in range(200)]
    with pytest.raises(UserError, match=r"first 20 files are not there .*HTTP 404.*address"):
        fetch(tmp_path, ids)
    assert not (tmp_path / "missing.jsonl").exists()
    assert len(server.asked) < 40
    server.photos = {one: jpeg(0) for one in ids}
    assert fetch(tmp_path, ids).fetched == 200


@pytest.mark.parametrize(
    ("wish", "low", "high"), [("7", 7, 8), ("100000", 120, 121), ("0", 0, 1), ("-1", 0, 1)]
)
def test_the_servers_wish_to_wait_is_followed_within_bounds(server, tmp_path, wish, low, high):
    server.photos = {name(1): jpeg(1)}
    server.faults[name(1)].append(fails(503, Retry_After=wish))
    waits: list[float] = []
    fetch(tmp_path, [name(1)], sleep=waits.append)
    (wait,) = waits
    assert low <= wait <= high


def test_waits_are_drawn_from_spans_that_double_up_to_the_longest(server, tmp_path):
    ids = [name(k) for k in range(40)]
    server.photos = {one: jpeg(0) for one in ids}
    for one in ids[1:]:
        server.faults[one].extend([fails(500)] * 5)
    waits: list[float] = []
    limits = Limits(first_wait=1.0, longest_wait=4.0)
    fetch(tmp_path, ids, sleep=waits.append, parallel=1, limits=limits)
    by_try = np.reshape(waits, (39, 5))  # one thread: the waits of a photo follow each other
    assert np.all(by_try <= [1, 2, 4, 4, 4])
    assert np.all(by_try.max(0) > np.array([1, 2, 4, 4, 4]) / 2)
    assert len(set(waits)) == len(waits)


@pytest.mark.parametrize("stated", [True, False])
def test_a_photo_beyond_the_limit_is_not_read_to_its_end(server, tmp_path, stated):
    def endless(handler: Handler) -> None:
        handler.close_connection = True
        handler.send_response(200)
        if stated:
            handler.send_header("Content-Length", str(2**40))
        handler.end_headers()
        while True:  # ends when the client closes the connection
            handler.wfile.write(bytes(2**16))

    server.photos = {name(1): jpeg(1)}
    server.faults[name(2)].append(endless)
    report = fetch(tmp_path, [name(1), name(2)], limits=Limits(max_bytes=2**20))
    assert ("it has 1,099,511,627,776 bytes" if stated else "more bytes") in report.failed[0][1]
    assert server.asked.count(name(2)) == 1


def test_bytes_that_drip_forever_are_given_up(server, tmp_path):
    def drips(handler: Handler) -> None:
        handler.send(200, b"", length=2**20)
        while not handler.server.over.wait(0.01):
            handler.wfile.write(b"x")

    server.photos = {name(1): jpeg(1)}
    server.faults[name(2)].extend([drips] * 2)
    limits = Limits(total_seconds=0.2, tries=2)
    report = fetch(tmp_path, [name(1), name(2)], limits=limits)
    assert "not whole after" in report.failed[0][1]


def test_the_content_decides_not_what_the_server_calls_it(server, tmp_path):
    server.faults[name(1)].append(lambda h: h.send(200, jpeg(1), Content_Type="text/html"))
    assert fetch(tmp_path, [name(1)]).fetched == 1
    assert on_disk(tmp_path) == {name(1): jpeg(1)}


def test_an_endless_redirection_is_not_followed(server, tmp_path):
    server.photos = {name(1): jpeg(1)}
    server.faults[name(2)].extend([fails(302, Location=f"/{name(2)}.jpg")] * 50)
    report = fetch(tmp_path, [name(1), name(2)])
    assert "redirected without end" in report.failed[0][1]
    assert server.asked.count(name(2)) == 6


def test_a_server_that_nobody_answers_at_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError) as caught:
        fetch(tmp_path, [name(k) for k in range(1000)], address="http://127.0.0.1:1/photos/")
    text = str(caught.value)
    for part in ("http://127.0.0.1:1/photos/train/", open_images.VARIABLE, "manual_dir=DIR"):
        assert part in text
    assert "\n" not in text
    assert on_disk(tmp_path) == {}


def test_a_network_that_goes_away_ends_the_download(server, tmp_path):
    ids = [name(k) for k in range(500)]
    server.photos = {one: jpeg(0) for one in ids[:50]}
    for one in ids[50:]:
        server.faults[one].extend([resets] * 9)
    with pytest.raises(UserError, match=r"last 100 files .* 50 came before.*goes on where it was"):
        fetch(tmp_path, ids, limits=Limits(tries=2))
    assert len(on_disk(tmp_path)) == 50


@pytest.mark.parametrize(
    "bad",
    [
        *("train/../../../etc/passwd", "/etc/passwd", "train/0123456789ABCDEF", "dev/" + "0" * 16),
        *("train/" + "0" * 15, "train/" + "0" * 17, "train/" + "0" * 16 + "\n", "", "train/"),
        "train/" + "\u0660" * 16,
    ],
)
def test_an_id_that_is_none_becomes_neither_path_nor_address(server, tmp_path, bad):
    with pytest.raises(UserError, match="is no id of a photo"):
        fetch(tmp_path / "d", [name(1), bad])
    assert server.asked == []
    assert not (tmp_path / "d").exists()
    server.photos = {name(1): jpeg(1)}
    found = read(photo_origin([bad, name(1)], tmp_path), tmp_path / "d")
    assert isinstance(found.pop(bad), BadRecordError)
    assert found == server.photos
    assert server.asked == [name(1)]


@pytest.mark.parametrize("address", ["file:///etc", "photos", "https://", "ftp://example.org/"])
def test_an_address_that_is_none_is_refused(tmp_path, address):
    with pytest.raises(UserError, match="is no address of photos"):
        fetch(tmp_path, [name(1)], address=address)


def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing_half(server, tmp_path, monkeypatch):
    server.photos = {name(k): jpeg(k) for k in range(30)}
    whole, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 5:
            raise OSError(28, "No space left on device")
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        fetch(tmp_path, list(server.photos), parallel=1)
    found = on_disk(tmp_path)
    assert len(found) == 5
    assert found.items() <= server.photos.items()


def test_a_folder_that_cannot_be_made_is_one_sentence(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \((Not a directory|File exists)"):
        fetch(tmp_path / "file" / "photos", [name(1)])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train").write_text("")
    server.photos = {name(1): jpeg(1)}
    with pytest.raises(UserError, match="cannot be written"):
        fetch(tmp_path / "d", [name(1)])


def test_a_folder_elsewhere_is_refused(server):
    with pytest.raises(UserError, match="folder on this machine"):
        fetch_photos([name(1)], "gs://bucket/photos")


FETCH = """if True:
    import signal
    import sys
    # A test run in the background of a shell leaves Ctrl-C ignored to its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from tfds_builders.fetching import Limits
    from tfds_builders.photochat.open_images import fetch_photos
    limits = Limits(read_seconds=600, total_seconds=600)
    wait = {"sleep": lambda seconds: None} if sys.argv[2] == "hasty" else {}
    print(fetch_photos(sys.argv[3:], sys.argv[1], parallel=4, limits=limits, **wait))
"""


def start(folder: Path, ids: list[str], pace: str = "hasty") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(folder), pace, *ids],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kills", [(17,), (1, 20, 41)])
def test_killed_and_restarted_every_photo_that_can_be_had_comes_once(server, tmp_path, kills):
    ids = [name(k, split) for split in ("train", "test") for k in range(30)]
    absent = {name(3), name(4, "test")}
    server.photos = {one: jpeg(k) for k, one in enumerate(ids) if one not in absent}
    for k, one in enumerate(ids):  # every third photo fails first
        server.faults[one].extend(([], [], [fails(503), truncates])[k % 3])
    served = 0
    running: list[subprocess.Popen] = []
    whole_send = Handler.send
    left = list(kills)

    def send(handler: Handler, *args: Any, **options: Any) -> None:
        nonlocal served
        with server.lock:
            served += 1
            if left and served >= left[0]:
                left.pop(0)
                running[-1].send_signal(signal.SIGKILL)
        whole_send(handler, *args, **options)

    server.RequestHandlerClass = type("Killer", (Handler,), {"send": send})
    for _ in kills:
        whole = set(on_disk(tmp_path)) & set(ids)
        with server.lock:
            before = len(server.asked)
            running.append(start(tmp_path, ids))
        running[-1].communicate(timeout=120)
        assert running[-1].returncode == -9
        assert not whole & set(server.asked[before:])
    whole = set(on_disk(tmp_path)) & set(ids)
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / "0000000000000007.jpg.1-2.part").write_bytes(b"half")
    before = len(server.asked)
    report = fetch(tmp_path, ids)
    assert report.had == len(whole) > 0
    assert report.failed == ()
    assert {one.removesuffix(".jpg") for one in report.missing} == absent
    assert on_disk(tmp_path) == server.photos
    assert not whole & set(server.asked[before:])


@pytest.mark.parametrize("waits_for", ["an answer", "another try"])
def test_ctrl_c_does_not_wait_for_the_server(server, tmp_path, waits_for):
    ids = [name(k) for k in range(6)]
    server.photos = {one: jpeg(0) for one in ids[:1]}
    everyone_waits = threading.Barrier(5)

    def waits(handler: Handler) -> None:
        if waits_for == "another try":
            handler.send(503, b"", Retry_After="90")
        everyone_waits.wait(60)
        if waits_for == "an answer":
            handler.server.over.wait()

    for one in ids[1:]:
        server.faults[one].append(waits)
    process = start(tmp_path, ids, pace="patient")
    everyone_waits.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=45)
    assert "KeyboardInterrupt" in errors
    assert set(on_disk(tmp_path)) == {ids[0]}


def test_two_processes_do_not_fetch_a_photo_twice(server, tmp_path):
    ids = [name(k) for k in range(20)]
    server.photos = {one: jpeg(k) for k, one in enumerate(ids)}
    processes = [start(tmp_path, ids) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert sorted(server.asked) == ids, outputs
    assert on_disk(tmp_path) == server.photos
    fetched = sorted(re.search(r"(\d+) fetched", output)[1] for output, _ in outputs)
    assert fetched == ["0", "20"]


def read(origin: Any, folder: Path) -> dict[str, Any]:
    found = list(origin.read(epath.Path(folder)))
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


def test_the_origin_gives_each_photo_once_and_leaves_the_missing_out(server, tmp_path):
    server.photos = {name(1): jpeg(1), name(2, "validation"): jpeg(2)}
    ids = [name(1), name(3), name(2, "validation"), name(1)]
    origin = photo_origin(ids, tmp_path)
    assert read(origin, tmp_path / "d") == server.photos
    assert read(origin, tmp_path / "d") == server.photos
    assert len(server.asked) == 3


def test_the_users_own_photos_come_first(server, tmp_path):
    own = tmp_path / "mine" / "photos" / "train"
    own.mkdir(parents=True)
    (own / "0000000000000001.jpg").write_bytes(jpeg(10))
    (own / "not one of them.jpg").write_bytes(b"")
    server.photos = {name(1): jpeg(1), name(2): jpeg(2)}
    origin = photo_origin(list(server.photos), tmp_path / "mine")
    assert read(origin, tmp_path / "d") == {name(1): jpeg(10), name(2): jpeg(2)}
    assert server.asked == [name(2)]


def test_the_digest_names_the_ids_and_the_users_own_files(server, tmp_path):
    own = tmp_path / "photos" / "train"
    plain = photo_origin([name(1), name(2)], tmp_path)
    assert plain.digest == photo_origin([name(2), name(1), name(2)], tmp_path).digest
    assert plain.digest != photo_origin([name(1)], tmp_path).digest
    own.mkdir(parents=True)
    digests = {plain.digest}
    for content in (jpeg(1), jpeg(2)):
        (own / "0000000000000001.jpg").write_bytes(content)
        digests.add(photo_origin([name(1), name(2)], tmp_path).digest)
    assert len(digests) == 3
    (own / "0000000000000009.jpg").write_bytes(jpeg(9))
    assert photo_origin([name(1), name(2)], tmp_path).digest in digests


def test_photos_that_failed_come_first_and_as_bad_records(server, tmp_path):
    server.photos = {name(k): jpeg(k) for k in range(5)}
    for k in (2, 3):
        server.faults[name(k)].extend([fails(503)] * 6)
    origin = photo_origin(list(server.photos), tmp_path, sleep=lambda seconds: None)
    found = list(origin.read(epath.Path(tmp_path / "d")))
    bad = [item for _, item in found[:2]]
    assert all(isinstance(item, BadRecordError) for item in bad)
    assert "HTTP 503" in str(bad[0])
    assert "one of 2; the same command" in str(bad[0])
    assert dict(found[2:]) == {name(k): jpeg(k) for k in (0, 1, 4)}
