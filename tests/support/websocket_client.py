"""A WebSocket client that somebody else wrote, for perch's tests: the library `websockets`.

websocket_client.py URL [HEADER: VALUE…]

Whatever the URL's host is called, it is 127.0.0.1; under TLS it is shown a certificate that SSL_CERT_FILE vouches for, and
HTTP/1.1 is asked for, as browsers do.

Takes JSON arrays on standard input, one a line: ["send", TEXT], ["fragments", [TEXT…]], ["binary", HEX], ["ping"], ["close"].
Says what happens in JSON arrays on standard output: ["open"], ["refused", STATUS], ["message", TEXT], ["pong"],
["closed", CODE, REASON].
"""

import asyncio
import json
import ssl
import sys

import websockets


def say(*words):
    print(json.dumps(words), flush=True)


async def act(connection, verb, rest):
    if verb == "send":
        await connection.send(rest[0])
    elif verb == "fragments":
        await connection.send(iter(rest[0]))
    elif verb == "binary":
        await connection.send(bytes.fromhex(rest[0]))
    elif verb == "ping":
        await (await connection.ping())
        say("pong")
    elif verb == "close":
        await connection.close()


async def obey(connection):
    lines = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        verb, *rest = json.loads(line)
        try:
            await act(connection, verb, rest)
        except websockets.ConnectionClosed:
            return  # whoever listens says so


async def main(url, *headers):
    named = [tuple(header.split(": ", 1)) for header in headers]
    how = {"host": "127.0.0.1"}
    if url.startswith("wss:"):
        how["ssl"] = ssl.create_default_context()
        how["ssl"].set_alpn_protocols(["http/1.1"])
    try:
        connection = await websockets.connect(url, additional_headers=named, ping_interval=None, max_size=None, **how)
    except websockets.InvalidStatus as refused:
        say("refused", refused.response.status_code)
        return
    say("open")
    obeying = asyncio.create_task(obey(connection))
    try:
        async for message in connection:
            say("message", message)
    except websockets.ConnectionClosed:
        pass
    say("closed", connection.close_code, connection.close_reason)
    obeying.cancel()


asyncio.run(main(*sys.argv[1:]))
