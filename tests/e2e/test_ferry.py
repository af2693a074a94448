"""The main job with the real programs: drop folder, journal, the right folder on the server, the source's fate."""

import collections
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time
import warnings

import pydicom
import pytest
from pydicom.uid import generate_uid

import dicom
from conftest import pydicom_files, shared
from ferry import ferries  # noqa: F401


def sha256(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def assert_all_held(ferry, sandbox, receipts=1):
    """Every delivered or duplicate delivery: an instance with equal SHA-256 in its folder, received `receipts` times."""
    held = sandbox.held()
    for row in ferry.files():
        for delivery in row["deliveries"]:
            if delivery["state"] not in ("delivered", "duplicate"):
                continue
            key = (delivery["folder"], delivery["sha256"])
            assert key in held, (row, delivery)
            if receipts and delivery["state"] == "delivered":
                assert held[key][0] == receipts, (held[key], row)


def test_files_in_nested_folders_are_delivered(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    sums = set()
    for s in range(12):
        study, series = generate_uid(), generate_uid()
        for i in range(20):
            path = ferry.inbox / f"day{s % 3}" / f"study{s}" / f"{i}.dcm"
            dicom.write(path, study, series, modality=("CT", "MR", "US")[s % 3])
            sums.add(sha256(path))
    ferry.wait_settled(240)
    assert set(ferry.fates().values()) == {"delivered"}
    assert_all_held(ferry, sandbox)
    assert {sha for _, sha in sandbox.held()} == sums
    assert {folder for folder, _ in sandbox.held()} == {"In/CT", "In/MR", "In/US"}
    assert len(list(ferry.inbox.rglob("*.dcm"))) == 240  # `keep` is the default


def test_files_that_stood_there_before_the_start(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    for i in range(30):
        dicom.write(ferry.inbox / "a" / "b" / f"{i}.dcm")
    assert ferry.once() == 0
    assert_all_held(ferry.start(), sandbox)
    assert collections.Counter(ferry.fates().values()) == {"delivered": 30}


def test_once_tells_failure(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url})
    (ferry.inbox / "a.dcm").write_bytes(b"no DICOM at all, but long enough to look at" * 10)
    dicom.write(ferry.inbox / "b.dcm")
    assert ferry.once() == 3  # nothing failed, but not all was delivered
    ferry.start()
    assert ferry.fates() == {"a.dcm": "rejected", "b.dcm": "delivered"}


def test_slow_writer_is_waited_for(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"settle_timeout": "60s"}).start()
    whole = ferry.root / "whole.dcm"
    dicom.write(whole, size=200_000)
    data = whole.read_bytes()
    target = ferry.inbox / "slow.dcm"
    for end in (100, 300, 5000, 90_000, len(data)):  # closed each time: IN_CLOSE_WRITE says nothing about wholeness
        target.write_bytes(data[:end])
        time.sleep(0.4)
    ferry.wait_settled(1)
    ferry.wait(lambda: ferry.fates() == {"slow.dcm": "delivered"}, 60, "the whole file to be delivered")
    assert {sha for _, sha in sandbox.held()} == {sha256(whole)}


def test_what_cannot_be_delivered_has_a_reason(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"rejected": "PLACEHOLDER"})
    rejected = ferry.root / "rejected"
    rejected.mkdir()
    ferry.write_config({"cloud": sandbox.url}, watch={"rejected": str(rejected), "settle_timeout": "2s"})
    whole = ferry.root / "whole.dcm"
    dicom.write(whole, size=50_000)
    (ferry.inbox / "sub").mkdir()
    (ferry.inbox / "sub/text.dcm").write_bytes(b"Hello, this is not DICOM. " * 40)
    (ferry.inbox / "empty.dcm").touch()
    (ferry.inbox / "cut.dcm").write_bytes(whole.read_bytes()[:20_000])
    ferry.start()
    ferry.wait_settled(3)
    ferry.wait(lambda: not list(ferry.inbox.rglob("*.dcm")), 30, "rejected files to be moved")
    reasons = {row["path"].rsplit("/", 1)[1]: row["reason"] for row in ferry.files()}
    assert {row["state"] for row in ferry.files()} == {"rejected"}
    assert "empty" in reasons["empty.dcm"]
    assert "DICOM" in reasons["text.dcm"]
    assert reasons["cut.dcm"]
    assert (rejected / "sub/text.dcm").exists() and (rejected / "cut.dcm").exists()


def test_duplicates_and_conflicts(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    study, sop = generate_uid(), generate_uid()
    dicom.write(ferry.inbox / "first.dcm", study, sop=sop, seed=1)
    ferry.wait_settled(1)
    shutil.copyfile(ferry.inbox / "first.dcm", ferry.inbox / "copy.dcm")
    dicom.write(ferry.inbox / "other.dcm", study, sop=sop, seed=2)
    ferry.wait_settled(3)
    ferry.wait(lambda: len(ferry.fates()) == 3, 20, "three files")
    assert ferry.fates() == {"first.dcm": "delivered", "copy.dcm": "duplicate", "other.dcm": "conflict"}
    assert_all_held(ferry, sandbox)
    assert len(sandbox.held()) == 1
    # The operator decides: send it anyway.
    assert ferry.ask("retry", "--all", "--anyway")["changed"] >= 1
    ferry.wait(lambda: ferry.fates()["other.dcm"] == "delivered", 30, "the conflict to be sent")
    assert len(sandbox.held()) == 2


def test_a_duplicate_for_another_folder_is_filed_there_too(sandbox, ferries):
    routes = [{"name": "byfolder", "to": "cloud", "folder": "F/{path:1}"}]
    ferry = ferries({"cloud": sandbox.url}, routes=routes).start()
    dicom.write(ferry.inbox / "one/a.dcm")
    ferry.wait_settled(1)
    (ferry.inbox / "two").mkdir()
    shutil.copyfile(ferry.inbox / "one/a.dcm", ferry.inbox / "two/a.dcm")
    ferry.wait(lambda: ferry.fates().get("two/a.dcm") == "duplicate", 30, "the duplicate")
    assert {folder for folder, _ in sandbox.held()} == {"F/one", "F/two"}
    assert {receipts for receipts, _ in sandbox.held().values()} == {1}


def test_same_path_rewritten_is_a_new_version(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    path = ferry.inbox / "a.dcm"
    for seed in (1, 2):
        dicom.write(path, seed=seed)
        ferry.wait(lambda: any(f["sha256"] == sha256(path) for f in ferry.files() if f["state"] == "delivered"
                               and f.get("sha256")), 30, f"version {seed}")
    assert len(sandbox.held()) == 2


def test_a_new_mtime_alone_is_no_new_version(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    path = ferry.inbox / "a.dcm"
    dicom.write(path)
    ferry.wait_settled(1)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    ferry.stop()
    ferry.start()
    ferry.wait(lambda: ferry.status()["reading"] == 0, 20, "the scan")
    time.sleep(1)
    assert len(ferry.files()) == 1
    assert_all_held(ferry, sandbox)


@pytest.mark.parametrize("custody", [None, "rename"])
@pytest.mark.parametrize("after", ["delete", "move"])
def test_disposal(sandbox, ferries, after, custody):
    ferry = ferries({"cloud": sandbox.url})
    sent = ferry.root / "sent"
    sent.mkdir()
    watch = {"after_upload": after if after == "delete" else {"move": f"{sent}/{{Modality}}/{{StudyDate}}"},
             "prune_empty": True}
    if custody:
        watch["custody"] = custody
    ferry.write_config({"cloud": sandbox.url}, watch=watch)
    ferry.start()
    sums = set()
    for i in range(10):
        path = ferry.root / "made.dcm"
        dicom.write(path)
        sums.add(sha256(path))
        (ferry.inbox / f"s{i}").mkdir()
        path.rename(ferry.inbox / f"s{i}/x.dcm")  # equal names: the target must get numbers
    ferry.wait_settled(10)
    ferry.wait(lambda: not list(ferry.inbox.rglob("*.dcm")), 30, "the sources to go")
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 10, 30, "the journal to know")
    assert {sha for _, sha in sandbox.held()} == sums
    moved = {sha256(p) for p in sent.rglob("*.dcm*")}
    assert moved == (sums if after == "move" else set())
    if after == "move":
        assert {p.parent for p in sent.rglob("*.dcm*")} == {sent / "CT/20261123"}
    ferry.wait(lambda: not [p for p in ferry.inbox.iterdir() if not p.name.startswith(".")], 20, "empty folders to go")


def test_a_source_that_changed_after_delivery_is_not_touched(sandbox, ferries):
    """Disposal removes only the version that was journalled."""
    ferry = ferries({"cloud": sandbox.url}, watch={"after_upload": "delete"}).start()
    for i in range(20):
        path = ferry.inbox / "a.dcm"
        dicom.write(path, seed=i)
        time.sleep(0.03 * (i % 5))
    ferry.wait(lambda: not path.exists(), 60, "the last version to be delivered and deleted")
    held = {sop for _, sop in sandbox.held().values()}
    vanished = sum(1 for f in ferry.files() if f["state"] == "vanished")
    assert len(held) + vanished >= 1
    newest = [f for f in ferry.files() if f["state"] == "disposed"][0]
    assert newest["deliveries"][0]["state"] == "delivered"


def test_a_study_stays_together(sandbox, ferries):
    routes = [{"name": "ct", "match": {"Modality": "CT"}, "to": "cloud", "folder": "CT"},
              {"name": "rest", "match": {"Modality": "MR"}, "to": "cloud", "folder": "Rest"}]
    ferry = ferries({"cloud": sandbox.url}, routes=routes).start()
    study = generate_uid()
    dicom.write(ferry.inbox / "report-first.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait(lambda: ferry.fates() == {"report-first.dcm": "held"}, 30, "the report to be held")
    dicom.write(ferry.inbox / "image.dcm", study, modality="CT")
    ferry.wait(lambda: set(ferry.fates().values()) == {"delivered"}, 30, "the report to follow its study")
    dicom.write(ferry.inbox / "report-later.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait_settled(3)
    ferry.wait(lambda: len(ferry.fates()) == 3 and set(ferry.fates().values()) == {"delivered"}, 30, "all three")
    assert {folder for folder, _ in sandbox.held()} == {"CT"}


def test_a_study_has_one_folder(sandbox, ferries):
    """That of the instance that came first; over a restart too, and until the template is changed."""
    ferry = ferries({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "R/{Modality}"}]).start()
    study = generate_uid()
    dicom.write(ferry.inbox / "image.dcm", study, modality="CT")
    ferry.wait_settled(1)
    dicom.write(ferry.inbox / "report.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait_settled(2)
    assert ferry.stop() == 0
    ferry.start()
    dicom.write(ferry.inbox / "key.dcm", study, modality="KO")
    dicom.write(ferry.inbox / "other.dcm", generate_uid(), modality="KO")
    ferry.wait_settled(4)
    assert sorted(folder for folder, _ in sandbox.held()) == ["R/CT"] * 3 + ["R/KO"]
    ferry.write_config({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "S/{Modality}"}])
    ferry.ask("reload")
    dicom.write(ferry.inbox / "late.dcm", study, modality="PR")
    dicom.write(ferry.inbox / "later.dcm", study, modality="SR", sop_class=dicom.SR)
    ferry.wait_settled(6)
    assert len({folder for folder, _ in sandbox.held() if folder.startswith("S/")}) == 1


def test_held_files_are_routed_again_after_a_reload(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, routes=[{"name": "mr", "match": {"Modality": "MR"}, "to": "cloud"}]).start()
    dicom.write(ferry.inbox / "ct.dcm")
    ferry.wait(lambda: ferry.fates() == {"ct.dcm": "held"}, 30, "the file to be held")
    ferry.write_config({"cloud": sandbox.url}, routes=[{"name": "all", "to": "cloud", "folder": "New"}])
    assert ferry.ask("reload")["ok"]
    ferry.wait(lambda: ferry.fates() == {"ct.dcm": "delivered"}, 30, "the file to be routed")
    assert {folder for folder, _ in sandbox.held()} == {"New"}


def test_a_bad_configuration_is_refused_wholly(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    good = ferry.config.read_text()
    ferry.config.write_text(good.replace("routes:", "rotes:"))
    answer = ferry.ask("--socket", str(ferry.state / "control.sock"), "reload")
    ferry.config.write_text(good)
    assert not answer["ok"] and "rotes" in answer["text"] and "routes" in answer["text"]
    dicom.write(ferry.inbox / "a.dcm")
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "delivered"}, 30, "the old configuration to be in force")


def test_two_destinations_one_of_them_dead_for_a_while(sandboxes, ferries):
    near, far = sandboxes(), sandboxes()
    far.kill()
    ferry = ferries({"near": near.url, "far": far.url}).start()
    for i in range(40):
        dicom.write(ferry.inbox / f"{i}.dcm", size=20_000)
    ferry.wait(lambda: len(near.held()) == 40, 60, "the near one to have all")
    ferry.wait(lambda: any(d["name"] == "far" and d["health"] == "not reachable" for d in ferry.status()["destinations"]),
               60, "the far one to be found dead")
    assert ferry.status()["files"]["delivered"] == 0
    far.start()
    ferry.ask("retry", "--destination", "far")
    ferry.wait_settled(40)
    assert ferry.status()["files"]["delivered"] == 40
    assert_all_held(ferry, near, receipts=0)
    assert {sha for _, sha in near.held()} == {sha for _, sha in far.held()}


def test_polling(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"mode": "poll", "poll_interval": "300ms", "settle": "300ms"}).start()
    for i in range(25):
        dicom.write(ferry.inbox / f"f{i % 4}" / f"{i}.dcm")
    ferry.wait_settled(25)
    assert_all_held(ferry, sandbox)
    assert len(sandbox.held()) == 25


def test_a_tree_moved_in(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    outside = ferry.root / "outside"
    for i in range(50):
        dicom.write(outside / f"a{i % 5}" / f"b{i % 3}" / f"{i}.dcm")
    outside.rename(ferry.inbox / "moved")
    ferry.wait_settled(50)
    assert_all_held(ferry, sandbox)
    assert len(sandbox.held()) == 50


def test_a_file_that_vanishes_is_an_alarm(sandboxes, ferries):
    dead = sandboxes()
    dead.kill()
    ferry = ferries({"cloud": dead.url}).start()
    dicom.write(ferry.inbox / "a.dcm")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 1, 30, "the file to be queued")
    (ferry.inbox / "a.dcm").unlink()
    dead.start()
    ferry.ask("retry", "--all")
    ferry.wait(lambda: ferry.status()["files"]["vanished"] == 1, 30, "the alarm")
    assert "left the drop folder" in ferry.log()


def test_hold_and_release(sandboxes, ferries):
    cloud = sandboxes()
    cloud.kill()
    ferry = ferries({"cloud": cloud.url}).start()
    dicom.write(ferry.inbox / "a.dcm")
    ferry.wait(lambda: ferry.status()["files"]["queued"] == 1, 30, "the file to be queued")
    ferry.wait(lambda: ferry.ask("hold", "--all")["changed"] == 1 or ferry.fates()["a.dcm"] == "held", 30, "the hold")
    cloud.start()
    ferry.ask("retry", "--destination", "cloud")
    time.sleep(1)
    assert ferry.fates() == {"a.dcm": "held"}
    assert ferry.ask("release", "--all")["changed"] == 1
    ferry.wait(lambda: ferry.fates() == {"a.dcm": "delivered"}, 30, "the delivery")


# Real files that end early, or where both DCMTK and pydicom lose their way.
CUT_SHORT = ("MR_truncated.dcm", "rtplan_truncated.dcm", "3gb-bulk-data-truncated", "filename_and_error_type_bad.dcm",
             "FreezePattern.dcm", "GH364.dcm")


def fault_of(path):
    """What pydicom finds wrong: the beginning of the reason that a reject must give; None: nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, force=True)
            begin = path.read_bytes()[:132]
            known = begin[128:] == b"DICM" or begin[:2] in (b"\2\0", b"\x08\0")
            directory = data.file_meta.get("MediaStorageSOPClassUID") == "1.2.840.10008.1.3.10"
            uid = data.get("SOPInstanceUID")
            bad_uid = uid and not re.fullmatch(r"[0-9.]{1,64}", uid)
        except Exception:
            known = directory = uid = bad_uid = False
    if path.name.endswith(CUT_SHORT):
        return "the file is cut short: "
    if directory:
        return "not a DICOM file: it is a DICOMDIR"
    if not known or path.name.endswith("no_meta.dcm"):  # one that begins with a stray byte
        return "not a DICOM file: "
    if not uid:
        return "no SOP Instance UID: the element is missing"
    return "no SOP Instance UID: the element holds something that is no UID" if bad_uid else None


def patient_of(path):
    """Words that no log may hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True)
            words = [str(data.get(key, "")) for key in ("PatientName", "PatientID", "OtherPatientIDs", "PatientAddress")]
        except Exception:
            return set()
    return {word for word in words if len(word) > 5 and not re.fullmatch(r"[0-9.]+", word)}


def test_real_files_all_have_a_fate(sandbox, ferries):
    """All that python3-pydicom carries and, where they are there, the project's reference ones."""
    folder = shared("dicom")
    samples = pydicom_files() + (sorted(p for p in folder.iterdir() if p.is_file()) if folder else [])
    ferry = ferries({"cloud": sandbox.url}, watch={"exclude": [], "settle_timeout": "1s"})
    for i, sample in enumerate(samples):
        shutil.copyfile(sample, ferry.inbox / f"{i:04}-{sample.name}")
    ferry.start()
    ferry.wait_settled(len(samples), 240)
    fates = ferry.fates()
    assert len(fates) == len(samples)
    counts = collections.Counter(fates.values())
    print(counts)
    assert set(counts) <= {"delivered", "duplicate", "conflict", "rejected"} and counts["delivered"] > 50
    assert_all_held(ferry, sandbox)
    patients = set().union(*(patient_of(path) for path in ferry.inbox.iterdir()))
    logs = ferry.log() + sandbox.log()
    assert len(patients) > 30 and len(logs) > 10_000  # so many the package alone holds
    assert not [word for word in patients if word in logs]
    sent = {sha for _, sha in sandbox.held()}
    for name, row in ferry.by_name().items():
        fault = fault_of(ferry.inbox / name)
        if row["state"] == "rejected":
            assert fault and row["reason"].startswith(fault), (name, fault, row["reason"])
        else:
            assert fault in (None, "not a DICOM file: "), (name, fault, row)  # some are beyond pydicom
            assert (sha256(row["path"]) in sent) == (row["deliveries"][0]["state"] != "conflict"), row


def test_large_files_in_parts_over_several_connections(sandbox, ferries):
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 4, "pipeline": 2}}).start()
    for i in range(6):
        dicom.write(ferry.inbox / f"{i}.dcm", size=3_000_000 + i * 700_001)
    ferry.wait_settled(6)
    assert_all_held(ferry, sandbox)
    assert len(sandbox.held()) == 6


def test_one_instance_per_state_folder(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}).start()
    second = subprocess.run([ferry.daemon, "--config", ferry.config], capture_output=True, text=True, timeout=60,
                            env=ferry.environment)
    assert second.returncode == 1
    assert "in use" in second.stderr or "another" in second.stderr, second.stderr
    assert ferry.running()
