"""A share that does not answer stops its own files and nothing else: at the start, in the middle, over a reload, for the
commands. It is a FUSE file system whose server is stopped."""
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import dicom
from ferry import ferries  # noqa: F401
from stamp import stamp, wait_delivered  # noqa: F401
from test_ferry import assert_all_held


def may_hang(ferry):
    """The leak sanitizer would wait for threads that hang in the kernel."""
    ferry.environment["ASAN_OPTIONS"] = ferry.environment.get("ASAN_OPTIONS", "") + ":detect_leaks=0"


def present(ferry):
    return [w["present"] for w in ferry.status()["drop_folders"]]


@pytest.fixture
def mirror(tmp_path):
    """A folder, its FUSE mirror, and the process that serves it."""
    pytest.importorskip("fusepy", reason="python3-fusepy is not installed")
    folder, mount = tmp_path / "behind", tmp_path / "mounted"
    folder.mkdir()
    mount.mkdir()
    server = subprocess.Popen([sys.executable, pathlib.Path(__file__).parent / "fuse_mirror.py", folder, mount],
                              stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not os.path.ismount(mount) and time.monotonic() < deadline and server.poll() is None:
        time.sleep(0.02)
    if server.poll() is not None:
        pytest.skip(f"FUSE cannot be mounted here: {server.stderr.read()[-300:]}")
    yield folder, mount, server
    server.send_signal(signal.SIGCONT)
    subprocess.run(["umount", "-l", mount], check=True)
    server.terminate()
    server.wait(20)


def test_a_source_that_hangs_stops_nothing_else(sandbox, ferries, stamp, mirror):
    folder, mount, server = mirror
    ferry = ferries({"cloud": sandbox.url}, watch=[{}, {"path": str(mount), "poll_interval": "200ms", "settle": "200ms"}],
                    top="shutdown_timeout: 1s", log_level="notice")
    may_hang(ferry)
    ferry.start()
    for i in range(5):
        stamp.write(folder / f"{i}.dcm")
    wait_delivered(ferry, 5)
    server.send_signal(signal.SIGSTOP)
    for i in range(5, 10):
        stamp.write(folder / f"{i}.dcm")
    time.sleep(1)  # long enough for the poll to run into it
    for i in range(20):
        stamp.write(ferry.inbox / f"{i}.dcm")
    wait_delivered(ferry, 25, 20)
    begin = time.monotonic()
    code = ferry.stop(40)
    took = time.monotonic() - begin
    assert code in (0, 1) and took < 15, (code, took)  # shutdown_timeout, and ten seconds' grace
    server.send_signal(signal.SIGCONT)
    ferry.start()
    wait_delivered(ferry, 30)
    assert_all_held(ferry, sandbox)


def test_a_source_that_hangs_from_the_start(sandbox, ferries, stamp, mirror):
    """The daemon starts, reloads and runs without it; the checks end and name it; it is taken up when it answers."""
    folder, mount, server = mirror
    watch = [{}, {"path": str(mount), "poll_interval": "200ms", "settle": "200ms", "custody": "rename"}]
    ferry = ferries({"cloud": sandbox.url}, watch=watch, top="shutdown_timeout: 1s", log_level="notice")
    may_hang(ferry)
    stamp.write(folder / "behind.dcm")
    stamp.write(ferry.inbox / "first.dcm")
    server.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    ferry.start()
    wait_delivered(ferry, 1, 30)
    ferry.wait(lambda: present(ferry) == [True, False], 20, "the share to be told of as gone")
    for command, code in (([ferry.daemon, "--config", ferry.config, "--check"], 2),
                          ([ferry.command, "--config", ferry.config, "check", "--user", "root"], 1)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ferry.environment)
        text = done.stdout + done.stderr
        assert done.returncode == code and f"{mount} does not answer" in text, text
        assert f"{ferry.inbox} does not answer" not in text and "Sanitizer" not in text, text
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: "the new configuration is in force" in ferry.log(), 40, "the reload")
    stamp.write(ferry.inbox / "second.dcm")
    wait_delivered(ferry, 2, 30)
    ferry.wait(lambda: present(ferry) == [True, False], 20, "the share to be told of as gone")
    # Once a run, for the folder and for the custody folder in it.
    assert ferry.log().count("is gone or does not answer") == 4, ferry.log()
    server.send_signal(signal.SIGCONT)
    wait_delivered(ferry, 3, 40)
    assert present(ferry) == [True, True]
    print(f"{time.monotonic() - begin:.1f} s")


def test_no_reload_while_a_file_hangs(sandbox, ferries, stamp, mirror):
    """To close the old configuration would take until the share answers: it is refused, and all goes on."""
    folder, mount, server = mirror
    ferry = ferries({"cloud": {"router": sandbox.url, "rate_limit": "2MB/s"}},
                    watch=[{}, {"path": str(mount), "poll_interval": "200ms", "settle": "200ms"}], log_level="notice")
    may_hang(ferry)
    dicom.write(folder / "large.dcm", size=40_000_000)
    ferry.start()
    ferry.wait(lambda: ferry.status()["deliveries"]["sending"] == 1, 30, "the large file to be under way")
    server.send_signal(signal.SIGSTOP)
    ferry.wait(lambda: present(ferry) == [True, False], 40, "the share to be told of as gone")
    answer = ferry.ask("reload")
    assert not answer["ok"] and "does not answer" in answer["text"], answer
    stamp.write(ferry.inbox / "other.dcm")
    wait_delivered(ferry, 1, 60)
    server.send_signal(signal.SIGCONT)
    wait_delivered(ferry, 2, 90)
    assert ferry.ask("reload")["ok"]


def test_the_files_of_others_are_looked_for(sandbox, ferries, stamp, mirror):
    """What left a drop folder undelivered is an alarm, also while a share with files that the journal knows hangs."""
    folder, mount, server = mirror
    ferry = ferries({"cloud": sandbox.url}, watch=[{"rescan": "1s"}, {"path": str(mount), "poll_interval": "100ms"}],
                    routes=[{"name": "mr", "match": {"Modality": "MR"}, "to": "cloud"}], top="shutdown_timeout: 1s",
                    log_level="notice")
    may_hang(ferry)
    stamp.write(folder / "behind.dcm")
    stamp.write(ferry.inbox / "here.dcm")
    ferry.start()
    ferry.wait(lambda: ferry.status()["files"]["held"] == 2, 30, "both to be held")
    server.send_signal(signal.SIGSTOP)
    ferry.wait(lambda: present(ferry) == [True, False], 30, "the share to be told of as gone")
    (ferry.inbox / "here.dcm").unlink()
    ferry.wait(lambda: ferry.status()["files"]["vanished"] == 1, 60, "the alarm")
    server.send_signal(signal.SIGCONT)
    ferry.wait(lambda: present(ferry) == [True, True], 30, "the share")
    assert ferry.status()["files"]["held"] == 1
