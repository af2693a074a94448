"""Many small instances, and waiting for them."""
import time

import pytest

import dicom
from test_ferry import sha256


class Stamp:
    """Many small instances quickly: one is made with pydicom, of the others only the UIDs differ."""

    STUDY, SOP = "1.2.826.0.1.3680043.8.498.7001000", "1.2.826.0.1.3680043.8.498.9001000"

    def __init__(self, folder, size=2048):
        path = folder / "stamp.dcm"
        dicom.write(path, self.STUDY, self.STUDY + ".1", self.SOP, size=size)
        self.data = path.read_bytes()
        self.n = 0
        path.unlink()

    def write(self, path, study=0):
        self.n += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data.replace(self.SOP.encode(), f"{self.SOP[:-6]}{self.n:06}".encode())
                         .replace(self.STUDY.encode(), f"{self.STUDY[:-3]}{study:03}".encode()))

    def tree(self, folder, n):
        """n files of n/60 studies in three levels; their SHA-256s."""
        for i in range(n):
            self.write(folder / f"day{i % 4}" / f"study{i % 12}" / f"series{i % 5}" / f"{i}.dcm", study=i // 60)
        return {sha256(path) for path in folder.rglob("*.dcm")}


@pytest.fixture(scope="module")
def stamp(tmp_path_factory):
    return Stamp(tmp_path_factory.mktemp("stamp"))


def wait_delivered(ferry, n, seconds=60):
    def delivered():
        status = ferry.status()
        time.sleep(n / 5000)  # asking costs the machine something too
        return status is not None and status["files"]["delivered"] >= n
    ferry.wait(delivered, seconds, f"{n} files to be delivered")
