"""What happens at the edges of the daemon's life: ends, reloads and crashes in the middle of things, custody, retention."""

import os
import pathlib
import signal
import sqlite3
import subprocess
import threading
import time

import pytest
from pydicom.uid import generate_uid

import dicom
from ferry import Gone, ferries  # noqa: F401
from test_disk import fill, small_disks  # noqa: F401
from test_ferry import assert_all_held, sha256


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_status_is_answered_while_the_daemon_ends(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, top="shutdown_timeout: 5s").start()
    sandbox.faults("answer-late=3000:on=part")
    for i in range(8):
        dicom.write(ferry.inbox / f"{i}.dcm")
    ferry.wait(lambda: any(d["in_flight"] for d in ferry.status()["destinations"]), 30, "an upload")
    ferry.process.send_signal(signal.SIGTERM)
    answers = 0
    while ferry.running():
        try:
            answers += "version" in ferry.ask("status")
        except Gone:
            pass
    assert ferry.process.returncode == 0 and answers > 0
    ferry.process = None
    sandbox.faults()
    ferry.start().wait_settled(8)
    assert_all_held(ferry, sandbox, receipts=0)


def test_reloads_under_load(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, top="shutdown_timeout: 2s").start()
    for i in range(150):
        dicom.write(ferry.inbox / f"d{i % 7}" / f"{i}.dcm", size=20_000)
        if i % 30 == 10:
            assert ferry.ask("reload")["ok"]
    ferry.wait_settled(150)
    assert_all_held(ferry, sandbox, receipts=0)
    assert len(sandbox.held()) == 150


def test_the_end_with_a_full_disk(sandbox, ferries, small_disks):
    """A verdict that cannot be written does not hold the end up, nor is it lost: the next start asks."""
    ferry = ferries({"cloud": sandbox.url}, top="shutdown_timeout: 30s")
    state = small_disks(ferry.state, 4096)
    ferry.start()
    sandbox.faults("answer-late=1500:on=part")
    dicom.write(ferry.inbox / "a.dcm")
    ferry.wait(lambda: any(d["in_flight"] for d in ferry.status()["destinations"]), 30, "the upload")
    filler = fill(state)
    process, ferry.process = ferry.process, None

    def keep_full():  # the journal makes room of its own where it can
        while process.poll() is None:
            fill(state)
            time.sleep(0.005)

    thread = threading.Thread(target=keep_full)
    thread.start()
    try:
        ferry.wait(lambda: "local trouble" in ferry.log(), 30, "the trouble")
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        code = process.wait(45)
        took = time.monotonic() - begun
    finally:
        process.kill()
        thread.join()
    assert code == 0, ferry.log()[-3000:]
    assert took < 25 and "the end takes too long" not in ferry.log(), (took, ferry.log()[-3000:])
    filler.unlink()
    sandbox.faults()
    ferry.start().wait_settled(1)
    assert ferry.fates() == {"a.dcm": "delivered"}
    assert_all_held(ferry, sandbox, receipts=0)


def test_a_signal_during_a_reload_is_not_lost(sandbox, ferries):
    """The first reload has read the file already and waits for what is in flight."""
    ferry = ferries({"cloud": sandbox.url}, top="shutdown_timeout: 20s").start()
    sandbox.faults("answer-late=2000:on=part")
    dicom.write(ferry.inbox / "a.dcm")
    ferry.wait(lambda: any(d["in_flight"] for d in ferry.status()["destinations"]), 30, "an upload")
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: "reloading the configuration" in ferry.log(), 10, "the reload")
    time.sleep(0.3)
    ferry.write_config({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "New"}])
    ferry.process.send_signal(signal.SIGHUP)
    ferry.wait(lambda: ferry.log().count("the new configuration is in force") == 2, 30, "both reloads")
    sandbox.faults()
    dicom.write(ferry.inbox / "b.dcm")
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "delivered", "b.dcm": "delivered"}, 30, "both deliveries")
    assert ferry.by_name()["b.dcm"]["deliveries"][0]["folder"] == "New"


def wakeups(pid):
    """Of the loop's thread."""
    status = pathlib.Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


def test_a_journal_that_cannot_be_rebuilt_yet_costs_nothing(sandbox, ferries):
    """What is still in the folders decides when it is; nobody asks four times a second until then."""
    ferry = ferries({"cloud": sandbox.url}, watch={"settle": "10m", "settle_timeout": "20m"}).start()
    assert ferry.stop() == 0
    (ferry.state / "journal.db").write_bytes(b"\x5a" * 8192)
    dicom.write(ferry.inbox / "a.dcm")
    ferry.start()
    assert "the journal was damaged" in ferry.log()
    ferry.wait(lambda: "drop folder scanned" in ferry.log(), 30, "the scan")
    time.sleep(2)
    before = wakeups(ferry.process.pid)
    time.sleep(5)
    assert wakeups(ferry.process.pid) - before <= 6
    assert "the journal is rebuilt" not in ferry.log()


def test_what_is_given_up_is_kept_and_has_its_time_again(sandboxes, ferries):
    """give_up_after counts from when a delivery was queued, or asked for by the operator."""
    cloud = sandboxes()
    cloud.kill()
    ferry = ferries({"cloud": {"router": cloud.url, "give_up_after": "1h", "retry": {"min": "100ms", "max": "1s"}}},
                    watch={"after_upload": "delete"}).start()
    for i in range(5):
        dicom.write(ferry.inbox / f"{i}.dcm")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 5, 30, "them to be queued")
    time.sleep(2)
    assert ferry.status()["deliveries"]["failed"] == 0
    ferry.stop()
    with sqlite3.connect(ferry.state / "journal.db") as journal:
        journal.execute("UPDATE delivery SET created_ms = created_ms - 3600000")
    journal.close()
    ferry.start()
    ferry.wait(lambda: set(ferry.fates().values()) == {"failed"}, 60, "them to be given up")
    assert all(f["deliveries"][0]["reason"] for f in ferry.files())
    assert len(list(ferry.inbox.glob("*.dcm"))) == 5
    ferry.ask("retry", "--all")
    time.sleep(2)  # it is dead still
    assert ferry.status()["deliveries"]["failed"] == 0
    cloud.start()
    ferry.ask("retry", "--destination", "cloud")
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 5, 60, "them to be delivered after all")


def test_what_a_crash_left_in_custody_is_found(sandbox, ferries):
    """Also under a number that `include` does not match, and without rescans, which cost nothing then."""
    ferry = ferries({"cloud": sandbox.url}, watch={"custody": "rename", "include": ["*.dcm"], "rescan": "off"})
    dicom.write(ferry.inbox / ".dcmferry/sub/a.dcm~1")
    dicom.write(ferry.inbox / ".dcmferry/sub/a.dcm")
    ferry.start().wait_settled(2)
    assert sorted(ferry.fates().values()) == ["delivered", "delivered"]
    dicom.write(ferry.inbox / "sub/a.dcm")
    ferry.wait_settled(3)
    ferry.wait(lambda: len(sandbox.held()) == 3, 20, "the third")
    assert (ferry.inbox / ".dcmferry/sub/a.dcm~2").exists() and not (ferry.inbox / "sub/a.dcm").exists()
    time.sleep(7)  # the last progress line
    before = cpu_seconds(ferry.process.pid)
    time.sleep(2)
    assert cpu_seconds(ferry.process.pid) - before < 0.2


def test_custody_waits_for_a_slow_writer(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"custody": "rename", "settle_timeout": "60s"}).start()
    whole = ferry.root / "whole.dcm"
    dicom.write(whole, size=100_000)
    data = whole.read_bytes()
    target = ferry.inbox / "slow.dcm"
    for start, end in ((0, 300), (300, 50_000), (50_000, len(data))):  # opened by its name each time
        with open(target, "ab") as f:
            f.write(data[start:end])
        time.sleep(1.2)
    ferry.wait(lambda: [f["state"] for f in ferry.files()] == ["delivered"], 30, "the whole file")
    assert {sha for _, sha in sandbox.held()} == {sha256(whole)}


def test_custody_of_rewritten_and_equal_names(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"custody": "rename", "after_upload": "delete"}).start()
    for i in range(30):
        dicom.write(ferry.inbox / "same.dcm", seed=i)
        time.sleep(0.02 * (i % 4))
    ferry.wait(lambda: not [p for p in ferry.inbox.rglob("*") if p.is_file()], 60, "all to go")
    ferry.wait_settled(1)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 0, 20, "the journal to know")
    states = {f["state"] for f in ferry.files()}
    assert states <= {"disposed", "vanished"}, states
    assert len(sandbox.held()) == sum(f["state"] == "disposed" for f in ferry.files())


def test_many_held_files_are_routed_in_windows(sandbox, ferries):
    mr = [{"name": "mr", "match": {"Modality": "MR"}, "to": "cloud"}]
    ferry = ferries({"cloud": sandbox.url}, routes=mr).start()
    for i in range(200):
        dicom.write(ferry.inbox / f"{i}.dcm", size=1000)
    ferry.wait(lambda: ferry.status()["files"]["held"] == 200, 60, "all to be held")
    said = ferry.log().count('"held"')
    assert ferry.ask("reload")["ok"]
    ferry.wait(lambda: ferry.status()["reading"] == 0, 30, "them to be looked at again")
    assert ferry.log().count('"held"') == said  # not told, nor written, once more
    ferry.write_config({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "New"}])
    assert ferry.ask("reload")["ok"]
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 200, 60, "all to be delivered")


def test_study_and_series_are_bound_for_good(sandboxes, ferries):
    """One file may bind both (`all: true`); a restart remembers both."""
    near, far = sandboxes(), sandboxes()
    routes = [{"name": "series", "match": {"SeriesDescription": "first"}, "scope": "series", "to": "near", "folder": "S",
               "all": True},
              {"name": "study", "match": {"Modality": "CT"}, "to": "far", "folder": "T"}]
    ferry = ferries({"near": near.url, "far": far.url}, routes=routes).start()
    study, series = generate_uid(), generate_uid()
    dicom.write(ferry.inbox / "a.dcm", study, series, SeriesDescription="first")
    ferry.wait_settled(1)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 1, 30, "the first")
    ferry.stop()
    ferry.start()
    dicom.write(ferry.inbox / "b.dcm", study, series, modality="OT", SeriesDescription="other")
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 2, 30, "the second")
    assert len(near.held()) == len(far.held()) == 2


def test_a_binding_to_routes_that_are_gone_is_made_anew(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, routes=[{"name": "old", "to": "cloud", "folder": "Old"}]).start()
    study = generate_uid()
    dicom.write(ferry.inbox / "a.dcm", study)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 1, 30, "the first")
    ferry.write_config({"cloud": sandbox.url}, routes=[
        {"name": "ct", "match": {"Modality": "CT"}, "to": "cloud", "folder": "CT"},
        {"name": "rest", "to": "cloud", "folder": "Rest"}])
    assert ferry.ask("reload")["ok"]
    dicom.write(ferry.inbox / "b.dcm", study)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 2, 30, "the second")
    dicom.write(ferry.inbox / "c.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 3, 30, "the report")
    ferry.stop()
    ferry.start()
    dicom.write(ferry.inbox / "d.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 4, 30, "the second report")
    folders = [f["deliveries"][0]["folder"] for f in ferry.files()]
    assert folders == ["CT", "CT", "CT", "Old"]  # the newest first


def test_retention_removes_only_what_we_moved(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    sent = ferry.root / "sent"
    sent.mkdir()
    watch = {"after_upload": {"move": str(sent)}}
    ferry.write_config({"cloud": sandbox.url}, watch=dict(watch, retention="1h"))
    ferry.start()
    for i in range(4):
        dicom.write(ferry.inbox / f"{i}.dcm")
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 4, 30, "the files to be moved")
    dicom.write(sent / "foreign.dcm")
    (sent / "1.dcm").write_bytes(b"another one now")
    (sent / "2.dcm").unlink()
    assert ferry.ask("reload")["ok"]
    time.sleep(1)
    assert (sent / "0.dcm").exists()  # not yet
    ferry.stop()
    with sqlite3.connect(ferry.state / "journal.db") as journal:
        journal.execute("UPDATE file SET disposed_ms = disposed_ms - 3601000")
    journal.close()
    ferry.start()
    ferry.wait(lambda: not (sent / "0.dcm").exists() and not (sent / "3.dcm").exists(), 30, "what we moved to go")
    assert sorted(p.name for p in sent.iterdir()) == ["1.dcm", "foreign.dcm"]
    assert ferry.status()["files"]["disposed"] == 4


def test_a_full_folder_to_move_to_stops_no_upload(sandbox, ferries, small_disks):
    ferry = ferries({"cloud": sandbox.url})
    sent = small_disks(ferry.root / "sent", 512)
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": str(sent)}})
    filler = fill(sent)
    ferry.start()
    for i in range(40):
        dicom.write(ferry.inbox / f"{i}.dcm")
    ferry.wait(lambda: ferry.status()["deliveries"]["delivered"] == 40, 60, "all to be delivered")
    ferry.wait(lambda: ferry.status().get("trouble"), 20, "the trouble to be told")
    time.sleep(3)
    assert ferry.log().count("local trouble: what it concerns") == 1
    assert len(list(ferry.inbox.glob("*.dcm"))) == 40
    filler.unlink()
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 40, 60, "all to be moved")
    assert len(list(sent.glob("*.dcm"))) == 40
    assert not ferry.status().get("trouble")


def test_local_trouble_rejects_no_file(sandbox, ferries):
    """The program that reads headers cannot be started: that is no fault of the files."""
    ferry = ferries({"cloud": sandbox.url}, watch={"settle": "100ms", "settle_timeout": "1s", "rescan": "1m"})
    reader = ferry.root / "reader"
    ferry.environment["DCMFERRY_DICOM"], real = str(reader), ferry.environment["DCMFERRY_DICOM"]
    reader.write_text("#!/bin/sh\nexit 1\n")
    reader.chmod(0o755)
    ferry.start()
    dicom.write(ferry.inbox / "a.dcm")
    time.sleep(4)
    assert not any(f["state"] == "rejected" for f in ferry.files()), ferry.files()
    reader.unlink()
    reader.symlink_to(real)
    ferry.stop()
    ferry.start()
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "delivered"}, 30, "the delivery")


def test_a_share_that_is_not_mounted_has_lost_nothing(sandboxes, ferries, small_disks):
    """Its empty mount point is there, and a part of its files is claimed already."""
    cloud = sandboxes()
    cloud.kill()
    ferry = ferries({"cloud": cloud.url}, watch={"rescan": "1m"})
    share = small_disks(ferry.inbox, 4096)
    ferry.start()
    for i in range(20):
        dicom.write(ferry.inbox / f"{i}.dcm")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 20, 30, "them to be queued")
    aside = ferry.root / "aside"
    aside.mkdir()
    subprocess.run(["mount", "--bind", share, aside], check=True)
    try:
        subprocess.run(["umount", share], check=True)
        cloud.start()
        ferry.ask("retry", "--all")
        ferry.wait(lambda: ferry.status()["deliveries"]["waiting"] > 0, 30, "the deliveries to wait")
        time.sleep(1)
        assert ferry.status()["files"]["vanished"] == 0
    finally:
        subprocess.run(["mount", "--bind", aside, share], check=True)
        subprocess.run(["umount", "-l", aside], check=True)
    ferry.ask("retry", "--all")
    ferry.wait(lambda: ferry.status()["files"]["delivered"] == 20, 60, "all to be delivered")
    assert "before they were delivered" not in ferry.log() and "before it was delivered" not in ferry.log()


def test_check_prints_what_the_unit_lacks(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    sent = ferry.root / "sent"
    sent.mkdir()

    def check():
        done = subprocess.run([ferry.command, "--config", ferry.config, "check", "--user", "root"], capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("ReadWritePaths=")]

    ferry.state.mkdir()
    assert check() == [f"ReadWritePaths={ferry.state}"]
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": f"{sent}/{{Modality}}/x"}})
    # one for what lies above both: between two of them files could only be copied
    assert check() == [f"ReadWritePaths={path}" for path in (ferry.state, ferry.root)]
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": "/srv/sent/{Modality}/x"}})
    assert check() == [f"ReadWritePaths={path}" for path in (ferry.state, ferry.inbox, "/srv/sent")]
