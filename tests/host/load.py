"""Connections at an even rate, each one request and its answer; says how they fared.

usage: load.py serve ADDRESS | load.py ask ADDRESS RATE SECONDS | load.py hold ADDRESS
"""

import asyncio
import sys
import time

# By its name a connection of this load is told from others in the record.
REQUEST = b"GET / HTTP/1.0\r\nHost: load.example\r\n\r\n"


async def serve(address):
    async def answer(reader, writer):
        try:
            line = await reader.readline()
            if b"/hold" in line:
                # Some minutes of a byte now and then, as far as anybody listens.
                writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
                for _ in range(1000):
                    writer.write(b".")
                    await writer.drain()
                    await asyncio.sleep(0.2)
            while line.strip():
                line = await reader.readline()
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nserved\n")
            await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, address, 80, backlog=4096)
    await server.serve_forever()


async def ask(address, rate, seconds):
    waits, failed = [], []

    async def one():
        begun = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(address, 80)
            writer.write(REQUEST)
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            if b"served" in answer:
                waits.append(time.monotonic() - begun)
            else:
                failed.append(f"answer {answer[:20]!r}")
        except (OSError, asyncio.TimeoutError) as fault:
            failed.append(repr(fault))

    begun, tasks = time.monotonic(), []
    while time.monotonic() - begun < seconds:
        due = int((time.monotonic() - begun) * rate)
        while len(tasks) < due:
            tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    waits.sort()
    longest = int(waits[-1] * 1000) if waits else -1
    print(len(waits), len(failed), longest, failed[:3])


async def hold(address):
    reader, writer = await asyncio.open_connection(address, 80)
    writer.write(b"GET /hold HTTP/1.0\r\n\r\n")
    heard = b""
    try:
        # The first byte of the answer itself, behind its head.
        while b"\r\n\r\n." not in heard:
            heard += await reader.readexactly(1)
        print("held", flush=True)
        while await reader.read(1):
            pass
    except (OSError, asyncio.IncompleteReadError):
        pass
    print("ended", flush=True)


what, address = sys.argv[1:3]
if what == "serve":
    asyncio.run(serve(address))
elif what == "ask":
    asyncio.run(ask(address, float(sys.argv[3]), float(sys.argv[4])))
else:
    asyncio.run(hold(address))
