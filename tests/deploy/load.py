"""Realistic load for tests of the monitoring: visitors that come and go, some too slow, and a flaky backend.

load.py SECONDS: the time in which visitors increase from few to many. It then continues until it is killed.
"""
import asyncio, contextlib, json, random, socket, sys, time

TOKEN = {"Authorization": "Bearer s3cret"}
SLOW_VISITORS = 4


async def request(reader, writer, method, path, body, headers):
    """One request on a kept-alive connection."""
    fields = {"Host": "gateway", "Content-Length": len(body), **headers}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(head.encode() + b"\r\n" + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    await reader.readexactly(int(answer.split("content-length:")[1].split("\r\n")[0]))


class Day:
    def __init__(self, seconds):
        self.start, self.seconds = time.monotonic(), seconds
        self.tokens, self.slow = set(), set()

    def phase(self):
        return min(1, (time.monotonic() - self.start) / self.seconds)

    def visitors(self):
        return int(60 + 240 * self.phase() ** 2)

    def is_flaky(self):
        """Whether the backend currently rejects and stalls more than usual."""
        return 0.55 < self.phase() < 0.7

    async def callback(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.split("content-length:")[1].split("\r\n")[0]
                call = json.loads(await reader.readexactly(int(length)))
                await asyncio.sleep(random.lognormvariate(-4.5, 0.8))
                url, chance, status = call["request"]["url"], random.random(), 200
                if call["action"] == "disconnect":
                    self.tokens.discard(call["token"])
                    self.slow.discard(call["token"])
                elif url == "/slow":
                    self.slow.add(call["token"])
                elif url == "/stalls" or self.is_flaky() and chance < 0.1:
                    await asyncio.sleep(1.5)  # beyond CALLBACK_TIMEOUT_SECONDS
                elif chance < (0.3 if self.is_flaky() else 0.03):
                    status = 403
                else:
                    self.tokens.add(call["token"])
                writer.write(b"HTTP/1.1 %d Answer\r\nContent-Length: 0\r\n\r\n" % status)
        writer.close()

    async def visit(self, path, stay, reads):
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536 if reads else 4096)
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", 3000))
        reader, writer = await asyncio.open_connection(sock=link, limit=4096)
        writer.write(b"GET %s HTTP/1.1\r\nHost: gateway\r\n\r\n" % path)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(stay):
                while reads and await reader.read(65536):
                    pass
                await asyncio.sleep(0 if reads else stay)
        writer.close()

    async def readers(self):
        present = set()
        while True:
            while len(present) < self.visitors():
                task = asyncio.create_task(self.visit(b"/news", random.expovariate(1 / 15), reads=True))
                present.add(task)
                task.add_done_callback(present.discard)
                await asyncio.sleep(random.expovariate(self.visitors() / 4))
            await asyncio.sleep(0.05)

    async def slow_reader(self):
        while True:
            await self.visit(b"/slow", random.uniform(5, 25), reads=False)

    async def unlucky(self):
        """Connects to paths that the backend decides slowly."""
        while True:
            await self.visit(b"/stalls", 3, reads=True)
            await asyncio.sleep(random.expovariate(1 / 5))

    async def sender(self):
        link = await asyncio.open_connection("127.0.0.1", 3001)
        while True:
            token = random.choice(list(self.tokens) or ["none"])
            message = {"token": token, "event": {"data": "x" * min(20_000, int(random.paretovariate(1) * 100))}}
            chance = random.random()
            if chance < 0.01:
                message["close"] = True
            elif chance < 0.02:
                message["token"] = "00000000-0000-4000-8000-000000000000"
            elif chance < 0.025:
                message["event"] = 7
            elif chance < 0.1 and self.slow:
                message = {"token": random.choice(list(self.slow)), "event": {"data": "x" * 60_000}}
            await request(*link, "POST", "/internal/send", json.dumps(message).encode(), TOKEN)
            await asyncio.sleep(random.expovariate(50 + 50 * self.phase()))

    async def strangers(self):
        """Background noise of a port on the internet."""
        while True:
            port, text = random.choice([
                (3000, b"GET /internal/send HTTP/1.1\r\nHost: a\r\n\r\n"),
                (3000, b"\x16\x03\x01\x02\x00\r\n\r\n"),
                (3000, b"POST /news HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
                (3001, b"POST /internal/send HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"),
                (3000, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 20_000 + b"\r\n\r\n")])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            await reader.read(4096)
            writer.close()
            await asyncio.sleep(random.expovariate(2))

    async def live(self):
        async with asyncio.TaskGroup() as tasks:
            server = await asyncio.start_server(self.callback, "127.0.0.1", 8000, backlog=1024)
            everybody = [server.serve_forever(), self.readers(), self.strangers(), self.unlucky(),
                         *(self.slow_reader() for _ in range(SLOW_VISITORS)), *(self.sender() for _ in range(4))]
            for person in everybody:
                tasks.create_task(person)


asyncio.run(Day(int(sys.argv[1])).live())
