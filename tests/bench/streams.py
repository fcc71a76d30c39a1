"""A model that streams, and many people who read: how late does each piece come, with a server in between?

    streams.py model             an OpenAI-compatible API; prints its URL
    streams.py people N PORT     N people ask the server at PORT once; prints how late the pieces came

Each piece says when it was sent, by the machine's monotonic clock, which both processes read.
"""

import asyncio
import json
import sys
import time

PIECES = 50
PAUSE = 0.04  # seconds between two pieces: a model writes about 25 tokens a second
HEAD_END = b"\r\n\r\n"
PATIENCE = 60  # seconds for all streams of one round


async def model(reader, writer):
    """Answers chat completions, one connection after the other's request, with pieces that say when they were sent."""
    try:
        while True:
            head = (await reader.readuntil(HEAD_END)).lower().split(b"\r\n")
            if head[0].startswith(b"get"):
                # Which models there are: perch asks before it begins.
                models = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
                heading = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                writer.write(heading % len(models) + models)
                continue
            lengths = [int(line.split(b":")[1]) for line in head if line.startswith(b"content-length:")]
            await reader.readexactly(lengths[0])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(PIECES):
                delta = {"choices": [{"index": 0, "delta": {"content": f"{time.monotonic():.6f} "}}]}
                await chunk(writer, f"data: {json.dumps(delta)}\n\n")
                await asyncio.sleep(PAUSE)
            last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            await chunk(writer, f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n")
            writer.write(b"0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def chunk(writer, text):
    data = text.encode()
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
    await writer.drain()


async def person(port, late):
    """Asks once, and notes how late each piece comes, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"message":"tell me"}'
    writer.write(
        b"POST /api/chat HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    heard = 0
    while line := await reader.readline():
        if line.startswith(b'data: {"text"'):
            now = time.monotonic()
            # A server may put several pieces into one.
            sent = json.loads(line[6:])["text"].split()
            late += [now - float(moment) for moment in sent]
            heard += len(sent)
    writer.close()
    return heard


async def people(count, port):
    late = []

    # Not all in the same instant, as people are.
    async def begin(number):
        await asyncio.sleep(PAUSE * number / count)
        return await person(port, late)

    heard = await asyncio.wait_for(asyncio.gather(*map(begin, range(count))), PATIENCE)
    if lost := count * PIECES - sum(heard):
        sys.exit(f"{lost} of {count * PIECES} pieces did not come")
    late.sort()
    milliseconds = {name: late[len(late) * part // 100] * 1000 for name, part in (("p50", 50), ("p99", 99))}
    print(json.dumps(milliseconds | {"pieces": len(late)}))


async def serve():
    server = await asyncio.start_server(model, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1] == "model" else people(int(sys.argv[2]), int(sys.argv[3])))
