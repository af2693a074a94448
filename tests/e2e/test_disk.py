"""A full disk: the daemon pauses, says so once, goes on by itself when there is room, and loses nothing."""

import errno
import hashlib
import os
import pathlib
import subprocess

import pytest

import dicom
from ferry import ferries  # noqa: F401

# Kilobytes: what the journal takes by itself never fills it.
ROOMY = 32 * 1024
PAUSED, RESUMED = "local trouble: what it concerns is paused", "the local trouble is over"


@pytest.fixture
def small_disks(tmp_path):
    """Mounts small file systems: small_disks(path, KiB). Only root may."""
    mounted = []

    def mount(path, kib):
        path = pathlib.Path(path)
        path.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "dcmferry-test", path], capture_output=True,
                              text=True)
        if made.returncode != 0:
            pytest.skip(f"a file system of its own cannot be mounted here: {made.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


def fill(folder):
    """Takes all the room there is; free it by removing the file."""
    filler = pathlib.Path(folder) / "filler"
    with open(filler, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
    assert os.statvfs(folder).f_bavail == 0
    return filler


class Drops:
    """Files dropped, and what must have come of them."""

    def __init__(self, ferry):
        self.ferry, self.sums = ferry, {}

    def drop(self, n, folder="a"):
        for _ in range(n):
            path = self.ferry.inbox / folder / f"{len(self.sums)}.dcm"
            dicom.write(path, size=3000)
            self.sums[path] = hashlib.sha256(path.read_bytes()).hexdigest()

    def check(self, sandbox):
        """All arrived, each once."""
        self.ferry.wait_settled(len(self.sums), 60)
        held = {sha: receipts for (_, sha), (receipts, _) in sandbox.held().items()}
        assert held == dict.fromkeys(self.sums.values(), 1)


def said(ferry, what):
    return ferry.log().count(what)


def trouble(ferry):
    status = ferry.status()
    return status and status.get("trouble")


def emptied(path):
    return not path.exists() or path.stat().st_size == 0


def test_the_state_folder_is_full(sandbox, ferries, small_disks):
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 2}}, watch={"settle": "200ms"}, log_level="info")
    small_disks(ferry.state, ROOMY)
    drops = Drops(ferry)
    drops.drop(10)
    ferry.start()
    ferry.wait_settled(10)
    ferry.wait(lambda: emptied(ferry.state / "journal.db-wal"), 30, "the log to be emptied")
    filler = fill(ferry.state)
    drops.drop(40)
    ferry.wait(lambda: trouble(ferry), 30, "the trouble to be told")
    assert "space" in trouble(ferry), trouble(ferry)
    drops.drop(10, "b")  # files go on coming
    before = len(sandbox.held())
    pid = ferry.process.pid
    ferry.wait(lambda: said(ferry, PAUSED), 5, "the log to say so")
    for _ in range(3):  # it stays so, and the daemon answers
        assert ferry.status()["trouble"] and ferry.running()
    assert len(sandbox.held()) == before  # nothing leaves whose fate could not be written down
    assert len(list(ferry.inbox.rglob("*.dcm"))) == 60
    filler.unlink()
    drops.check(sandbox)
    ferry.wait(lambda: not trouble(ferry), 10, "the end of the trouble")
    assert ferry.process.pid == pid and ferry.running()
    assert (said(ferry, PAUSED), said(ferry, RESUMED)) == (1, 1), ferry.log()[-3000:]


def test_a_little_room_is_enough(sandbox, ferries, small_disks):
    """The journal's log gives back what it took, rather than taking what room there comes."""
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 2}}, watch={"settle": "200ms"}, log_level="info")
    small_disks(ferry.state, ROOMY)
    ferry.start()
    drops = Drops(ferry)
    log = ferry.state / "journal.db-wal"
    for part in range(50):
        drops.drop(10, f"a{part}")
        ferry.wait_settled(len(drops.sums))
        if log.stat().st_size > 1_500_000:
            break
    filler = fill(ferry.state)
    drops.drop(60, "b")
    ferry.wait(lambda: trouble(ferry), 30, "the trouble to be told")
    os.truncate(filler, filler.stat().st_size - 600_000)
    drops.check(sandbox)


def test_the_log_does_not_fill_a_small_disk(sandbox, ferries, small_disks):
    """Where the log has little room it is emptied early; where it has plenty it may grow to 16 MiB."""
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 2}}, watch={"settle": "200ms"}, log_level="info")
    small_disks(ferry.state, 5 * 1024)
    ferry.start()
    drops, seen = Drops(ferry), 0
    for part in range(60):
        drops.drop(10, f"a{part}")
        ferry.wait_settled(len(drops.sums))
        seen = max(seen, (ferry.state / "journal.db-wal").stat().st_size)
    drops.check(sandbox)
    assert said(ferry, PAUSED) == 0, ferry.log()[-3000:]
    assert 300_000 < seen < 1_500_000, seen


def test_it_fills_up_while_files_flow(sandbox, ferries, small_disks):
    """Again and again, at whatever is being written; the sources go when they are delivered, not before."""
    ferry = ferries({"cloud": {"router": sandbox.url, "connections": 4}}, log_level="info",
                    watch={"settle": "200ms", "after_upload": "delete"})
    small_disks(ferry.state, ROOMY)
    ferry.start()
    drops = Drops(ferry)
    for i in range(4):
        drops.drop(25, f"f{i}")
        filler = fill(ferry.state)
        drops.drop(5, f"g{i}")
        ferry.wait(lambda: trouble(ferry), 30, "the trouble to be told")
        filler.unlink()
        ferry.wait(lambda: not trouble(ferry), 30, "the end of the trouble")
    drops.check(sandbox)
    ferry.wait(lambda: not list(ferry.inbox.rglob("*.dcm")), 30, "the sources to be deleted")


def test_full_at_the_start(sandbox, ferries, small_disks):
    """It does not start, says why, damages nothing, and starts when there is room."""
    ferry = ferries({"cloud": sandbox.url}, watch={"settle": "200ms"}, log_level="info")
    small_disks(ferry.state, 2048)
    drops = Drops(ferry)
    drops.drop(10)
    filler = fill(ferry.state)
    for _ in range(2):  # without a journal yet, then with one
        assert ferry.once() == 1
        assert "space" in ferry.log(), ferry.log()
        assert not [p for p in ferry.state.iterdir() if "damaged" in p.name]
        filler.unlink()
        ferry.log_path.write_text("")
        assert ferry.once() == 0, ferry.log()[-3000:]
        drops.drop(10, "b")
        filler = fill(ferry.state)
    filler.unlink()
    ferry.start()
    drops.check(sandbox)
    assert "damaged" not in ferry.log()


def test_the_folder_moved_to_is_full(sandbox, ferries, small_disks):
    """Deliveries go on; the sources stay where they are until there is room."""
    ferry = ferries({"cloud": sandbox.url}, log_level="info")
    sent = small_disks(ferry.root / "sent", 256)
    ferry.write_config({"cloud": sandbox.url}, log_level="info",
                       watch={"settle": "200ms", "after_upload": {"move": f"{sent}/{{Modality}}"}})
    drops = Drops(ferry)
    drops.drop(4)
    ferry.start()
    ferry.wait(lambda: len(list(sent.rglob("*.dcm"))) == 4, 30, "the first files to be moved")
    filler = fill(sent)
    drops.drop(12, "b")
    ferry.wait(lambda: trouble(ferry), 30, "the trouble to be told")
    drops.drop(12, "c")
    drops.check(sandbox)
    assert len(list(ferry.inbox.rglob("*.dcm"))) == 24
    assert not [p for p in sent.rglob("*") if p.is_file() and p != filler and p.stat().st_size == 0]
    assert trouble(ferry) and (said(ferry, PAUSED), said(ferry, RESUMED)) == (1, 0), [l for l in ferry.log().splitlines() if "trouble" in l]
    filler.unlink()
    ferry.wait(lambda: not list(ferry.inbox.rglob("*.dcm")), 30, "the files to be moved")
    moved = [p for p in sent.rglob("*") if p.is_file()]
    assert sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in moved) == sorted(drops.sums.values())
    ferry.wait(lambda: not trouble(ferry), 10, "the end of the trouble")
