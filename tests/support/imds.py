#!/usr/bin/env python3
"""A stand-in for the EC2 instance metadata service, version 2 alone.

    imds.py [--listen 127.0.0.1:0] [--role perch] [--region eu-central-1] [--user-data FILE]

prints its URL as the first line; that goes into AWS_EC2_METADATA_SERVICE_ENDPOINT. Only those who asked for a
session token are answered, as on a host with HttpTokens=required. The credentials open nothing. User data is what FILE
holds when it is asked for, if it is there.

    curl -X PUT URL/control -d '{"mode": "deny"}'

changes what it does from then on; a key that is not named keeps its value:
    mode      "ok"; "deny" (403: the service is switched off); "hang" (no answer until the mode changes);
              "roleless" (404 for credentials: no instance profile)
    delay     seconds before each answer
    spot, rebalance, lifecycle
              the text of `spot/instance-action`, `events/recommendations/rebalance` and
              `autoscaling/target-lifecycle-state`; null (404), as on an instance that stays, unless set
    lifetime  seconds that credentials handed out from now on are good for (SDKs fetch new ones minutes before)
`GET URL/control` tells these, and how often each path was asked for.
"""

import argparse
import collections
import datetime
import http.server
import json
import os
import re
import secrets
import threading
import time

TOKEN_PATH = "/latest/api/token"
CREDENTIALS_PATH = "/latest/meta-data/iam/security-credentials/"
LONGEST_TOKEN = 21600  # seconds, as on EC2
WISHES = ("mode", "delay", "lifetime", "spot", "rebalance", "lifecycle")


class World:
    """What is remembered between requests."""

    def __init__(self, role, region, user_data):
        self.role = role
        self.region = region
        self.user_data = user_data
        self.changed = threading.Condition()
        self.mode = "ok"
        self.delay = 0
        self.lifetime = 6 * 3600
        self.spot = self.rebalance = self.lifecycle = None
        self.generation = 0
        self.tokens = {}
        self.asked = collections.Counter()

    def control(self, wishes):
        unknown = set(wishes) - set(WISHES)
        if unknown or wishes.get("mode", "ok") not in ("ok", "deny", "hang", "roleless"):
            raise ValueError(f"can't do {wishes}")
        with self.changed:
            for key, value in wishes.items():
                setattr(self, key, value)
            self.changed.notify_all()

    def state(self):
        return {key: getattr(self, key) for key in WISHES} | {"asked": dict(self.asked)}

    def new_token(self, seconds):
        token = secrets.token_urlsafe(40)
        self.tokens[token] = time.monotonic() + seconds
        return token

    def credentials(self):
        self.generation += 1
        now = datetime.datetime.now(datetime.timezone.utc)
        expiration = now + datetime.timedelta(seconds=self.lifetime)
        return {
            "Code": "Success",
            "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Type": "AWS-HMAC",
            "AccessKeyId": f"TESTACCESSKEY{self.generation:07}",
            "SecretAccessKey": "this-secret-access-key-opens-nothing",
            "Token": "this-session-token-opens-nothing",
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def document(self):
        return {
            "accountId": "123456789012",
            "architecture": "x86_64",
            "availabilityZone": f"{self.region}a",
            "imageId": "ami-00000000000000000",
            "instanceId": "i-00000000000000000",
            "instanceType": "t3.micro",
            "privateIp": "10.0.0.10",
            "region": self.region,
            "version": "2017-09-30",
        }

    def page(self, path):
        """What a GET answers, or None."""
        # Every version of the interface is answered alike.
        path = re.sub(r"^/\d{4}-\d{2}-\d{2}/", "/latest/", path)
        if path.rstrip("/") == CREDENTIALS_PATH.rstrip("/"):
            return None if self.mode == "roleless" else self.role
        if path == CREDENTIALS_PATH + self.role:
            return None if self.mode == "roleless" else json.dumps(self.credentials(), indent=1)
        if path == "/latest/user-data":
            there = self.user_data and os.path.exists(self.user_data)
            return open(self.user_data, encoding="utf-8").read() if there else None
        pages = {
            "/latest/meta-data/placement/region": self.region,
            "/latest/meta-data/placement/availability-zone": f"{self.region}a",
            "/latest/meta-data/instance-id": "i-00000000000000000",
            "/latest/meta-data/local-hostname": f"ip-10-0-0-10.{self.region}.compute.internal",
            "/latest/meta-data/services/domain": "amazonaws.com",
            "/latest/dynamic/instance-identity/document": json.dumps(self.document(), indent=1),
        }
        announced = {
            "/latest/meta-data/spot/instance-action": self.spot,
            "/latest/meta-data/events/recommendations/rebalance": self.rebalance,
            "/latest/meta-data/autoscaling/target-lifecycle-state": self.lifecycle,
        }
        pages |= {page: text for page, text in announced.items() if text is not None}
        return pages.get(path) or listing(pages, path)


def listing(pages, path):
    """The names under a path, one a line; those with more under them end with a slash."""
    folder = path.rstrip("/") + "/"
    under = [page.removeprefix(folder) for page in pages if page.startswith(folder)]
    names = {name if not rest else name + "/" for name, _, rest in (name.partition("/") for name in under)}
    return "\n".join(sorted(names)) or None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body are two writes; without this the second waits for an acknowledgement, 40 ms.
    disable_nagle_algorithm = True
    world: World

    def answer(self, status, text="", headers=()):
        body = text.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def misbehaves(self):
        """Waits as it was told to; True when the request has been answered with a refusal."""
        world = self.world
        with world.changed:
            world.asked[self.path] += 1
            delay = world.delay
            world.changed.wait_for(lambda: world.mode != "hang")
        time.sleep(delay)
        if world.mode == "deny":
            self.answer(403)
        return world.mode == "deny"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/control":
            try:
                self.world.control(json.loads(body))
            except (ValueError, TypeError) as error:
                return self.answer(400, str(error))
            return self.answer(200)
        if self.misbehaves():
            return None
        if self.path != TOKEN_PATH:
            return self.answer(404)
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not seconds.isdigit() or not 1 <= int(seconds) <= LONGEST_TOKEN:
            return self.answer(400)
        if "X-Forwarded-For" in self.headers:
            return self.answer(403)
        token = self.world.new_token(int(seconds))
        return self.answer(200, token, [("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", seconds)])

    def do_GET(self):
        if self.path == "/control":
            return self.answer(200, json.dumps(self.world.state()))
        if self.misbehaves():
            return None
        token = self.headers.get("X-aws-ec2-metadata-token", "")
        if self.world.tokens.get(token, 0) < time.monotonic():
            return self.answer(401)
        text = self.world.page(self.path)
        return self.answer(404) if text is None else self.answer(200, text)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that gave up on a slow answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="ADDRESS")
    parser.add_argument("--role", default="perch")
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument("--user-data", metavar="FILE")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    Handler.world = World(arguments.role, arguments.region, arguments.user_data)
    server = Server((host, int(port)), Handler)
    print(f"http://{host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
