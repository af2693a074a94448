"""The folders that files are moved to: who may read them, and what is left of them."""
import hashlib
import json
import os
import sqlite3
import time

import pytest

import dicom
from ferry import ferries  # noqa: F401


def test_folders_that_are_made_are_for_whom_the_first_is_for(sandbox, ferries):
    """The daemon's umask is 0077; the people who are to look at the rejects are not the daemon."""
    ferry = ferries({"cloud": sandbox.url})
    sent, rejected = ferry.root / "sent", ferry.root / "rejected"
    group = 12345 if os.geteuid() == 0 else os.getegid()
    for folder, mode in ((sent, 0o2750), (rejected, 0o755)):
        folder.mkdir()
        os.chown(folder, -1, group)
        folder.chmod(mode)
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": {"move": f"{sent}/{{Modality}}/{{path:1}}"},
                                                      "rejected": str(rejected)})
    ferry.start()
    dicom.write(ferry.inbox / "sub/a.dcm")
    (ferry.inbox / "sub/deep").mkdir(exist_ok=True)
    (ferry.inbox / "sub/deep/b").write_bytes(b"no DICOM, but long enough" * 20)
    ferry.wait(lambda: (sent / "CT/sub/a.dcm").exists() and (rejected / "sub/deep/b").exists(), 30, "both to be moved")
    made = {path: path.stat() for path in (sent / "CT", sent / "CT/sub", rejected / "sub", rejected / "sub/deep")}
    assert {oct(st.st_mode & 0o7777) for path, st in made.items() if sent in path.parents} == {"0o2750"}
    assert {oct(st.st_mode & 0o7777) for path, st in made.items() if rejected in path.parents} == {"0o755"}
    assert {st.st_gid for st in made.values()} == {group}


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_version_that_comes_at_the_last_instant(build, sandbox, ferries, after):
    """It takes the path of the delivered one after that was looked at and before it goes."""
    ferry = ferries({"cloud": sandbox.url})
    sent = ferry.root / "sent"
    ferry.write_config({"cloud": sandbox.url}, watch={"after_upload": after if after == "delete" else {"move": str(sent)}})
    old, new = ferry.inbox / "a.dcm", ferry.root / "new.dcm"
    dicom.write(old, seed=1)
    dicom.write(new, seed=2)
    sums = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (old, new)}
    e = ferry.environment
    e.update(LD_PRELOAD=str(build / "tests/fault/swapped.so"), DCMFERRY_SWAP_PATH=str(old), DCMFERRY_SWAP_FILE=str(new),
             ASAN_OPTIONS=":".join(filter(None, [e.get("ASAN_OPTIONS"), "verify_asan_link_order=0"])))
    try:
        ferry.start(wait=False)
    finally:
        del e["LD_PRELOAD"]
    ferry.wait(lambda: {sha for _, sha in sandbox.held()} == sums, 30, "both versions to be delivered")
    ferry.wait(lambda: not old.exists(), 30, "the second one to go too")
    assert not new.exists() and not list(ferry.inbox.iterdir())
    if after == "move":
        assert hashlib.sha256((sent / "a.dcm").read_bytes()).hexdigest() in sums and len(list(sent.iterdir())) == 1


def test_retention_takes_emptied_folders_away(sandbox, ferries):
    """Of all drop folders; not what others put there, nor the folder that the configuration names."""
    ferry = ferries({"cloud": sandbox.url})
    other = ferry.root / "other"
    other.mkdir()
    sent = [ferry.root / "sent0", ferry.root / "sent1"]
    watch = [{"path": str(path), "after_upload": {"move": f"{to}/{{Modality}}/{{path:1}}"}, "retention": "1h"}
             for path, to in zip((ferry.inbox, other), sent)]
    for folder in sent:
        folder.mkdir()
    ferry.write_config({"cloud": sandbox.url}, watch=watch)
    ferry.start()
    for folder in (ferry.inbox, other):
        for name in ("a/1.dcm", "b/2.dcm"):
            dicom.write(folder / name)
    ferry.wait(lambda: ferry.status()["files"]["disposed"] == 4, 30, "the files to be moved")
    (sent[1] / "CT/b/note").write_text("of somebody else")
    ferry.stop()
    with sqlite3.connect(ferry.state / "journal.db") as journal:
        journal.execute("UPDATE file SET disposed_ms = disposed_ms - 3601000")
    journal.close()
    ferry.start()
    ferry.wait(lambda: not [p for f in sent for p in f.rglob("*.dcm")], 30, "the moved files to go")
    ferry.wait(lambda: not list(sent[0].iterdir()), 10, "their folders to go")
    assert sent[0].is_dir() and [str(p.relative_to(sent[1])) for p in sorted(sent[1].rglob("*"))] == ["CT", "CT/b", "CT/b/note"]
    dicom.write(ferry.inbox / "a/3.dcm")
    ferry.wait(lambda: (sent[0] / "CT/a/3.dcm").exists(), 30, "a folder to be made again")


def test_a_folder_that_is_polled_all_the_time_is_not_swept_all_the_time(sandbox, ferries):
    ferry = ferries({"cloud": sandbox.url}, watch={"mode": "poll", "poll_interval": "100ms", "settle": "100ms"})
    dicom.write(ferry.inbox / "a.dcm")
    ferry.start()

    def said(message):
        return [line for line in map(json.loads, ferry.log().splitlines()) if line.get("message") == message]
    ferry.wait(lambda: len(said("drop folder scanned")) >= 20 and said("drop folders swept"), 30, "some polls")
    begin, scans, sweeps = time.monotonic(), len(said("drop folder scanned")), len(said("drop folders swept"))
    ferry.wait(lambda: len(said("drop folder scanned")) >= scans + 20, 60, "more polls")
    assert len(said("drop folders swept")) - sweeps <= 1 + (time.monotonic() - begin) / 10
    (ferry.inbox / "a.dcm").unlink()
    ferry.wait(lambda: said("drop folders swept")[-1]["files"] == 0, 40, "its absence to be noted, all the same")
