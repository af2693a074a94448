"""What the tests of the sandbox share."""

import asyncio
import hashlib
import time

import pytest

import dicom
from pdclient import PART_SIZE

OTHER_KEY = "cccccccc-3333-4333-8333-333333333333"


def run(coroutine, timeout=120):
    return asyncio.run(asyncio.wait_for(coroutine, timeout))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def make(tmp_path):
    """make(size, **attributes): the bytes of a fresh DICOM file, study/series/sop as wanted."""
    count = 0

    def one(size=4096, **attributes):
        nonlocal count
        count += 1
        path = tmp_path / f"made{count}.dcm"
        dicom.write(path, size=size, **attributes)
        return path.read_bytes()

    return one


def big_and_uids(make, size=3 * PART_SIZE - 100_000):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    return make(size, study=study, sop=sop), study, sop


async def wait_until(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
