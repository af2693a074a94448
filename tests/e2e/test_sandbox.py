"""dcmferry-sandbox against the wire contract, through a client that was written from that contract alone: sessions, folders and orders."""

import asyncio
import base64
import json
import struct
import urllib.request

import pytest
import websockets

import pdclient
from conftest import shared
from pdclient import NIL, PART_SIZE, Refused
from sandbox import ACCOUNT_KEY, API_KEY
from sandboxing import OTHER_KEY, make, run, sha256  # noqa: F401


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
