"""People who talk to perch all the while: over HTTP and on Discord."""

import http.client
import itertools
import json
import socket
import threading
import time

from machine import ADDRESS

CHANNELS = ["general", "load-1", "load-2", "load-3", "load-4", "load-5"]
# Discord takes 5 messages in 5 s in a channel.
PACE = len(CHANNELS) ** -1
ASKERS = 6


class Crowd:
    """From `with` to its end, HTTP requests from several clients and mentions in several channels."""

    def __init__(self, discord):
        self.discord = discord
        self.over = threading.Event()
        self.served = 0
        self.lock = threading.Lock()
        self.failed = []
        self.said = {channel: [] for channel in CHANNELS}
        known = {channel.get("name") for channel in discord.state()["channels"]}
        for channel in set(CHANNELS) - known:
            discord.add_channel(channel)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(ASKERS)]
        self.threads.append(threading.Thread(target=self.talk))
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, number):
        """Asks over and over: every second client keeps its connection for as long as perch does."""
        connection = None
        for count in itertools.count():
            if self.over.is_set():
                return
            kept = connection is not None
            connection = connection or http.client.HTTPConnection(ADDRESS, 80, timeout=30)
            message = f"{number}:{count}"
            begin = time.monotonic()
            try:
                connection.request("POST", "/api/chat", json.dumps({"message": message}), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status != 200 or json.loads(text)["reply"] != message:
                    self.failed.append((begin, time.monotonic(), f"{answer.status} {text}"))
                with self.lock:
                    self.served += 1
                if number % 2 == 0 or answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                connection = None
                # A connection that perch closed while it was idle: the request was never taken (RFC 9112, 9.3.1), and
                # every client asks again.
                if not (kept and isinstance(error, (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError))):
                    self.failed.append((begin, time.monotonic(), repr(error)))

    def talk(self):
        for count in itertools.count():
            channel = CHANNELS[count % len(CHANNELS)]
            self.said[channel].append(self.discord.say(str(count), channel))
            if self.over.wait(PACE):
                return

    def answered(self):
        """Per channel, whether each mention was answered, and in the order that they were said in."""
        wrong = {}
        for channel, said in self.said.items():
            answers = [reference for reference, _ in self.discord.answers(channel) if reference in set(said)]
            if answers != said:
                wrong[channel] = f"{len(said)} said, {len(answers)} answered, {len(set(answers))} of them once"
        return wrong


class Greedy:
    """Clients that begin long requests and never end them, so that perch keeps what it has of them."""

    BODY = 60 * 1024

    def __init__(self):
        self.open = []

    def more(self):
        head = f"POST /api/chat HTTP/1.1\r\nHost: perch\r\nContent-Type: application/json\r\nContent-Length: {self.BODY}\r\n\r\n"
        for _ in range(50):
            try:
                stream = socket.create_connection((ADDRESS, 80), timeout=1)
                stream.sendall(head.encode() + b'{"message": "' + b"x" * (self.BODY - 100))
                self.open.append(stream)
            except OSError:
                return

    def end(self):
        for stream in self.open:
            stream.close()
