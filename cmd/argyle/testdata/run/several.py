# several.py URL HOST PORT: urllib, asyncio and threads, whose sockets do not block, or all at once.
import asyncio, concurrent.futures, socket, sys, urllib.request

url, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def blocking(number):
    with socket.create_connection((host, port), timeout=15) as conn:
        conn.sendall(b"%06d" % number)
        data = conn.recv(6, socket.MSG_WAITALL)
        assert data == b"%06d" % number, data


async def waiting(number):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"%06d" % number)
    data = await reader.readexactly(6)
    assert data == b"%06d" % number, data
    writer.close()
    await writer.wait_closed()


async def all_waiting():
    await asyncio.gather(*(waiting(number) for number in range(10)))


print(urllib.request.urlopen(url, timeout=15).read().decode())
asyncio.run(all_waiting())
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(blocking, range(16)))
print("all")
