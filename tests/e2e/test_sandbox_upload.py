"""dcmferry-sandbox against the wire contract, through a client that was written from that contract alone: files,
and what is left of them after a restart."""

import asyncio
import struct

import pytest

import dicom
import pdclient
from pdclient import PART_SIZE, Refused
from sandbox import ACCOUNT_KEY, API_KEY, Sandbox
from sandboxing import OTHER_KEY, big_and_uids, make, run, sha256  # noqa: F401


# ---- Uploading ----


def test_real_files_arrive_byte_for_byte(sandbox, dicom_samples):
    """Whatever is taken is stored as it came; whatever is not has a reason."""
    files = {p: p.read_bytes() for p in dicom_samples}

    async def go():
        s = await sandbox.session().open()
        folder = await s.create_folder("all")
        for _ in range(4):
            await s.add_uploader()
        upload = await s.initialize()
        refused = {}
        waiting = list(enumerate(files))

        async def work(connection):
            while waiting:
                index, path = waiting.pop()
                data = files[path]
                try:
                    for part in range(max(1, -(-len(data) // PART_SIZE))):
                        await s.send_part(upload, index, data, part, folder, connection, timeout=60)
                except Refused as e:
                    refused[path] = e.message

        await asyncio.gather(*(work(c) for c in s.uploaders))
        await s.close()
        return refused

    refused = run(go(), 300)
    held = sandbox.held()
    assert all(refused.values())
    assert {("all", sha256(data)) for path, data in files.items() if path not in refused} == set(held)
    assert len(held) > 40 and len(refused) < len(files) / 3
    # What was sent as often as it lies there counts as often.
    for (_, digest), (receipts, _) in held.items():
        assert receipts == sum(1 for path, data in files.items() if sha256(data) == digest and path not in refused)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]])
def test_parts_in_any_order(sandbox, make, order):
    data, study, sop = big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize(len(data))
        for part in order[:-1]:
            await s.send_part(upload, 0, data, part)
        assert sandbox.held() == {}
        assert not (await s.file_exists(upload, study, sop))["FileIfExist"]
        last = await s.send_part(upload, 0, data, order[-1])
        # The answer to the last part means: it is there.
        assert sandbox.held() == {("", sha256(data)): (1, sop)}
        exists = await s.file_exists(upload, study, sop)
        assert exists["FileIfExist"]
        assert exists["PatientOrder"]["PatientOrderUuid"] == \
            last["ResponseMessage"]["PatientOrder"]["PatientOrderUuid"]
        await s.close()

    run(go())


def test_parts_over_several_connections_and_clients(sandbox, make):
    study = dicom.generate_uid()
    big = [make(4 * PART_SIZE + 12345, study=study, seed=i) for i in range(3)]
    small = [make(seed=100 + i) for i in range(40)]

    async def client(files, folder):
        s = await sandbox.session().open()
        uuid = await s.create_folder(folder)
        for _ in range(4):
            await s.add_uploader()
        await s.upload_all(files, uuid)
        await s.close()

    async def go():
        await asyncio.gather(client(big, "x/big"), client(small, "x/small"), client(big[:1] + small[:1], "y"))

    run(go())
    held = sandbox.held()
    # Orders are per study: y holds all of the big ones' study, which is one order.
    for data in big:
        receipts = 2 if data is big[0] else 1
        assert held["x/big", sha256(data)][0] == receipts and held["y", sha256(data)][0] == receipts
    assert {key for key in held if key[0] == "x/small"} == {("x/small", sha256(d)) for d in small}
    assert len([key for key in held if key[0] == "y"]) == 4
    orders = [o for f in sandbox.tree()["Folders"] if f["FolderName"] == "y" for o in f["Orders"]]
    assert sorted(len(o["Instances"]) for o in orders) == [1, 3]


def test_either_session_uuid_is_taken(sandbox, make):
    """As the vendor's client does without anonymisation; its FileIndex begins at 0 again with each Initialize."""
    one, (two, _, _) = make(), big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        for data in (one, two, one):
            await s.initialize(len(data))
            await s.upload(s.uuid, 0, data)
        with pytest.raises(Refused):
            await s.upload(OTHER_KEY, 0, one)
        await s.close()

    run(go())
    assert {digest: receipts for (_, digest), (receipts, _) in sandbox.held().items()} == {
        sha256(one): 2, sha256(two): 1}


def test_receipts_and_versions(sandbox, make):
    study, sop = dicom.generate_uid(), dicom.generate_uid()
    one = make(study=study, sop=sop, seed=1)
    other = make(study=study, sop=sop, seed=2)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        for index, data in enumerate([one, one, other, one]):
            await s.upload(upload, index, data)
        await s.close()

    run(go())
    assert sandbox.held() == {("", sha256(one)): (3, sop), ("", sha256(other)): (1, sop)}
    (order,) = sandbox.tree()["Orders"]
    assert {i["Sha256"]: i["Current"] for i in order["Instances"]} == {sha256(one): True, sha256(other): False}
    text = sandbox.ls("-l")
    assert sha256(one) in text and sha256(other) in text and "other version" in text


def test_repeated_parts(sandbox, make):
    """A part whose answer was lost comes again: no second receipt, unless all parts do."""
    data, _, sop = big_and_uids(make)
    other, _, sop2 = big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        for part in (0, 0, 1, 1, 0, 2):
            await s.send_part(upload, 0, data, part)
        assert sandbox.held() == {("", sha256(data)): (1, sop)}
        again = await s.send_part(upload, 0, data, 2)
        assert again["ResponseMessage"]["PatientOrder"]["PatientOrderUuid"]
        assert sandbox.held() == {("", sha256(data)): (1, sop)}
        for part in (0, 1):
            await s.send_part(upload, 0, data, part)
        assert sandbox.held() == {("", sha256(data)): (2, sop)}
        # Other bytes under the same FileIndex are another file.
        for part in range(3):
            await s.send_part(upload, 0, other, part)
        await s.close()

    run(go())
    assert sandbox.held() == {("", sha256(data)): (2, sop), ("", sha256(other)): (1, sop2)}


def test_all_parts_at_once_twice(sandbox, make):
    """Repeats that arrive while the file is being finished wait for it."""
    data, _, sop = big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        connections = [await s.add_uploader() for _ in range(6)]
        await asyncio.gather(*(s.send_part(upload, 0, data, i % 3, None, c) for i, c in enumerate(connections)))
        await s.close()

    run(go())
    ((receipts, uid),) = sandbox.held().values()
    assert uid == sop and receipts in (1, 2)


@pytest.mark.parametrize("what", ["text", "empty", "truncated", "no uid", "large text"])
def test_what_is_no_dicom_is_refused(sandbox, make, what):
    data = {"text": b"I am a text file, not an image\n" * 50, "empty": b"", "truncated": make(9000)[:-3000],
            "no uid": pydicom_without_uid(), "large text": b"x" * (2 * PART_SIZE + 5)}[what]

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        with pytest.raises(Refused) as refused:
            await s.upload(upload, 0, data)
        assert refused.value.code != 1 and len(refused.value.message) > 5
        await s.upload(upload, 1, make())  # and goes on
        await s.close()

    run(go())
    assert len(sandbox.held()) == 1
    assert len(list((sandbox.state / "instances").rglob("*.dcm"))) == 1
    assert list((sandbox.state / "incoming").iterdir()) == []


def pydicom_without_uid():
    meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    body = b"\x08\x00\x60\x00CS\x02\x00CT" + b"\x10\x00\x10\x00PN\x04\x00A^B "
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta + body


@pytest.mark.parametrize("members, size", [
    (dict(FileIndex=-1), 10), (dict(FileIndex="0"), 10), (dict(FileIndex=0.5), 10),
    (dict(CurrentFilePartIndex=1), 10), (dict(CurrentFileTotalPartCount=0), 10),
    (dict(CurrentFileTotalPartCount=2), 10), (dict(CurrentFileTotalPartCount=10 ** 12), 10),
    (dict(), PART_SIZE + 1), (dict(InstitutionUuid=OTHER_KEY), 0), (dict(UserUuid=OTHER_KEY), 0),
    (dict(FolderUuidList=[OTHER_KEY]), 0), (dict(FolderUuidList=[7]), None)])
def test_wrong_parameters_of_parts(sandbox, make, members, size):
    data = make() if not size else bytes(size)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        request = s.upload_request(pdclient.PROCESS_FILE, {**s.part_members(upload, 0, 0, 1), **members}, data)
        if members.get("FolderUuidList") == [7]:
            await request  # no folder at all: as if the list were empty
        else:
            with pytest.raises(Refused):
                await request
            assert sandbox.held() == {}
            assert list((sandbox.state / "instances").rglob("*.dcm")) == []
        await s.close()

    run(go())


def test_cancel_forgets_unfinished_files(sandbox, make):
    data, _, _ = big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.send_part(upload, 0, data, 0)
        await s.upload_request(pdclient.CANCEL, {"SessionUniqueUuid": upload})
        await s.send_part(upload, 0, data, 1)
        await s.send_part(upload, 0, data, 2)
        assert sandbox.held() == {}
        await s.send_part(upload, 0, data, 0)
        await s.close()

    run(go())
    assert len(sandbox.held()) == 1


def test_documents(sandbox, make):
    study = make()
    small, large = b"%PDF-1.4\ntiny\n", b"%PDF" + bytes(range(256)) * 5000

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        answers = await s.upload(upload, 0, study)
        order = answers[0]["ResponseMessage"]["PatientOrder"]["PatientOrderUuid"]

        async def document(index, name, data, part=0, total=1, order=order):
            members = {**s.part_members(upload, index, part, total), "PatientOrderUuid": order, "FileName": name,
                       "FileType": "application/pdf", "IsDocument": True}
            return await s.upload_request(pdclient.PROCESS_DOCUMENTS, members, data)

        await document(1, "a.pdf", small)
        await document(1, "a.pdf", small)  # the vendor's client repeats its last message
        for part in range(3):              # and sends a long one whole in every part
            await document(2, "b.PDF", large, part, 3)
        for part in range(3):
            await document(3, "c.pdf", large[part * PART_SIZE:(part + 1) * PART_SIZE], part, 3)
        for name, target in (("a.exe", order), ("pdf", order), ("a.pdf", OTHER_KEY)):
            with pytest.raises(Refused):
                await document(4, name, small, order=target)
        assert (await s.search())[0]["DocumentsCount"] == 3
        await s.close()

    run(go())
    (order,) = sandbox.tree()["Orders"]
    assert {d["FileName"]: (d["Sha256"], d["Receipts"]) for d in order["Documents"]} == {
        "a.pdf": (sha256(small), 2), "b.PDF": (sha256(large), 1), "c.pdf": (sha256(large), 1)}


def test_study_without_uid_and_merged_modalities(sandbox, make):
    study = dicom.generate_uid()

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        await s.upload(upload, 0, make(study=study, modality="SR", sop_class=dicom.SR))
        await s.upload(upload, 1, make(study=study, modality="CT"))
        await s.upload(upload, 2, make(study=study, modality="CT"))
        (order,) = await s.search()
        assert (order["OrderModality"], order["ImagesCount"], order["OrderStatus"]) == ("SR\\CT", 3, "Completed")
        assert len(await s.search(Modalities=["CT"])) == 1
        await s.close()

    run(go())


# ---- Durability ----


def test_everything_is_there_again_after_a_restart(sandbox, make):
    data, study, sop = big_and_uids(make)
    unfinished, _, _ = big_and_uids(make)

    async def before():
        s = await sandbox.session().open()
        folder = await s.create_folder("a/b")
        upload = await s.initialize()
        await s.upload(upload, 0, data, folder)
        await s.send_part(upload, 1, unfinished, 0)
        await s.close()
        return upload

    async def after(old):
        s = await sandbox.session().open()
        upload = await s.initialize()
        assert (await s.file_exists(upload, study, sop))["FileIfExist"]
        # Parts of unfinished files went with their upload session.
        with pytest.raises(Refused) as refused:
            await s.send_part(old, 1, unfinished, 1)
        assert refused.value.code != 1
        (folder,) = (await s.list_folders())["SubFolderList"]
        assert (folder["FolderName"], folder["AllSubOrderCount"]) == ("a", 1)
        await s.close()

    users = sandbox.users
    old = run(before())
    assert sandbox.stop() == 0
    sandbox.start()
    assert sandbox.users == users
    assert list((sandbox.state / "incoming").iterdir()) == []
    run(after(old))
    assert sandbox.held() == {("a/b", sha256(data)): (1, sop)}


@pytest.mark.parametrize("round", range(5))
def test_kill_keeps_what_was_answered(sandbox, make, round):
    files = [make(2000 + 700 * i, seed=f"{round}/{i}") for i in range(60)]
    files += [big_and_uids(make)[0] for _ in range(2)]
    answered = set()

    async def go():
        s = await sandbox.session().open()
        folder = await s.create_folder("k")
        upload = await s.initialize()
        connections = [await s.add_uploader() for _ in range(4)]
        waiting = list(range(len(files)))

        async def work(connection):
            while waiting:
                index = waiting.pop(0)
                try:
                    for part in range(max(1, -(-len(files[index]) // PART_SIZE))):
                        await s.send_part(upload, index, files[index], part, folder, connection)
                except ConnectionError:
                    return
                answered.add(index)
                if len(answered) == 10 + 9 * round:
                    sandbox.kill()

        await asyncio.gather(*(work(c) for c in connections))
        assert not sandbox.running()

    run(go())
    sandbox.start()
    held = sandbox.held()  # checks every file's hash
    assert {("k", sha256(files[i])) for i in answered} <= set(held)
    assert set(held) <= {("k", sha256(f)) for f in files}
    assert all(receipts == 1 for receipts, _ in held.values())


def test_one_sandbox_per_state_folder(sandbox, build):
    second = Sandbox(build, sandbox.state)
    with pytest.raises(AssertionError, match="did not start"):
        second.start()
    assert second.process.wait(30) == 1
    second.process.stdout.close()


def test_nothing_private_in_the_log(sandboxes, make):
    sandbox = sandboxes("--log-level", "debug")

    async def go():
        s = await sandbox.session().open()
        await s.create_folder(dicom.PATIENT_NAME)
        upload = await s.initialize()
        await s.upload(upload, 0, make())
        for data in (b"junk", make()[:-2000]):
            with pytest.raises(Refused):
                await s.upload(upload, 1, data)
        with pytest.raises(Refused):
            await s.general(5, PatientName=dicom.PATIENT_NAME + "x")
        await s.close()

    run(go())
    sandbox.stop()
    log = sandbox.log()
    assert "connection opened" in log and "request refused" in log
    for word in (dicom.PATIENT_NAME, dicom.PATIENT_ID, ACCOUNT_KEY, API_KEY, str(sandbox.state)):
        assert word.lower() not in log.lower()


# ---- Discard ----


def test_discard_answers_and_keeps_nothing(sandboxes, make):
    sandbox = sandboxes("--discard")
    data, study, sop = big_and_uids(make)

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        answers = await s.upload(upload, 0, data)
        assert all(a["ResponseMessage"]["PatientOrder"]["PatientOrderUuid"] for a in answers.values())
        assert not (await s.file_exists(upload, study, sop))["FileIfExist"]
        await s.upload(upload, 1, b"not even DICOM")
        with pytest.raises(Refused):
            await s.upload(OTHER_KEY, 1, data)
        with pytest.raises(Refused):
            await s.upload_request(3, s.part_members(upload, 0, 5, 2), data[:10])
        assert await s.create_folder("folders/work")
        await s.close()

    run(go())
    assert sandbox.held() == {}
    assert list((sandbox.state / "incoming").iterdir()) == []
