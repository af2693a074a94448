"""dcmferry-sandbox against the wire contract, through a client that was written from that contract alone."""

import asyncio
import base64
import hashlib
import json
import ssl
import struct
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import websockets

import dicom
import pdclient
from conftest import shared
from pdclient import NIL, PART_SIZE, Refused
from sandbox import ACCOUNT_KEY, API_KEY, Sandbox

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


# ---- Opening a session ----


def test_login_gives_the_account(sandboxes):
    sandbox = sandboxes("--user", "a@example.org", "--user", "b@example.org", "--institution", "Main Hospital")

    async def go():
        s = await sandbox.session().open()
        assert [u["UserName"] for u in s.account["UserList"]] == ["a@example.org", "b@example.org"]
        assert s.user["InstitutionList"] == [{"InstitutionUuid": sandbox.institutions["Main Hospital"],
                                              "InstitutionName": "Main Hospital"}]
        assert s.user_uuid == sandbox.users["a@example.org"]
        await s.close()

    run(go())


@pytest.mark.parametrize("slash", ["/", "", "//", "/router/", "/wssShellService"])
def test_any_router_path_with_and_without_slash(sandbox, slash):
    async def go():
        s = sandbox.session()
        s.router = sandbox.url.rstrip("/") + slash
        await s.open()
        # The addresses come from the Host header that the client used.
        assert s.address.startswith(f"ws://127.0.0.1:{sandbox.port}/")
        await s.close()

    run(go())


def test_addresses_follow_the_host_header(sandbox):
    parameters = {"RouterKey": ACCOUNT_KEY, "AddressType": "1", "AdapterType": "2"}
    answer = pdclient.get(f"http://localhost:{sandbox.port}/", 4, parameters, API_KEY)
    assert answer == {"ResponseCode": 1, "ResponseMessage": f"http://localhost:{sandbox.port}/region/"}
    request = f"{sandbox.url}?RequestType=4&Parameters=%7B%22RouterKey%22%3A%22{ACCOUNT_KEY}%22%2C%22AddressType%22" \
              f"%3A%222%22%7D&ClientUniqueId={API_KEY}"
    odd = urllib.request.Request(request, headers={"Host": 'evil"\\/<x>'})
    with urllib.request.urlopen(odd) as response:
        assert json.loads(response.read())["ResponseMessage"] == f"ws://127.0.0.1:{sandbox.port}/socket"


@pytest.mark.parametrize("account, api", [(OTHER_KEY, API_KEY), (ACCOUNT_KEY, OTHER_KEY), ("", API_KEY)])
def test_wrong_keys_are_refused(sandbox, account, api):
    async def go():
        with pytest.raises(Refused) as refused:
            await pdclient.Session(sandbox.url, account, api).open()
        assert refused.value.code != 1 and refused.value.message

    run(go())


def test_wrong_keys_are_refused_at_every_later_step(sandbox):
    region = sandbox.url + "region/"
    good = {"TransactionType": "3", "AccountKey": ACCOUNT_KEY, "ApiKey": API_KEY}
    assert pdclient.get(region, 7, good, API_KEY)["ResponseCode"] == 1
    assert pdclient.get(region, 7, dict(good, ApiKey=OTHER_KEY), API_KEY)["ResponseCode"] != 1
    assert pdclient.get(region, 7, dict(good, AccountKey=OTHER_KEY), API_KEY)["ResponseCode"] != 1
    assert pdclient.get(region, 7, good, OTHER_KEY)["ResponseCode"] != 1
    assert pdclient.get(region, 9, good, API_KEY)["ResponseCode"] != 1

    async def go():
        with pytest.raises(websockets.InvalidStatusCode) as refused:
            await websockets.connect(f"ws://127.0.0.1:{sandbox.port}/?ClientUniqueId={OTHER_KEY}")
        assert refused.value.status_code == 403

        s = await sandbox.session().open()
        fresh = await s.connect()
        # Not registered; registered with another key; with a session that does not exist.
        answer = await fresh.request(17, 22, s.keys({"UserUuid": s.user_uuid}))
        assert not answer.success and answer.result["ResponseCode"] != 1
        wrong = dict(s.session_parameters(), OtherParameterList=["Api=" + s.uuid, "ApiKey=" + OTHER_KEY])
        assert not (await fresh.request(3, 2, wrong)).success
        unknown = {"SessionUuid": OTHER_KEY, "OtherParameterList": ["Api=" + OTHER_KEY, "ApiKey=" + API_KEY]}
        assert not (await fresh.request(3, 4, unknown)).success
        # Keys in the parameters.
        answer = await s.main.request(17, 22, {"UserUuid": s.user_uuid, "ApiKey": OTHER_KEY,
                                               "AccountKey": ACCOUNT_KEY})
        assert not answer.success and answer.result["ResponseCode"] != 1
        with pytest.raises(Refused):
            await s.general(22, UserUuid=OTHER_KEY)
        await s.close()

    run(go())


def test_answer_frames_match_the_contract(sandbox):
    async def go():
        s = await sandbox.session().open()
        # Several in flight on one connection: each answer finds its request.
        futures = [s.main.send(17, 3, s.keys({"UserUuid": s.user_uuid, "ParentFolderUuid": NIL, "FolderName": "",
                                              "GetOrdersInFolder": False})) for _ in range(50)]
        answers = await asyncio.gather(*futures)
        assert [a.request_id for a in answers] == list(range(2, 52))
        assert {a.type for a in answers} == {18} and {a.management for a in answers} == {3}
        assert all(a.success and a.result["ResponseCode"] == 1 for a in answers)
        assert len({a.id for a in answers}) == 50
        answer = await s.main.request(3, 2, s.session_parameters())
        assert answer.type == 4
        await s.close()

    run(go())


@pytest.mark.parametrize("zero", [True, False])
def test_trailing_zero_is_optional(sandbox, make, zero):
    data = make()

    async def go():
        s = sandbox.session()
        s.trailing_zero = zero
        await s.open()
        await s.create_folder("a")
        await s.upload(await s.initialize(), 0, data)
        await s.close()

    run(go())
    assert list(sandbox.held()) == [("", sha256(data))]


def test_text_and_broken_messages(sandbox):
    async def go():
        s = await sandbox.session().open()
        await s.main.socket.send("hello, this is text")
        assert await s.list_folders()  # still served
        broken = await s.connect()
        await broken.socket.send(b"\x03\x00\x01")
        await broken.wait_closed()
        for frame in (struct.pack("<HIii", 17, 1, 1, 1 << 30), struct.pack("<HIii", 17, 1, 1, -1),
                      struct.pack("<HIii", 17, 1, 1, 3) + b"{}x", struct.pack("<HIii", 99, 1, 1, 2) + b"{}",
                      struct.pack("<HIii", 17, 1, 1, 4) + b"{\xff}\0"):
            broken = await s.connect()
            await broken.socket.send(frame)
            await broken.wait_closed()
        large = await s.connect()
        try:
            await large.socket.send(bytes(17 << 20))
        except websockets.ConnectionClosed:
            pass
        await large.wait_closed()
        assert await s.list_folders()
        await s.close()

    run(go())
    assert "text message" in sandbox.log()


def test_fragmented_messages_and_pings(sandbox, make):
    """RFC 6455, 5.4: control frames may stand between the fragments of a message."""
    data = make(PART_SIZE - 1000)
    data = data[:PART_SIZE]

    async def go():
        s = await sandbox.session().open()
        upload = await s.initialize()
        frame = pdclient.encode(23, 77, 3, s.keys(s.part_members(upload, 0, 0, 1)), data, s.user_uuid)

        async def fragments():
            for i in range(0, len(frame), 100_000):
                yield frame[i:i + 100_000]

        future = asyncio.get_running_loop().create_future()
        s.main.waiting[77] = future
        sending = asyncio.ensure_future(s.main.socket.send(fragments()))
        pongs = [await s.main.socket.ping() for _ in range(5)]
        await sending
        answer = await asyncio.wait_for(future, 30)
        assert answer.result["ResponseCode"] == 1
        await asyncio.wait_for(asyncio.gather(*pongs), 30)
        await s.close()

    run(go())
    assert len(sandbox.held()) == 1


# ---- Folders and orders ----


def test_folders(sandbox):
    async def go():
        s = await sandbox.session().open()
        leaf = await s.create_folder("Radiology/CT/2026")
        assert await s.create_folder("Radiology/CT/2026") == leaf
        top = await s.list_folders()
        assert [f["FolderName"] for f in top["SubFolderList"]] == ["Radiology"]
        radiology = top["SubFolderList"][0]
        assert (radiology["SubFolderCount"], radiology["AllSubFolderCount"]) == (1, 2)
        mr = await s.create_folder("MR", radiology["FolderUuid"], "magnets")
        names = (await s.list_folders(radiology["FolderUuid"]))["SubFolderList"]
        assert {f["FolderName"]: f["FolderDescription"] for f in names} == {"CT": "", "MR": "magnets"}
        # By name: whole names only.
        assert [f["FolderUuid"] for f in (await s.list_folders(radiology["FolderUuid"], "MR"))["SubFolderList"]] == [mr]
        assert (await s.list_folders(radiology["FolderUuid"], "M"))["SubFolderList"] == []
        # An empty parent is the root too.
        assert [f["FolderName"] for f in (await s.list_folders(""))["SubFolderList"]] == ["Radiology"]
        odd = await s.create_folder('Søndag "quoted" \\ back', radiology["FolderUuid"])
        found = await s.list_folders(radiology["FolderUuid"], 'Søndag "quoted" \\ back')
        assert found["SubFolderList"][0]["FolderUuid"] == odd
        await s.general(27, FolderUuid=mr, JsonParameters={"IdentityInformation": {"Name": "NM", "Description": "d"}})
        assert "NM" in {f["FolderName"] for f in (await s.list_folders(radiology["FolderUuid"]))["SubFolderList"]}
        await s.general(4, FolderUuid=radiology["FolderUuid"])
        assert (await s.list_folders())["SubFolderList"] == []
        for gone in (radiology["FolderUuid"], leaf, OTHER_KEY):
            with pytest.raises(Refused):
                await s.list_folders(gone)
        with pytest.raises(Refused):
            await s.create_folder("x", OTHER_KEY)
        with pytest.raises(Refused):
            await s.create_folder("/")
        await s.close()

    run(go())


def test_search(sandboxes, make):
    sandbox = sandboxes("--institution", "North", "--institution", "South")

    async def go():
        s = await sandbox.session().open()
        files = [make(PatientName="DOE^JANE", PatientID="P1", AccessionNumber="A1", modality="CT",
                      StudyDate="20260131", PatientBirthDate="19500101", OtherPatientIDs="O1"),
                 make(PatientName="Doe^John", PatientID="P2", AccessionNumber="A2", modality="MR",
                      StudyDate="20260215", PatientBirthDate="19700228"),
                 make(PatientName="山田^太郎", PatientID="P3", modality="US", StudyDate="20260301",
                      SpecificCharacterSet="ISO_IR 192")]
        await s.upload_all(files)

        async def ids(**members):
            return [o["PatientId"] for o in await s.search(**members)]

        assert await ids() == ["P1", "P2", "P3"]
        assert await ids(PatientName="doe") == ["P1", "P2"]
        assert await ids(PatientName="太郎") == ["P3"]
        assert await ids(PatientId="P2") == ["P2"] and await ids(PatientId="P") == []
        assert await ids(AccessionNumber="A1") == ["P1"]
        assert await ids(OtherPatientId="O1") == ["P1"]
        assert await ids(Modalities=["CT", "US"]) == ["P1", "P3"]
        assert await ids(Modalities="MR") == ["P2"] and await ids(Modalities="") == ["P1", "P2", "P3"]
        assert await ids(StartDate="2026-02-01", EndDate="2026-02-28") == ["P2"]
        assert await ids(StartBirthdate="1960-01-01", EndBirthdate="1980-12-31") == ["P2"]
        assert await ids(InstitutionUuidList=[sandbox.institutions["North"]]) == ["P1", "P2", "P3"]
        assert await ids(InstitutionUuidList=[sandbox.institutions["South"]]) == []
        order = (await s.search(PatientId="P1"))[0]
        assert (order["PerformedDatetime"][:10], order["PatientBirthdate"]) == ("2026-01-31", "1950-01-01")
        await s.close()

    run(go())


def test_orders_in_folders(sandbox, make):
    first, second = make(), make()

    async def go():
        s = await sandbox.session().open()
        a, b = await s.create_folder("a"), await s.create_folder("b")
        upload = await s.initialize()
        answers = await s.upload(upload, 0, first, a)
        order = answers[0]["ResponseMessage"]["PatientOrder"]["PatientOrderUuid"]
        await s.upload(upload, 1, second)
        assert [o["PatientOrderUuid"] for o in await s.search(FolderUuid=a)] == [order]
        assert await s.search(FolderUuid=b) == []
        for _ in range(2):  # adding again changes nothing
            await s.general(8, PatientOrderInstitutionUuid=s.institution, PatientOrderUuid=order, FolderUuidList=[b])
        assert [o["PatientOrderUuid"] for o in (await s.list_folders(b, orders=True))["PatientOrderList"]] == [order]
        assert (await s.list_folders(b))["PatientOrderList"] == []
        await s.general(9, FolderUuid=a, PatientOrderUuidList=[order])
        assert await s.search(FolderUuid=a) == []
        assert set(sandbox.held()) == {("b", sha256(first)), ("", sha256(second))}
        for members in (dict(PatientOrderUuid=OTHER_KEY, FolderUuidList=[b]),
                        dict(PatientOrderUuid=order, FolderUuidList=[OTHER_KEY])):
            with pytest.raises(Refused):
                await s.general(8, PatientOrderInstitutionUuid=s.institution, **members)
        await s.general(6, PatientOrderInstitutionUuid=s.institution, PatientOrderUuid=order)
        assert await s.search(FolderUuid=b) == []
        await s.close()

    run(go())


def test_created_orders(sandbox):
    async def go():
        s = await sandbox.session().open()
        made = await s.general(7, InstitutionUuid=s.institution, PatientName="DOE^JANE", PatientID="P1",
                               OrderModality="CT", StudyDescription="Chest", PerformedDatetime="2026-11-23 09:30")
        made2 = await s.general(25, InstitutionUuid=s.institution, JsonParameters={
            "IdentityInformation": {"Name": "ROE", "Id": "P2", "Birthdate": "2000-01-01"},
            "StudyInformation": {"StudyDate": "2026-01-01 16:00"}, "OtherInformation": {}, "Modality": "MR"})
        assert {o["PatientId"]: o["OrderModality"] for o in await s.search()} == {"P1": "CT", "P2": "MR"}
        one = await s.general(13, PatientOrderInstitutionUuid=s.institution,
                              PatientOrderUuid=made["PatientOrder"]["PatientOrderUuid"])
        assert one["PatientOrder"]["PerformedDatetime"] == "2026-11-23 09:30"
        assert made2["PatientOrder"]["PatientBirthdate"] == "2000-01-01"
        assert (await s.general(5, PatientOrderUuid=made["PatientOrder"]["PatientOrderUuid"]))["Result"].startswith("http")
        with pytest.raises(Refused):
            await s.general(5, PatientOrderUuid=OTHER_KEY)
        await s.close()

    run(go())


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


# ---- The vendor's client ----


def test_vendor_frames_replayed_in_order(sandboxes):
    path = shared("reference", "vendor-frames.json")
    if path is None:
        pytest.skip("the recorded frames (vendor-frames.json) are not beside the project")
    recorded = json.loads(path.read_text())
    sandbox = sandboxes("--permissive", account_key=recorded["accountKey"], api_key=recorded["apiKey"])
    small = base64.b64decode(recorded["files"]["small.dcm"])
    pixels = bytes((7 * i + 3) % 251 for i in range(1_300_000))
    files = [small + element + pixels for element in (
        b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", len(pixels)), b"\xe0\x7f\x10\x00" + struct.pack("<I", len(pixels)))]

    def whole(frame):
        """The message; of the long ones (first bytes, length and SHA-256 recorded) rebuilt from the file."""
        if isinstance(frame, str):
            return bytes.fromhex(frame)
        prefix = bytes.fromhex(frame["prefix"])
        (size,) = struct.unpack_from("<i", prefix, 10)
        parameters = json.loads(prefix[14:14 + size])
        part = parameters["CurrentFilePartIndex"]
        for data in files:
            message = prefix[:14 + size]
            body = data[part * PART_SIZE:(part + 1) * PART_SIZE]
            user = parameters["UserUuid"].encode()
            message += struct.pack("<i", len(body)) + body + bytes([len(user)]) + user + b"\0"
            if sha256(message) == frame["sha256"]:
                assert len(message) == frame["bytes"]
                return message
        raise AssertionError("a recorded frame cannot be rebuilt")

    async def go():
        for address in recorded["http"]:
            query = address.split("?", 1)[1].replace("<ms>", "1")
            query = query.replace("{", "%7B").replace("}", "%7D").replace('"', "%22")
            with urllib.request.urlopen(f"{sandbox.url}?{query}") as response:
                assert json.loads(response.read())["ResponseCode"] == 1
        socket = await websockets.connect(f"ws://127.0.0.1:{sandbox.port}/?ClientUniqueId={recorded['apiKey']}",
                                          compression=None, max_size=None)
        for vector in recorded["vectors"]:
            for frame in vector["frames"]:
                message = whole(frame)
                await socket.send(message)
                answer = pdclient.Answer(await asyncio.wait_for(socket.recv(), 30))
                assert answer.request_id == struct.unpack_from("<I", message, 2)[0], vector["method"]
                assert answer.success and answer.result["ResponseCode"] == 1, (vector["method"], answer.message)
                inner = answer.result.get("ResponseMessage")
                if message[0] == 17:
                    assert inner["Success"] is True, (vector["method"], inner)
        await socket.close()

    run(go())
    held = sandbox.held()
    folder = "new"  # as UpdateFolderWithJSON called it
    assert (folder, sha256(small)) in held
    assert held[folder, sha256(small)][0] == sum(
        1 for v in recorded["vectors"] if v["method"].startswith("UploadDicom"))
    assert {digest for f, digest in held if f == folder} - {sha256(small)} <= {sha256(f) for f in files}
    assert len({digest for f, digest in held if f == folder}) == 2


# ---- TLS ----


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """ca.pem, server.pem/.key for 127.0.0.1, client.pem/.key, and a stranger's CA."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "stranger"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name, ca in (("server", "ca"), ("client", "ca"), ("impostor", "stranger")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")
    return folder


def tls_context(certificates, client=None):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    if client:
        context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
    return context


def test_tls(sandboxes, certificates, make):
    sandbox = sandboxes("--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key")
    assert sandbox.url.startswith("https://")
    files = [make(3 * PART_SIZE + 7, seed=i) for i in range(4)] + [make(seed=50 + i) for i in range(30)]

    async def go():
        s = await sandbox.session(tls_context(certificates)).open()
        assert s.address.startswith("wss://")
        for _ in range(4):
            await s.add_uploader()
        await s.upload_all(files)
        await s.close()

    run(go())
    assert {digest for _, digest in sandbox.held()} == {sha256(f) for f in files}


def test_tls_client_certificate(sandboxes, certificates, make):
    sandbox = sandboxes("--tls-cert", certificates / "server.pem", "--tls-key", certificates / "server.key",
                        "--tls-client-ca", certificates / "ca.pem")

    async def go():
        s = await sandbox.session(tls_context(certificates, "client")).open()
        await s.upload_all([make()])
        await s.close()
        for client in (None, "impostor"):
            with pytest.raises((OSError, urllib.error.HTTPError)):
                await sandbox.session(tls_context(certificates, client)).open()
            with pytest.raises((OSError, websockets.InvalidStatusCode, websockets.InvalidMessage)):
                await websockets.connect(f"wss://127.0.0.1:{sandbox.port}/?ClientUniqueId={API_KEY}",
                                         ssl=tls_context(certificates, client))

    run(go())
    assert len(sandbox.held()) == 1


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


# ---- Faults ----


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


# ---- Assumptions ----


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
