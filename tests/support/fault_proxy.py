#!/usr/bin/env python3
"""A way to AWS that can be told to go wrong: a reverse proxy between perch and an AWS stand-in.

    fault_proxy.py --upstream http://127.0.0.1:PORT [--listen 127.0.0.1:0] [--cert FILE --key FILE]

prints two URLs on its first line: the proxy's and the control's. Whatever no fault applies to is passed on unchanged.

    curl CONTROL/faults -d '{"method": "GET", "path": "/bucket/key", "do": "cut", "count": 1}'

adds a fault. The first one that fits a request is applied to it, and is spent after `count` requests (none: never):
    method, path, action   what it fits: the method; the beginning of the path; the end of X-Amz-Target
                           (`GetSecretValue`). What is left out fits everything.
    do      "answer"  `status`, and `code` with `message` as the service would write them, or `body`; `headers`
            "hang"    no answer until the faults are cleared
            "slow"    passes it on after `seconds`
            "cut"     promises the whole body and sends half of it
            "reset"   closes the connection with a TCP reset
            "before"  sends `requests` (each `method`, `path`, `body`) upstream first, then passes it on
            "edit"    passes it on, and puts `headers` into the answer; null takes one out
`DELETE CONTROL/faults` forgets them all; `GET CONTROL/requests` lists what was asked and answered since the last
`DELETE CONTROL/requests`; `PUT CONTROL/listening` with `false` closes the proxy's port, so that connections are
refused, and with `true` opens it again.
"""

import argparse
import http.client
import http.server
import json
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


class World:
    """What the proxy's threads share."""

    def __init__(self, upstream):
        self.upstream = urllib.parse.urlsplit(upstream)
        self.changed = threading.Condition()
        self.faults = []
        self.requests = []

    def add(self, fault):
        if fault.get("do") not in ("answer", "hang", "slow", "cut", "reset", "before", "edit"):
            raise ValueError(f"can't do {fault}")
        with self.changed:
            self.faults.append(fault)

    def clear(self):
        with self.changed:
            self.faults.clear()
            self.changed.notify_all()

    def take(self, method, path, action):
        """The fault for this request, if there is one."""
        with self.changed:
            for fault in self.faults:
                if fault.get("count") == 0 or fault.get("method", method) != method:
                    continue
                if not path.startswith(fault.get("path", "")) or not action.endswith(fault.get("action", "")):
                    continue
                if "count" in fault:
                    fault["count"] -= 1
                return fault
        return None

    def wait_until_cleared(self, fault):
        with self.changed:
            self.changed.wait_for(lambda: fault not in self.faults)

    def ask(self, method, path, headers, body):
        """One request upstream: status, headers and the whole body."""
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    world: World

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        action = self.headers.get("X-Amz-Target", "")
        fault = self.world.take(self.command, urllib.parse.unquote(self.path), action) or {"do": "pass"}
        self.note = {"method": self.command, "path": self.path, "action": action, "fault": fault["do"], "status": None}
        self.world.requests.append(self.note)
        getattr(self, f"apply_{fault['do']}")(fault, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def apply_pass(self, _, body):
        self.pass_on(body)

    def apply_edit(self, fault, body):
        self.pass_on(body, edits=fault["headers"])

    def apply_slow(self, fault, body):
        time.sleep(fault["seconds"])
        self.pass_on(body)

    def apply_before(self, fault, body):
        for request in fault["requests"]:
            text = request.get("body", "").encode()
            headers = [("Host", self.world.upstream.netloc), ("Content-Length", str(len(text)))]
            headers.append(("Authorization", self.headers.get("Authorization", "")))
            self.world.ask(request["method"], request["path"], headers, text)
        self.pass_on(body)

    def apply_cut(self, _, body):
        self.pass_on(body, cut=True)

    def apply_hang(self, fault, _):
        self.world.wait_until_cleared(fault)
        self.close_connection = True

    def apply_reset(self, *_):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def apply_answer(self, fault, _):
        body, kind = fault.get("body", "").encode(), "text/plain"
        code, message = fault.get("code"), fault.get("message", "")
        if code and self.note["action"]:
            body = json.dumps({"__type": code, "Message": message}).encode()
            kind = "application/x-amz-json-1.1"
        elif code:
            text = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
            body, kind = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode(), "application/xml"
        headers = {"Content-Type": kind} | fault.get("headers", {})
        self.answer(fault["status"], headers.items(), body)

    def pass_on(self, body, cut=False, edits=()):
        headers = [pair for pair in self.headers.items() if pair[0].lower() not in HOP_BY_HOP]
        headers.append(("Content-Length", str(len(body))))
        status, headers, answer = self.world.ask(self.command, self.path, headers, body)
        edits = {name.lower(): value for name, value in dict(edits).items()}
        headers = [pair for pair in headers if pair[0].lower() not in edits]
        headers += [(name, value) for name, value in edits.items() if value is not None]
        self.answer(status, headers, answer, cut)

    def answer(self, status, headers, body, cut=False):
        self.note["status"] = status
        head = self.command == "HEAD"
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if head else length  # a HEAD's tells of a body that is not sent
            elif name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if not head:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_):
        pass


class Door:
    """The proxy's listening socket, which can be closed and opened again on the same port."""

    def __init__(self, address, tls):
        self.address = address
        self.tls = tls
        self.listener = None
        self.connections = set()
        self.open()

    def open(self):
        if self.listener:
            return
        self.listener = socket.create_server(self.address, backlog=128)
        self.address = self.listener.getsockname()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def close(self):
        listener, self.listener = self.listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self, listener):
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection, peer), daemon=True).start()

    def serve(self, connection, peer):
        self.connections.add(connection)
        try:
            secure = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
            Proxy(secure, peer, self)
            secure.close()
        except OSError:
            pass  # a client that gave up
        finally:
            self.connections.discard(connection)
            connection.close()


class Control(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World
    door: Door

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.obey(self.command, self.path, json.loads(body) if body else None)
            status, text = 200, json.dumps(answer).encode()
        except (ValueError, TypeError, KeyError) as error:
            status, text = 400, str(error).encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = serve

    def obey(self, method, path, wish):
        match method, path:
            case "POST", "/faults":
                return self.world.add(wish)
            case "DELETE", "/faults":
                return self.world.clear()
            case "GET", "/requests":
                return self.world.requests
            case "DELETE", "/requests":
                return self.world.requests.clear()
            case "PUT", "/listening":
                return self.door.open() if wish else self.door.close()
        raise ValueError(f"no such control: {method} {path}")

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upstream", required=True, metavar="URL")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="ADDRESS")
    parser.add_argument("--cert", metavar="FILE", help="serve TLS with this certificate")
    parser.add_argument("--key", metavar="FILE")
    arguments = parser.parse_args()
    tls = None
    if arguments.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.cert, arguments.key)
    host, _, port = arguments.listen.rpartition(":")
    Proxy.world = Control.world = World(arguments.upstream)
    Control.door = Door((host, int(port)), tls)
    control = http.server.ThreadingHTTPServer((host, 0), Control)
    control.daemon_threads = True
    scheme = "https" if tls else "http"
    print(f"{scheme}://{host}:{Control.door.address[1]} http://{host}:{control.server_port}", flush=True)
    try:
        control.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
