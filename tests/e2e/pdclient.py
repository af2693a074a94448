"""A small client of the PostDICOM Cloud API, written from the wire contract alone.

It shares no code with dcmferry, so that the sandbox is not only tested against its own author's reading of the
protocol. asyncio; one Session holds the main connection and any number of upload connections.
"""

import asyncio
import json
import ssl
import struct
import time
import urllib.parse
import urllib.request

import websockets

PART_SIZE = 524288
NIL = "00000000-0000-0000-0000-000000000000"

SESSION, GENERAL, UPLOAD = 3, 17, 23
CREATE_SESSION, REGISTER_SESSION, FORCE_REGISTER, CREATE_API_SESSION = 1, 2, 3, 4
INITIALIZE, CHECK_FILE_EXIST, PROCESS_FILE, PROCESS_DOCUMENTS, ATTACH_DOCUMENT, CANCEL, ERROR = range(1, 8)


class Refused(Exception):
    """The server answered, and the answer is no."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Answer:
    def __init__(self, data):
        """Section 2 of the contract, read strictly: nothing may be left over."""
        self.type, self.id, self.request_id, self.success = struct.unpack_from("<HIIB", data)
        pos = 11
        (size,) = struct.unpack_from("<i", data, pos)
        self.message = data[pos + 4 : pos + 4 + size].decode()
        pos += 4 + size
        self.management, size = struct.unpack_from("<ii", data, pos)
        pos += 8
        if pos + size != len(data):
            raise ValueError(f"answer has {len(data)} bytes, its fields {pos + size}")
        self.result = json.loads(data[pos:].decode())


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def encode(type, id, management, parameters, data=b"", user="", trailing_zero=True):
    body = parameters if isinstance(parameters, bytes) else dumps(parameters)
    frame = struct.pack("<HIii", type, id, management, len(body)) + body
    if type == UPLOAD:
        user = user.encode()
        frame += struct.pack("<i", len(data)) + data + struct.pack("<B", len(user)) + user
    if type != SESSION and trailing_zero:
        frame += b"\0"
    return frame


class Connection:
    def __init__(self, socket, trailing_zero=True):
        self.socket = socket
        self.trailing_zero = trailing_zero
        self.next_id = 0
        self.waiting = {}
        self.texts = []
        self.garbage = 0
        self.reader = asyncio.ensure_future(self._read())

    async def _read(self):
        try:
            async for message in self.socket:
                if isinstance(message, str):
                    self.texts.append(message)
                    continue
                try:
                    answer = Answer(message)
                except (struct.error, ValueError):
                    self.garbage += 1
                    continue
                future = self.waiting.pop(answer.request_id, None)
                if future and not future.done():
                    future.set_result(answer)
        except websockets.ConnectionClosed:
            pass
        finally:
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(ConnectionError("the connection was lost"))
            self.waiting.clear()

    def send(self, type, management, parameters, data=b"", user=""):
        """Returns a future of the answer; several may be in flight."""
        self.next_id += 1
        future = asyncio.get_running_loop().create_future()
        if self.reader.done():
            future.set_exception(ConnectionError("the connection was lost"))
            return future
        id = self.next_id
        self.waiting[id] = future
        frame = encode(type, id, management, parameters, data, user, self.trailing_zero)
        sending = asyncio.ensure_future(self.socket.send(frame))
        sending.add_done_callback(lambda f: f.cancelled() or f.exception())
        return future

    async def request(self, type, management, parameters, data=b"", user="", timeout=30):
        return await asyncio.wait_for(self.send(type, management, parameters, data, user), timeout)

    async def close(self):
        await self.socket.close()
        await asyncio.gather(self.reader, return_exceptions=True)

    async def wait_closed(self, timeout=30):
        await asyncio.wait_for(asyncio.shield(self.reader), timeout)


def get(address, request_type, parameters, api_key, context=None):
    """One of the HTTP GETs; returns the whole answer."""
    query = urllib.parse.urlencode(
        {"RequestType": request_type, "Parameters": dumps(parameters).decode(), "ClientUniqueId": api_key,
         "Cache": str(int(time.time() * 1000))}, quote_via=urllib.parse.quote)
    with urllib.request.urlopen(f"{address}?{query}", timeout=30, context=context) as response:
        return json.loads(response.read())


class Session:
    def __init__(self, router, account_key, api_key, context=None):
        self.router, self.account_key, self.api_key = router, account_key.strip(), api_key.strip()
        self.context = context
        self.trailing_zero = True
        self.connections = []
        self.uploaders = []

    def _get(self, address, request_type, parameters):
        answer = get(address, request_type, parameters, self.api_key, self.context)
        if answer["ResponseCode"] != 1:
            raise Refused(answer["ResponseCode"], answer["ResponseMessage"])
        return answer["ResponseMessage"]

    async def open(self):
        loop = asyncio.get_running_loop()
        router = {"RouterKey": self.account_key, "AddressType": "1", "AdapterType": "2"}

        def http():
            region = self._get(self.router, 4, router)
            session = self._get(region, 7, {"TransactionType": "3", "AccountKey": self.account_key,
                                            "ApiKey": self.api_key})
            return session, self._get(self.router, 4, dict(router, AddressType="2"))

        self.uuid, self.address = await loop.run_in_executor(None, http)
        self.main = await self.connect()
        answer = await self.main.request(SESSION, CREATE_API_SESSION, self.session_parameters())
        if not answer.success or answer.result["ResponseCode"] != 1:
            raise Refused(answer.result["ResponseCode"], answer.message)
        self.account = answer.result["ResponseMessage"]["Account"]
        self.user = self.account["UserList"][0]
        self.institution = self.user["InstitutionList"][0]["InstitutionUuid"]
        self.user_uuid = self.user["UserUuid"]
        return self

    def session_parameters(self):
        return {"SessionUuid": self.uuid, "OtherParameterList": ["Api=" + self.uuid, "ApiKey=" + self.api_key]}

    async def connect(self):
        address = f"{self.address.rstrip('/')}/?ClientUniqueId={self.api_key}"
        options = {"ssl": self.context} if self.context else {}
        socket = await websockets.connect(address, max_size=None, compression=None, **options)
        connection = Connection(socket, self.trailing_zero)
        self.connections.append(connection)
        return connection

    async def add_uploader(self):
        connection = await self.connect()
        await connection.request(SESSION, REGISTER_SESSION, self.session_parameters())
        self.uploaders.append(connection)
        return connection

    async def close(self):
        for connection in self.connections:
            await connection.close()

    def keys(self, members):
        return {**members, "ApiKey": self.api_key, "AccountKey": self.account_key}

    async def general(self, management, connection=None, **members):
        """A general request (section 4); returns the object that the documented callback receives."""
        members = {"UserUuid": self.user_uuid, **members}
        answer = await (connection or self.main).request(GENERAL, management, self.keys(members))
        if not answer.success or answer.result["ResponseCode"] != 1:
            raise Refused(answer.result["ResponseCode"], answer.message)
        message = answer.result["ResponseMessage"]
        if not message["Success"]:
            raise Refused(0, message["Message"])
        return message

    async def upload_request(self, management, members, data=b"", connection=None, timeout=30):
        answer = await (connection or self.main).request(
            UPLOAD, management, self.keys(members), data, self.user_uuid, timeout)
        if answer.result["ResponseCode"] != 1:
            raise Refused(answer.result["ResponseCode"], answer.result.get("Message", answer.message))
        return answer.result

    # Section 4, the methods the tests use.

    async def create_folder(self, name, parent=NIL, description=None):
        extra = {} if description is None else {"FolderDescription": description}
        answer = await self.general(2, ParentFolderUuid=parent, FolderName=name, **extra)
        return answer["Folder"]["FolderUuid"] if "Folder" in answer else None

    async def list_folders(self, parent=NIL, name="", orders=False):
        answer = await self.general(3, ParentFolderUuid=parent, FolderName=name, GetOrdersInFolder=orders)
        return answer["Folder"]

    async def search(self, **members):
        """SearchPatientOrder with the members of GetPatientOrderList, or others."""
        standard = {"InstitutionUuidList": [], "PatientName": "", "AccessionNumber": "", "PatientId": "",
                    "OtherPatientId": "", "Modalities": []}
        if "FolderUuid" in members:
            standard = {}
        return (await self.general(1, **{**standard, **members}))["SearchResultList"]

    # Section 5.

    async def initialize(self, total_bytes=0):
        answer = await self.upload_request(INITIALIZE, {
            "UserUuid": self.user_uuid, "InstitutionUuid": self.institution, "TotalFileSize": total_bytes / 1024,
            "UploaderUuid": self.user_uuid, "UploaderName": self.user["FullName"] + " - API"})
        return answer["SessionUniqueUuid"]

    async def file_exists(self, upload, study, sop, folder=None, series="", connection=None):
        members = {"SessionUniqueUuid": upload, "InstitutionUuid": self.institution, "UserUuid": self.user_uuid}
        if folder:
            members["FolderUuid"] = folder
        members.update(StudyInstanceUid=study, PatientName="", PatientId="", SeriesInstanceUid=series,
                       SopInstanceUid=sop)
        answer = await self.upload_request(CHECK_FILE_EXIST, members, connection=connection)
        return answer["ResponseMessage"]

    def part_members(self, upload, index, part, total, folder=None):
        members = {"SessionUniqueUuid": upload, "InstitutionUuid": self.institution, "UserUuid": self.user_uuid,
                   "FileIndex": index, "CurrentFilePartIndex": part, "CurrentFileTotalPartCount": total}
        if folder:
            members["FolderUuidList"] = [folder]
        return members

    async def send_part(self, upload, index, data, part, folder=None, connection=None, timeout=30):
        total = max(1, -(-len(data) // PART_SIZE))
        return await self.upload_request(
            PROCESS_FILE, self.part_members(upload, index, part, total, folder),
            data[part * PART_SIZE : (part + 1) * PART_SIZE], connection, timeout)

    async def upload(self, upload, index, data, folder=None, order=None):
        """One file, its parts in `order` over all connections, one in flight on each; the answers by part."""
        total = max(1, -(-len(data) // PART_SIZE))
        parts = list(order if order is not None else range(total))
        connections = self.uploaders or [self.main]
        answers = {}

        async def run(connection):
            while parts:
                part = parts.pop(0)
                answers[part] = await self.send_part(upload, index, data, part, folder, connection)

        await asyncio.gather(*(run(c) for c in connections))
        return answers

    async def upload_all(self, files, folder=None):
        """Many files over all connections in one upload session."""
        upload = await self.initialize(sum(map(len, files)))
        parts = [(index, part) for index, data in enumerate(files)
                 for part in range(max(1, -(-len(data) // PART_SIZE)))]
        parts.reverse()
        answers = []

        async def run(connection):
            while parts:
                index, part = parts.pop()
                answers.append(await self.send_part(upload, index, files[index], part, folder, connection))

        await asyncio.gather(*(run(c) for c in (self.uploaders or [self.main])))
        return answers
