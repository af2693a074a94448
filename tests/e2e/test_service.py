"""What a service manager and the log are told: sd_notify(3) and the lines of progress."""
import json
import signal
import socket
import threading
import time

import pytest
from pydicom.uid import generate_uid

import dicom
from ferry import ferries  # noqa: F401


class Manager:
    """Listens where a service manager would."""

    def __init__(self, path):
        self.path, self.messages = str(path), []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while True:
            try:
                text = self.socket.recv(65536).decode()
            except OSError:
                return
            if text == "end":
                return
            self.messages += [(time.monotonic(), line) for line in text.splitlines()]

    def lines(self, start):
        return [line for _, line in self.messages if line.startswith(start)]

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"end", self.path)
        self.thread.join(10)
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.close()


def states(manager):
    """The turns of the service's life, without what is said in between."""
    return [line for _, line in manager.messages if line in ("READY=1", "RELOADING=1", "STOPPING=1")]


def messages(ferry, text):
    return [line for line in map(json.loads, ferry.log().splitlines()) if line.get("message") == text]


def test_the_service_manager_is_told(sandbox, ferries, manager, build):
    if b"libsystemd" not in (build / "daemon/dcmferryd/dcmferryd").read_bytes():
        pytest.skip("built without libsystemd")
    ferry = ferries({"cloud": sandbox.url})
    ferry.environment.update(NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="1000000")
    ferry.start()
    ferry.wait(lambda: states(manager) == ["READY=1"], 20, "READY")
    assert manager.lines("STATUS=")
    ferry.wait(lambda: len(manager.lines("WATCHDOG=1")) >= 4, 20, "the watchdog to be fed")
    fed = [at for at, line in manager.messages if line == "WATCHDOG=1"]
    assert fed[3] - fed[0] > 1  # twice as often as asked, no more
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: states(manager) == ["READY=1", "RELOADING=1", "READY=1"], 20, "the reload")
    stamp, = (int(line.split("=")[1]) / 1e6 for line in manager.lines("MONOTONIC_USEC="))
    assert begin <= stamp <= time.clock_gettime(time.CLOCK_MONOTONIC)
    ferry.config.write_text("state: [\n")
    ferry.process.send_signal(signal.SIGHUP)  # also a reload that is refused has its end
    ferry.wait(lambda: states(manager)[3:] == ["RELOADING=1", "READY=1"], 20, "the refused reload")
    assert ferry.stop() == 0
    assert states(manager)[5:] == ["STOPPING=1"]


def test_the_log_tells_progress(sandbox, ferries, manager):
    """In all every 10 s while there is work, with what is left, how old it is and why; a line for each study."""
    studies = [generate_uid(), generate_uid()]
    sandbox.faults("refuse-auth")
    ferry = ferries({"cloud": sandbox.url}, log_level="info")
    ferry.environment["NOTIFY_SOCKET"] = manager.path
    ferry.start()
    for i in range(12):
        dicom.write(ferry.inbox / f"{i}.dcm", studies[i % 2], size=10_000)
    ferry.wait(lambda: len(messages(ferry, "progress")) >= 2, 40, "progress to be told twice")
    for line in messages(ferry, "progress")[-1:]:
        assert (line["delivered"], line["open"]) == (0, 12) and line["oldest_seconds"] >= 5, line
        assert "cloud" in line["why"] and line["open_size"] and line["rate"], line
    first, second = (line["time"] for line in messages(ferry, "progress")[:2])
    assert first != second
    sandbox.faults()
    ferry.ask("retry", "--destination", "cloud")
    ferry.wait(lambda: len(messages(ferry, "study delivered")) == 2, 40, "both studies to be told")
    for line in messages(ferry, "study delivered"):
        assert line["study"] in studies and line["files"] == 6 and line["destination"] == "cloud" and line["size"], line
    ferry.wait(lambda: messages(ferry, "progress")[-1]["delivered"] == 12, 30, "the last progress")
    assert messages(ferry, "progress")[-1]["open"] == 0 and "why" not in messages(ferry, "progress")[-1]
    if manager.messages:  # built with libsystemd
        assert any("12 files delivered" in line for line in manager.lines("STATUS=")), manager.lines("STATUS=")
    assert not messages(ferry, "delivery settled")  # those are for level debug
