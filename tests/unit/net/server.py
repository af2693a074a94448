"""Servers for the tests of core/net: WebSocket, HTTP, TLS and a proxy, well-behaved and not, on loopback.

Started by the test with a folder for sockets and certificates. Prints one line of JSON (ports, paths) when all listen;
ends when its standard input does.
"""
import asyncio
import base64
import ctypes
import hashlib
import json
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import websockets

FOLDER = sys.argv[1]
logging.disable()  # clients that break off are what the tests are about
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def path(name):
    return os.path.join(FOLDER, name)


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, cwd=FOLDER, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def make_ca(name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN=test {name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-addext", "basicConstraints=critical,CA:TRUE")


def make_cert(name, ca, extension):
    with open(path(f"{name}.ext"), "w") as f:
        f.write(extension + "\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")


def tls_context(client_ca=None, alpn=("h2", "http/1.1")):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path("server.pem"), path("server.key"))
    context.set_alpn_protocols(list(alpn))
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def frame(opcode, payload, fin=True):
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([len(payload)])
    elif len(payload) < 65536:
        head += b"\x7e" + struct.pack(">H", len(payload))
    else:
        head += b"\x7f" + struct.pack(">Q", len(payload))
    return head + payload


# WebSockets, by the websockets package: an implementation that checks what clients must keep to.

async def on_websocket(ws, *_):
    async for message in ws:
        if not message.startswith(b"CMD:"):
            await ws.send(message)
            continue
        command = message[4:].decode()
        if command == "info":
            tls = ws.transport.get_extra_info("ssl_object")
            await ws.send(json.dumps({
                "alpn": tls.selected_alpn_protocol() if tls else None,
                "tls": tls.version() if tls else None,
                "path": ws.path,
                "host": ws.request_headers.get("Host"),
                "agent": ws.request_headers.get("User-Agent"),
                "peer": ws.remote_address[0],
            }).encode())
        elif command == "text":
            await ws.send("gr\u00fc\u00df dich")
        elif command == "ping":
            await (await ws.ping(b"are you there"))
            await ws.send(b"pong came")
        elif command == "fragments":
            await ws.send([b"one ", b"", b"two ", b"three"])
        elif command.startswith("send:"):
            await ws.send(b"\xa5" * int(command[5:]))
        elif command.startswith("close:"):
            await ws.close(int(command[6:]), "a reason that may hold a name")


# Everything else: one handler on bare streams; the path says how to behave.

def accept_of(head):
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"sec-websocket-key:"):
            return base64.b64encode(hashlib.sha1(line.split(b":", 1)[1].strip() + GUID).digest())
    return b""


def upgrade(head, accept=None):
    return (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + (accept or accept_of(head)) + b"\r\n\r\n")


def answer(status, body=b"", *headers):
    lines = [f"HTTP/1.1 {status} Something".encode(), b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines + [h.encode() for h in headers]) + b"\r\n\r\n" + body


async def read_frame(reader):
    a, b = await reader.readexactly(2)
    size = b & 0x7F
    if size == 126:
        size, = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        size, = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4) if b & 0x80 else None
    data = await reader.readexactly(size)
    if mask:
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    return a, mask, data


async def forever():
    await asyncio.sleep(3600)


async def on_bare_websocket(what, head, reader, writer):
    if what == "refuse":
        writer.write(answer(403, b"API key 1234 is not known"))
    elif what == "busy":
        writer.write(answer(503, b"later"))
    elif what == "wrong-accept":
        writer.write(upgrade(head, b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="))
        await forever()
    elif what == "silent":
        await forever()
    elif what == "not-http":
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await forever()
    elif what == "long-header":
        writer.write(b"HTTP/1.1 101 x\r\n" + b"X-Filler: yes\r\n" * 5000)
        await forever()
    elif what == "eof":
        pass
    elif what == "dribble":
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + upgrade(head) + frame(2, b"slow") + frame(2, b"q" * 200):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.001)
        await forever()
    elif what == "early":
        writer.write(upgrade(head) + frame(2, b"with the answer"))
        await forever()
    else:
        writer.write(upgrade(head))
        if what == "frames":
            masks = set()
            for _ in range(3):
                first, mask, data = await read_frame(reader)
                masks.add(mask)
                writer.write(frame(2, json.dumps({"first": first, "masked": mask is not None, "masks": len(masks),
                                                  "size": len(data)}).encode()))
            await forever()
        elif what == "mid-frame":
            writer.write(frame(2, b"x" * 1000)[:500])
        elif what == "garbage":
            writer.write(b"\xff" * 64)
            await forever()
        elif what == "masked":
            writer.write(b"\x82\x81\x01\x02\x03\x04\x05")
            await forever()
        elif what == "announce":  # 2^62 bytes to come
            writer.write(b"\x82\x7f\x40" + b"\0" * 7 + b"x" * 100)
            await forever()
        elif what == "fragment-flood":
            writer.write(frame(2, b"x" * 1000, fin=False) + frame(0, b"x" * 1000, fin=False) * 100)
            await forever()
        elif what == "pings":
            writer.write(frame(9, b"") * 20000 + frame(9, b"y" * 125) * 2000 + frame(2, b"after the pings"))
            for _ in range(22000):
                first, mask, data = await read_frame(reader)
                assert first == 0x8A and mask is not None and data in (b"", b"y" * 125)
            writer.write(frame(2, b"all pongs came"))
            await forever()
        elif what == "mute":  # takes all, says nothing, answers no ping
            while await reader.read(65536):
                pass
        elif what == "deaf":  # reads nothing
            await forever()
        elif what == "slow":  # takes a message over some seconds and answers nothing before its end
            head = await reader.readexactly(14)
            left = struct.unpack(">Q", head[2:10])[0]
            while left:
                left -= len(await reader.read(min(left, 32768)))
                await asyncio.sleep(0.05)
            writer.write(frame(2, b"took it all"))
            await forever()
        elif what == "pongs":  # answers pings alone; tells of the third
            for i in range(3):
                first, mask, data = await read_frame(reader)
                assert first == 0x89
                writer.write(frame(10, data))
            writer.write(frame(2, b"three pings"))
            await forever()
        elif what == "count-close":
            first, mask, data = await read_frame(reader)
            with open(path("close-frame"), "w") as f:
                f.write(f"{first:02x} {data.hex()}")
    await writer.drain()


async def on_http(target, method, head, reader, writer):
    target, _, query = target.partition("?")
    size = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            size = int(line.split(b":")[1])
    body = await reader.readexactly(size)
    if target == "/hello":
        writer.write(answer(200, b"hello"))
    elif target == "/echo":
        writer.write(answer(200, method.encode() + b"\n" + head + b"\n" + body))
    elif target == "/peer":
        writer.write(answer(200, str(writer.get_extra_info("peername")).encode()))
    elif target.startswith("/status/"):
        writer.write(answer(int(target[8:]), b"no"))
    elif target == "/later":
        after = query if query != "date" else formatdate(time.time() + 100, usegmt=True)
        writer.write(answer(503, b"no", "Retry-After: " + after))
    elif target == "/redirect":
        writer.write(answer(302, b"", "Location: /hello"))
    elif target == "/bytes":
        writer.write(answer(200, b"x" * int(query)))
    elif target == "/unbounded":
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
    elif target == "/headers":
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Filler: yes\r\n" * 1000)
            await writer.drain()
    elif target == "/delay":
        await asyncio.sleep(float(query))
        writer.write(answer(200, b"hello"))
    elif target == "/silent":
        await forever()
    elif target == "/drip":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.write(b"d")
    elif target == "/stall":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")
        await forever()
    elif target == "/cut":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")
        await writer.drain()
        return False
    else:
        writer.write(answer(404, b"no such page"))
    await writer.drain()
    return True


async def on_bare(reader, writer):
    try:
        keep = True
        while keep:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            if target.startswith("/ws/"):
                await on_bare_websocket(target[4:].partition("?")[0], head, reader, writer)
                keep = False
            else:
                keep = await on_http(target, method, head, reader, writer)
    except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
        pass
    finally:
        writer.close()


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for s in (source, sink):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve_tls_client(raw, context, port):
    try:
        with context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLError:
                # The alert is on its way; closing with input unread would take it back.
                raw_fd = socket.socket(fileno=os.dup(tls.fileno()))
                raw_fd.settimeout(5)
                while raw_fd.recv(65536):
                    pass
                return
            with socket.create_connection(("127.0.0.1", port)) as plain:
                back = threading.Thread(target=pump, args=(plain, tls), daemon=True)
                back.start()
                pump(tls, plain)
                back.join()
    except OSError:
        pass


def start_tls(context, port):
    """TLS in front of another server, with blocking sockets: asyncio's TLS keeps its alerts to itself."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            threading.Thread(target=serve_tls_client, args=(listener.accept()[0], context, port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start_proxy(name, auth):
    """tinyproxy; its own connections come from 127.0.0.2, which shows that it was used."""
    for _ in range(5):
        port = free_port()
        with open(path(name), "w") as f:
            f.write(f"Port {port}\nListen 127.0.0.1\nBind 127.0.0.2\nTimeout 600\nMaxClients 50\n"
                    f"LogFile \"{path(name)}.log\"\nLogLevel Info\n" + auth)
        process = subprocess.Popen(["tinyproxy", "-d", "-c", path(name)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError:
                time.sleep(0.02)
        process.kill()
    raise SystemExit("tinyproxy does not start")


async def main():
    make_ca("ca")
    make_ca("other-ca")
    make_cert("server", "ca", "subjectAltName=DNS:localhost")
    make_cert("client", "ca", "extendedKeyUsage=clientAuth")
    make_cert("stranger", "other-ca", "extendedKeyUsage=clientAuth")
    out = {"closed": free_port()}

    async def listen_ws(name, **options):
        server = await websockets.serve(on_websocket, "127.0.0.1", 0, max_size=None, ping_interval=None, **options)
        out[name] = server.sockets[0].getsockname()[1]

    async def listen_bare(name, **options):
        server = await asyncio.start_server(on_bare, "127.0.0.1", 0, **options)
        out[name] = server.sockets[0].getsockname()[1]

    await listen_ws("ws")
    await listen_ws("wss", ssl=tls_context())
    out["wss_client"] = start_tls(tls_context(client_ca=path("ca.pem")), out["ws"])
    await listen_bare("http")
    narrow = socket.create_server(("127.0.0.1", 0))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    await asyncio.start_server(on_bare, sock=narrow, limit=32768)
    out["narrow"] = narrow.getsockname()[1]
    await listen_bare("https", ssl=tls_context())
    out["https_client"] = start_tls(tls_context(client_ca=path("ca.pem")), out["http"])
    out["tls_closing"] = start_tls(tls_context(), out["closed"])
    banner = await asyncio.start_server(lambda r, w: w.write(b"220 not TLS\r\n"), "127.0.0.1", 0)
    out["banner"] = banner.sockets[0].getsockname()[1]
    await asyncio.start_unix_server(on_bare, path("http.sock"))
    out["proxy"] = start_proxy("open.conf", "")
    out["proxy_auth"] = start_proxy("auth.conf", "BasicAuth ferry s3cret\n")
    print(json.dumps(out), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
