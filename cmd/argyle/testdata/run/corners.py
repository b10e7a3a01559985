# corners.py ADDRESS PORT RESOLVER: what programs do with sockets that is easily forgotten, against an echo.
import os, signal, socket, struct, sys, threading, time

address, port, resolver = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def datagrams():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    return sock


def query(number):
    name = b"".join(bytes([len(part)]) + part for part in b"four.zone.test".split(b"."))
    return struct.pack(">HHHHHH", number, 0x100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">HH", 1, 1)


# Two resolvers by one socket: each answers for itself.
sock = datagrams()
for number, server in enumerate(("8.8.8.8", resolver, "8.8.8.8")):
    sock.sendto(query(number), (server, 53))
    data, source = sock.recvfrom(999)
    assert source == (server, 53) and data[1] == number, (server, source)

# A thread that waits before anything was sent.
sock, sources = datagrams(), []
thread = threading.Thread(target=lambda: sources.append(sock.recvfrom(99)[1]))
sock.bind(("", 0))
thread.start()
time.sleep(0.2)
sock.sendto(b"first", (address, port))
thread.join(15)
assert sources == [(address, port)], sources

# The port that it sends to, as NTP and others do, where that may be bound.
try:
    sock = datagrams()
    sock.bind(("", port))
    sock.sendto(b"from the same port", (address, port))
    assert sock.recvfrom(99) == (b"from the same port", (address, port))
    sock.close()
except PermissionError:
    pass

# Many sockets that have come and gone since.
old = datagrams()
old.connect((address, port))
for _ in range(400):
    with datagrams() as new:
        new.connect(("9.9.9.9", 53))
old.send(b"still there")
assert old.recv(99) == b"still there"

# A connection to a resolver that is not used at once.
with socket.create_connection(("8.8.8.8", 53), timeout=10) as conn:
    time.sleep(0.4)
    conn.sendall(struct.pack(">H", len(query(7))) + query(7))
    (length,) = struct.unpack(">H", conn.recv(2, socket.MSG_WAITALL))
    assert conn.recv(length, socket.MSG_WAITALL)[1] == 7

# A process that waits for a datagram can be stopped, goes on, and ends.
ready, said = os.pipe()
child = os.fork()
if child == 0:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"x", (address, port))
    sock.recvfrom(9)
    os.write(said, b"x")
    sock.recvfrom(9)
    os._exit(9)
os.read(ready, 1)
for send, seen in ((signal.SIGSTOP, os.WIFSTOPPED), (signal.SIGCONT, os.WIFCONTINUED), (signal.SIGQUIT, os.WIFSIGNALED)):
    os.kill(child, send)
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if pid:
            break
        time.sleep(0.05)
    assert pid and seen(status), (send, pid, status)

print("all")
