"""What dcmferry assumes of the real server: each row's switch of dcmferry-sandbox, both ways."""

import asyncio
import subprocess
import time

import pytest

import dicom
from pdclient import Refused
from sandbox import ACCOUNT_KEY, API_KEY
from sandboxing import big_and_uids, make, run, sha256  # noqa: F401


def test_assumption_rows_are_the_documented_ones(build):
    """Each row of the page is a switch with these values, the first the default, and there are no others."""
    import pathlib
    import re
    page = (pathlib.Path(__file__).parents[2] / "docs/postdicom-assumptions.md").read_text()
    documented = {}
    for row, values in re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", page, re.M):
        documented[row] = re.findall(r"`([a-z0-9-]+)`", values)
    help = subprocess.run([build / "daemon/sandbox/dcmferry-sandbox", "--help"], capture_output=True, text=True,
                          check=True).stdout
    switches = {row: values.split(" (")[0].split()
                for row, values in re.findall(r"^  --assume-([a-z-]+)=(.+)$", help, re.M)}
    assert switches == documented


@pytest.mark.parametrize("wrong", ["--assume-pong=maybe", "--assume-exists-delay=soon", "--assume-pongs=no",
                                   "--assume-pong", "--fault=dropafter=3", "--port=70000", "--api-key=x"])
def test_wrong_options_are_named(build, tmp_path, wrong):
    result = subprocess.run([build / "daemon/sandbox/dcmferry-sandbox", "--state", tmp_path / "s", "--account-key",
                             ACCOUNT_KEY, "--api-key", API_KEY, wrong], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.startswith("dcmferry-sandbox: ")
    assert not (tmp_path / "s").exists()


def assumed(sandboxes, row):
    return sandboxes(*(f"--assume-{one}" for one in row.split()))


def test_assume_parts_in_flight(sandboxes, make):
    data, _, _ = big_and_uids(make)
    for row, fine in (("parts-in-flight=any", True), ("parts-in-flight=one", False)):
        sandbox = assumed(sandboxes, row)

        async def go():
            s = await sandbox.session().open()
            upload = await s.initialize()
            parts = [s.send_part(upload, 0, data, part) for part in range(3)]
            results = await asyncio.gather(*parts, return_exceptions=True)
            assert any(isinstance(r, ConnectionError) for r in results) != fine
            if not fine:
                fresh = await s.add_uploader()
                for part in range(3):
                    await s.send_part(upload, 0, data, part, None, fresh)
            await s.close()

        run(go())
        assert len(sandbox.held()) == 1


@pytest.mark.parametrize("value", ["whole", "any-part"])
def test_assume_exists_means(sandboxes, make, value):
    data, study, sop = big_and_uids(make)
    sandbox = assumed(sandboxes, f"exists-means={value} part-answer=last")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.send_part(upload, 0, data, 0)
        assert (await s.file_exists(upload, study, sop))["FileIfExist"] == (value == "any-part")
        await s.send_part(upload, 0, data, 1)
        await s.send_part(upload, 0, data, 2)
        assert (await s.file_exists(upload, study, sop))["FileIfExist"]
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["account", "folder"])
def test_assume_exists_scope(sandboxes, make, value):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    sandbox = assumed(sandboxes, f"exists-scope={value}")

    async def go():
        s = await sandbox.session().open()
        a, b = await s.create_folder("a"), await s.create_folder("b")
        upload = await s.initialize()
        await s.upload(upload, 0, make(study=study, sop=sop), a)
        assert (await s.file_exists(upload, study, sop))["FileIfExist"]
        assert (await s.file_exists(upload, study, sop, a))["FileIfExist"]
        assert (await s.file_exists(upload, study, sop, b))["FileIfExist"] == (value == "account")
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["uuid", "none"])
def test_assume_exists_order(sandboxes, make, value):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    sandbox = assumed(sandboxes, f"exists-order={value}")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.upload(upload, 0, make(study=study, sop=sop))
        answer = await s.file_exists(upload, study, sop)
        assert answer["FileIfExist"] and ("PatientOrder" in answer) == (value == "uuid")
        await s.close()

    run(go())


def test_assume_exists_delay(sandboxes, make):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    sandbox = assumed(sandboxes, "exists-delay=1500")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        start = time.monotonic()
        await s.upload(upload, 0, make(study=study, sop=sop))
        early = (await s.file_exists(upload, study, sop))["FileIfExist"]
        assert not early or time.monotonic() - start >= 1.5
        await asyncio.sleep(1.6)
        assert (await s.file_exists(upload, study, sop))["FileIfExist"]
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["each", "last"])
def test_assume_part_answer(sandboxes, make, value):
    data, _, _ = big_and_uids(make)
    sandbox = assumed(sandboxes, f"part-answer={value}")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        answers = await s.upload(upload, 0, data)
        named = [answers[i]["ResponseMessage"].get("PatientOrder", {}).get("PatientOrderUuid") for i in range(3)]
        assert named[2] and named[:2] == [named[2] if value == "each" else None] * 2
        assert [o["PatientOrderUuid"] for o in await s.search()] == [named[2]]
        await s.close()

    run(go())


def test_assume_repeated_part(sandboxes, make):
    data, _, _ = big_and_uids(make)
    small = make()
    sandbox = assumed(sandboxes, "repeated-part=refuse")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.send_part(upload, 0, data, 0)
        await s.send_part(upload, 1, small, 0)
        for index, content in ((0, data), (1, small)):
            with pytest.raises(Refused) as refused:
                await s.send_part(upload, index, content, 0)
            assert refused.value.code == 2
        await s.send_part(upload, 0, data, 1)
        await s.send_part(upload, 0, data, 2)
        with pytest.raises(Refused):
            await s.send_part(upload, 0, data, 2)
        fresh = await s.initialize()
        await s.upload(fresh, 0, data)
        await s.close()

    run(go())
    assert {r for r, _ in sandbox.held().values()} == {1, 2}


@pytest.mark.parametrize("value", ["yes", "no"])
def test_assume_parts_survive(sandboxes, make, value):
    data, _, _ = big_and_uids(make)
    sandbox = assumed(sandboxes, f"parts-survive={value}")

    async def go():
        s = await sandbox.session().open()
        a, b = await s.add_uploader(), await s.add_uploader()
        upload = await s.initialize()
        await s.send_part(upload, 0, data, 0, None, a)
        await s.send_part(upload, 0, data, 1, None, b)
        await a.close()
        await s.initialize()
        await s.send_part(upload, 0, data, 2, None, b)
        assert len(sandbox.held()) == (1 if value == "yes" else 0)
        await s.send_part(upload, 0, data, 0, None, b)
        assert len(sandbox.held()) == 1
        await s.close()

    run(go())


def test_assume_session_uuid(sandboxes, make):
    sandbox = assumed(sandboxes, "session-uuid=initialize")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        with pytest.raises(Refused):
            await s.upload(s.uuid, 0, make())
        with pytest.raises(Refused):
            await s.file_exists(s.uuid, "1.2", "1.3")
        await s.upload(upload, 0, make())
        await s.close()

    run(go())


def test_assume_upload_session_idle(sandboxes, make):
    sandbox = assumed(sandboxes, "upload-session-idle=1")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.upload(upload, 0, make())
        await asyncio.sleep(1.3)
        with pytest.raises(Refused):
            await s.upload(upload, 1, make())
        await s.upload(await s.initialize(), 0, make())
        await s.close()

    run(go())


@pytest.mark.parametrize("lost", ["refuse", "close"])
def test_assume_session_lifetime_and_lost(sandboxes, lost):
    sandbox = assumed(sandboxes, f"session-lifetime=2 session-lost={lost}")

    async def go():
        s = await sandbox.session().open()
        await s.initialize()
        await asyncio.sleep(2.3)
        with pytest.raises(Refused if lost == "refuse" else ConnectionError):
            await s.initialize()
        assert s.main.reader.done() == (lost == "close")
        await s.close()
        again = await sandbox.session().open()
        await again.initialize()
        await again.close()

    run(go())


@pytest.mark.parametrize("value", ["none", "close", "forget"])
def test_assume_displace(sandboxes, value):
    sandbox = assumed(sandboxes, f"displace={value}")

    async def go():
        first = await sandbox.session().open()
        uploader = await first.add_uploader()
        second = await sandbox.session().open()
        if value == "none":
            await first.initialize()
        elif value == "close":
            await first.main.wait_closed()
            await uploader.wait_closed()
            assert await first.add_uploader()  # its session lives on
            assert await first.file_exists(first.uuid, "1.2", "1.3", connection=first.uploaders[-1])
        else:
            with pytest.raises(Refused):
                await first.initialize()
        await second.initialize()
        await first.close()
        await second.close()

    run(go())


def test_assume_idle_close(sandboxes):
    sandbox = assumed(sandboxes, "idle-close=1")

    async def go():
        s = await sandbox.session().open()
        for _ in range(4):
            await asyncio.sleep(0.4)
            await s.list_folders()
        await s.main.wait_closed(10)
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["yes", "no"])
def test_assume_pong(sandboxes, value):
    sandbox = assumed(sandboxes, f"pong={value}")

    async def go():
        s = await sandbox.session().open()
        pong = await s.main.socket.ping()
        await s.list_folders()  # and the answers around it are whole
        if value == "yes":
            await asyncio.wait_for(pong, 30)
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(pong), 1)
        assert await s.list_folders()
        await s.close()

    run(go())


def test_assume_max_connections(sandboxes):
    sandbox = assumed(sandboxes, "max-connections=2")

    async def go():
        s = await sandbox.session().open()
        first, _ = await s.add_uploader(), await s.add_uploader()
        with pytest.raises(ConnectionError):
            await s.add_uploader()
        await first.close()
        await s.initialize()
        await s.add_uploader()
        await s.close()

    run(go())


@pytest.mark.parametrize("value, orders", [("study", 1), ("session", 2)])
def test_assume_orders_merge(sandboxes, make, value, orders):
    study = dicom.generate_uid()
    sandbox = assumed(sandboxes, f"orders-merge={value}")

    async def go():
        s = await sandbox.session().open()
        for _ in range(2):
            upload = await s.initialize()
            await s.upload(upload, 0, make(study=study))
            await s.upload(upload, 1, make(study=study))
        assert len(await s.search()) == orders
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["add", "first"])
def test_assume_folder_list(sandboxes, make, value):
    study = dicom.generate_uid()
    sandbox = assumed(sandboxes, f"folder-list={value}")

    async def go():
        s = await sandbox.session().open()
        a, b = await s.create_folder("a"), await s.create_folder("b")
        upload = await s.initialize()
        await s.upload(upload, 0, make(study=study), a)
        await s.upload(upload, 1, make(study=study), b)
        assert len(await s.search(FolderUuid=a)) == 1
        assert len(await s.search(FolderUuid=b)) == (1 if value == "add" else 0)
        await s.close()

    run(go())


@pytest.mark.parametrize("value, found", [("exact", ["CT"]), ("contains", ["CT", "PET/CT".replace("/", "-")])])
def test_assume_folder_search(sandboxes, value, found):
    sandbox = assumed(sandboxes, f"folder-search={value}")

    async def go():
        s = await sandbox.session().open()
        for name in ("CT", "PET-CT", "MR"):
            await s.create_folder(name)
        assert [f["FolderName"] for f in (await s.list_folders(name="CT"))["SubFolderList"]] == found
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["same", "error", "twin"])
def test_assume_create_existing(sandboxes, value):
    sandbox = assumed(sandboxes, f"create-existing={value}")

    async def go():
        s = await sandbox.session().open()
        first = await s.create_folder("a/b")
        assert await s.create_folder("a/c")  # the way there is never doubled
        if value == "error":
            with pytest.raises(Refused):
                await s.create_folder("a/b")
        else:
            assert (await s.create_folder("a/b") == first) == (value == "same")
        (a,) = (await s.list_folders())["SubFolderList"]
        names = [f["FolderName"] for f in (await s.list_folders(a["FolderUuid"]))["SubFolderList"]]
        assert names == (["b", "b", "c"] if value == "twin" else ["b", "c"])
        await s.close()

    run(go())


def test_assume_create_answer(sandboxes):
    sandbox = assumed(sandboxes, "create-answer=none")

    async def go():
        s = await sandbox.session().open()
        assert await s.create_folder("a") is None
        assert [f["FolderName"] for f in (await s.list_folders())["SubFolderList"]] == ["a"]
        await s.close()

    run(go())


@pytest.mark.parametrize("value", ["refuse", "ignore"])
def test_assume_folder_gone(sandboxes, make, value):
    sandbox = assumed(sandboxes, f"folder-gone={value}")
    data = make()

    async def go():
        s = await sandbox.session().open()
        folder = await s.create_folder("a")
        upload = await s.initialize()
        await s.general(4, FolderUuid=folder)
        if value == "refuse":
            with pytest.raises(Refused):
                await s.upload(upload, 0, data, folder)
        else:
            await s.upload(upload, 0, data, folder)
        await s.close()

    run(go())
    assert list(sandbox.held()) == ([] if value == "refuse" else [("", sha256(data))])


@pytest.mark.parametrize("value, current", [("replace", 1), ("keep", 0)])
def test_assume_same_instance(sandboxes, make, value, current):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    files = [make(study=study, sop=sop, seed=i) for i in range(2)]
    sandbox = assumed(sandboxes, f"same-instance={value}")

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        for index, data in enumerate(files):
            await s.upload(upload, index, data)
        await s.close()

    run(go())
    (order,) = sandbox.tree()["Orders"]
    assert [i["Sha256"] for i in order["Instances"] if i["Current"]] == [sha256(files[current])]
    assert len(order["Instances"]) == 2


def test_assume_answer_type(sandboxes):
    sandbox = assumed(sandboxes, "answer-type=6")

    async def go():
        s = await sandbox.session().open()
        members = s.keys({"UserUuid": s.user_uuid, "InstitutionUuid": s.institution, "TotalFileSize": 0})
        assert (await s.main.request(23, 1, members, user=s.user_uuid)).type == 6
        assert (await s.main.request(17, 22, s.keys({"UserUuid": s.user_uuid}))).type == 18
        await s.close()

    run(go())
