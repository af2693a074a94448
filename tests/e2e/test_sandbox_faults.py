"""The fault switches of dcmferry-sandbox."""

import asyncio
import time
import urllib.error
import urllib.request

import pytest
import websockets

from pdclient import Refused
from sandboxing import make, run, wait_until  # noqa: F401


def test_fault_control(sandbox):
    assert sandbox.fault_counts() == {}
    assert sandbox.faults("answer-error=2:on=general")["answer-error"] == {
        "on": True, "value": 2, "seen": 0, "hits": 0}
    for wrong in ("answer-errer=2", "answer-error", "answer-error=0", "answer-error=x", "refuse-auth=1",
                  "answer-error=2:on=x", "answer-error=2:p=2", "answer-error=2:frequently"):
        with pytest.raises(ValueError):
            sandbox.faults(wrong)
    assert "answer-error" in sandbox.fault_counts()  # unchanged by what was wrong
    request = urllib.request.Request(sandbox.url + "_sandbox/faults", b"[]", {"Origin": "https://example.org"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request)
    assert sandbox.faults() == {}


def test_fault_answer_error_and_times(sandbox, make):
    sandbox.faults("answer-error=2:on=part:times=1")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        files = [make(), make(), make(), make()]
        await s.upload(upload, 0, files[0])
        with pytest.raises(Refused):
            await s.upload(upload, 1, files[1])
        assert len(sandbox.held()) == 1  # not carried out
        for i in (1, 2, 3):
            await s.upload(upload, i, files[i])
        await s.close()

    run(go())
    assert len(sandbox.held()) == 4 and sandbox.fault_counts()["answer-error"]["hits"] == 1


@pytest.mark.parametrize("fault, stored", [("drop-after=4", 1), ("drop-before=4", 0)])
def test_fault_drop(sandboxes, make, fault, stored):
    sandbox = sandboxes("--fault", fault)

    async def go():
        s = await sandbox.session().open()      # 1st frame
        upload = await s.initialize()           # 2nd
        await s.list_folders()                  # 3rd
        with pytest.raises(ConnectionError):
            await s.upload(upload, 0, make())   # 4th
        await s.main.wait_closed()
        await s.add_uploader()                  # a fresh connection counts anew
        await s.file_exists(upload, "1.2", "1.3", connection=s.uploaders[0])
        await s.close()

    run(go())
    assert len(sandbox.held()) == stored


@pytest.mark.parametrize("fault, stored", [("never-answer=1:on=part", 1), ("lose-request=1:on=part", 0)])
def test_fault_no_answer(sandbox, make, fault, stored):
    sandbox.faults(fault)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        data = make()
        with pytest.raises(asyncio.TimeoutError):
            await s.send_part(upload, 0, data, 0, timeout=2)
        if stored:
            await wait_until(lambda: len(sandbox.held()) == 1)
        sandbox.faults()
        await s.send_part(upload, 0, data, 0)
        await s.close()

    run(go())
    assert [receipts for receipts, _ in sandbox.held().values()] == [1 + stored]


def test_fault_late_and_slow(sandbox, make):
    async def go():
        s = await sandbox.session().open()
        sandbox.faults("answer-late=700:on=general")
        start = time.monotonic()
        await s.list_folders()
        assert time.monotonic() - start >= 0.7
        sandbox.faults("slow=200000")
        start = time.monotonic()
        upload = await s.initialize()
        await s.upload(upload, 0, make(300_000))
        assert time.monotonic() - start >= 1
        sandbox.faults()
        await s.upload(upload, 1, make(300_000))
        await s.close()

    run(go())


def test_fault_garbage_and_text(sandbox):
    async def go():
        s = await sandbox.session().open()
        for fault in ("garbage-answer=1:times=1", "text-answer=1:times=1"):
            sandbox.faults(fault)
            with pytest.raises(asyncio.TimeoutError):
                await s.main.request(17, 22, s.keys({"UserUuid": s.user_uuid}), timeout=1)
        assert (s.main.garbage, len(s.main.texts)) == (1, 1)
        assert await s.list_folders()
        await s.close()

    run(go())


def test_fault_sessions(sandbox, make):
    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        sandbox.faults("forget-session=1:times=1")
        with pytest.raises(Refused):
            await s.file_exists(upload, "1.2", "1.3")
        with pytest.raises(Refused):
            await s.initialize()
        assert not (await (await s.connect()).request(3, 2, s.session_parameters())).success
        again = await sandbox.session().open()
        assert await again.initialize()
        with pytest.raises(Refused):
            await again.upload(upload, 0, make())  # the upload session went too
        sandbox.faults("displace=1:times=1")
        with pytest.raises(Refused):
            await again.initialize()
        await s.close()
        await again.close()

    run(go())


def test_fault_http_and_auth(sandbox):
    async def go():
        for fault in ("http-status=503:times=1", "refuse-auth:times=1", "refuse-upgrade=502:times=1"):
            sandbox.faults(fault)
            with pytest.raises((Refused, urllib.error.HTTPError, websockets.InvalidStatusCode)):
                await sandbox.session().open()
        await (await sandbox.session().open()).close()

    run(go())


def test_fault_disk_full(sandbox, make):
    data = make()

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        sandbox.faults("disk-full")
        with pytest.raises(Refused, match="space"):
            await s.upload(upload, 0, data)
        sandbox.faults()
        await s.upload(upload, 0, data)
        await s.close()

    run(go())
    assert [r for r, _ in sandbox.held().values()] == [1]


def test_fault_probability_is_repeatable(sandboxes):
    def outcome():
        sandbox = sandboxes("--fault", "answer-error=1:p=0.5:on=general")

        async def go():
            s = await sandbox.session().open()
            result = []
            for _ in range(30):
                try:
                    await s.list_folders()
                    result.append(True)
                except Refused:
                    result.append(False)
            await s.close()
            return result

        return run(go())

    first = outcome()
    assert first == outcome() and 3 < sum(first) < 27
