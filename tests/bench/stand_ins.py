"""What perch needs around it to be measured, all on loopback, each a process that ends with its `with` block."""

import contextlib
import http.client
import json
import os
import pathlib
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib

REGION = "eu-central-1"
TOKEN = "bench.token-that-opens.nothing"
SECRET = "discord-bot-dev-token"
BUCKET = "perch-bench"
SAME = "/same.json"
CHAT_THREADS = 64  # as many as there are connections: one waits for none
PATIENCE = 20  # seconds for anything to start, or to end after SIGTERM

HERE = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
    """Something could not be measured, and why."""


@contextlib.contextmanager
def process(command, log, env=None, core=None, stdout=None):
    """A process with its output in the file `log`; ended by its id when the block ends, however it ends."""
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            env=env or bare_environment(log.parent),
            stdin=subprocess.DEVNULL,
            stdout=stdout or output,
            stderr=output,
        )
    try:
        yield child
    finally:
        end(child)
        if child.stdout:
            child.stdout.close()


def end(child):
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def bare_environment(home):
    """No variable of whoever started the bench, least of all AWS keys."""
    return {"PATH": os.environ["PATH"], "HOME": str(home)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, child=None, log=None, seconds=PATIENCE, pause=0.02):
    """Waits for something true; a child that ends meanwhile, or too long a wait, is a failure that shows its log."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        ended = child is not None and child.poll() is not None
        if ended or time.monotonic() > deadline:
            why = f"ended with {child.returncode}" if ended else f"not within {seconds} s"
            last = log.read_text(errors="replace").strip().splitlines()[-3:] if log and log.exists() else []
            raise Failed(f"{what}: {why}" + "".join(f"; {line}" for line in last))
        time.sleep(pause)


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def first_line(child, what, log):
    """What a stand-in prints first: its URL."""
    until(lambda: select.select([child.stdout], [], [], 0)[0], what, child, log)
    line = child.stdout.readline().decode().strip()
    if not line.startswith("http://"):
        raise Failed(f"{what} said '{line}', not its URL: {log.read_text(errors='replace')[-300:]}")
    return line


@contextlib.contextmanager
def discord(perch, home):
    """The Discord simulator; yields its URL."""
    log = home / "sim.log"
    command = [perch, "sim", "--listen", "127.0.0.1:0", "--token", TOKEN]
    with process(command, log, stdout=subprocess.PIPE) as child:
        yield first_line(child, "the Discord simulator", log)


@contextlib.contextmanager
def nginx(home, body, core, tls=None):
    """nginx answering `/api/chat` with a fixed body, and `SAME` with the same from a file, over TLS with `tls`, a
    certificate and its key; yields its process and port."""
    port = free_port()
    root = home / "nginx"
    root.mkdir()
    paths = "".join(f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    secure = "ssl_certificate {}; ssl_certificate_key {};".format(*tls) if tls else ""
    (root / SAME.removeprefix("/")).write_text(body)
    # As root its worker would be somebody else, who may not read there.
    user = "user root;" if os.getuid() == 0 else ""
    (root / "nginx.conf").write_text(f"""
        {user} daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {paths}
            server {{
                listen 127.0.0.1:{port} {"ssl" if tls else ""}; {secure}
                default_type application/json;
                location = /api/chat {{ return 200 '{body}'; }}
                location = {SAME} {{ root {root}; }}
            }}
        }}
    """)
    log = root / "output.log"
    command = ["nginx", "-p", root, "-e", root / "error.log", "-c", root / "nginx.conf"]
    with process(command, log, core=core) as child:
        until(lambda: accepts(port), "nginx", child, log)
        yield child, port


@contextlib.contextmanager
def gunicorn(python, home, core, model=None, threads=CHAT_THREADS):
    """Flask's chat endpoint in gunicorn, one worker with `threads`, which keeps connections; yields its process and port."""
    port = free_port()
    log = home / "gunicorn.log"
    command = [python, "-m", "gunicorn", "--chdir", HERE, "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
    command += ["--threads", threads, "--worker-connections", 1024, "--keep-alive", 60, "--no-control-socket", "flask_chat:app"]
    environment = bare_environment(home) | {"PYTHONDONTWRITEBYTECODE": "1"} | ({"MODEL": model} if model else {})
    with process(command, log, environment, core) as child:
        until(lambda: accepts(port), "gunicorn", child, log)
        yield child, port


@contextlib.contextmanager
def model(home, core):
    """A model that streams its answers slowly; yields its base URL."""
    log = home / "model.log"
    command = [sys.executable, HERE / "streams.py", "model"]
    with process(command, log, core=core, stdout=subprocess.PIPE) as child:
        yield first_line(child, "the model", log)


def people(count, port, core):
    """As many people ask a server at once, and read what the model says; how late the pieces came, in milliseconds."""
    command = ["taskset", "-c", str(core), sys.executable, str(HERE / "streams.py"), "people", str(count), str(port)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    if output.returncode:
        raise Failed(f"people: {output.stderr.strip()[-300:]}")
    return json.loads(output.stdout)


def certificate(home):
    """A self-signed certificate for this machine alone, and its key."""
    certificate, key = home / "tls.crt", home / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def picture(home, size):
    """A PNG of noise, about `size` bytes long."""
    side = int((size / 3) ** 0.5)
    rows = b"".join(b"\0" + os.urandom(3 * side) for _ in range(side))

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path = home / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows, 0)) + part(b"IEND", b""))
    return path


class Aws:
    """moto and the metadata service: S3 with versions, Secrets Manager, and a role's credentials."""

    def __init__(self, url, metadata_url):
        self.url = url
        self.environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_url,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": url,
        }

    def call(self, method, path, body=None, service="s3", headers=None):
        # moto takes service and region from the signature's scope, and checks no signature.
        scope = f"TEST/20260101/{REGION}/{service}/aws4_request"
        signed = {
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
            "Content-Type": "application/octet-stream",
        }
        request = urllib.request.Request(self.url + path, body, signed | (headers or {}), method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            answer.read()
            return answer.headers

    def fill(self, text):
        place = f"<LocationConstraint>{REGION}</LocationConstraint>"
        self.call("PUT", f"/{BUCKET}", f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>".encode())
        versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        self.call("PUT", f"/{BUCKET}?versioning", versioning.encode())
        secret = {
            "Name": SECRET,
            "SecretString": json.dumps({"DISCORD_BOT_TOKEN": TOKEN}),
            "ClientRequestToken": "00000000-0000-0000-0000-000000000000",
        }
        headers = {"X-Amz-Target": "secretsmanager.CreateSecret", "Content-Type": "application/x-amz-json-1.1"}
        self.call("POST", "/", json.dumps(secret).encode(), "secretsmanager", headers)
        return self.upload(text)

    def upload(self, text):
        """Puts the configuration; returns its VersionId."""
        return self.call("PUT", f"/{BUCKET}/perch.toml", text.encode())["x-amz-version-id"]

    def milliseconds(self, calls=20):
        """What moto itself needs for one GET, which perch's own figure holds several times."""
        times = []
        for _ in range(calls):
            begun = time.monotonic()
            self.call("GET", f"/{BUCKET}/perch.toml")
            times.append((time.monotonic() - begun) * 1000)
        return sorted(times)[calls // 2]


@contextlib.contextmanager
def aws(moto, home):
    port = free_port()
    log, metadata_log = home / "moto.log", home / "imds.log"
    imds = [sys.executable, HERE.parent / "support" / "imds.py", "--region", REGION]
    with (
        process([moto, "-H", "127.0.0.1", "-p", port], log) as child,
        process(imds, metadata_log, stdout=subprocess.PIPE) as metadata,
    ):
        url = first_line(metadata, "the metadata service", metadata_log)
        until(lambda: accepts(port), "moto", child, log)
        yield Aws(f"http://127.0.0.1:{port}", url)


class Perch:
    """A running perch."""

    def __init__(self, binary, child, home, port, notify, seconds_to_ready):
        self.binary = binary
        self.child = child
        self.home = home
        self.port = port
        self.notify = notify
        self.seconds_to_ready = seconds_to_ready

    def verb(self, *words):
        command = [self.binary, *words, "--runtime-dir", self.home / "run"]
        return subprocess.run(
            [str(word) for word in command],
            env=bare_environment(self.home),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def status(self):
        answer = self.verb("status", "--json")
        if answer.returncode:
            raise Failed(f"perch status: {answer.returncode}: {answer.stderr.strip()}")
        return json.loads(answer.stdout)

    def ask(self):
        """One chat message; the answer's body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/chat", '{"message":"hello"}', headers)
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"POST /api/chat answered {answer.status}: {body}")
        return body


class Notify:
    """The service manager's end of NOTIFY_SOCKET: when which word came. It always reads, or perch would block."""

    def __init__(self, path):
        self.path = path
        self.heard = []
        self.news = threading.Condition()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self):
        self.path.unlink(missing_ok=True)
        self.socket.bind(str(self.path))
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()

    def listen(self):
        while datagram := self.socket.recv(4096):
            now = time.monotonic()
            with self.news:
                self.heard += [(now, word) for word in datagram.decode(errors="replace").split("\n")]
                self.news.notify_all()

    def first(self, word):
        """When a word first came, or None."""
        return next((at for at, heard in list(self.heard) if heard == word), None)

    def reloads(self):
        """Seconds from each RELOADING=1 to the READY=1 after it."""
        durations, begun = [], None
        for at, word in list(self.heard):
            if word == "RELOADING=1":
                begun = at
            elif word == "READY=1" and begun is not None:
                durations.append(at - begun)
                begun = None
        return durations


@contextlib.contextmanager
def perch(binary, home, config, port, environment=None, core=None):
    """perch with its configuration at `config`, from exec to READY=1 on a notify socket of ours."""
    for name in ("state", "run"):
        (home / name).mkdir(exist_ok=True)
    log = home / "perch.log"
    command = [binary, "run", "--config", config, "--state-dir", home / "state", "--runtime-dir", home / "run"]
    with Notify(home / "notify") as notify:
        env = bare_environment(home) | (environment or {}) | {"NOTIFY_SOCKET": str(notify.path)}
        begun = time.monotonic()
        with process(command, log, env, core) as child:
            ready = until(lambda: notify.first("READY=1"), "perch, until READY=1", child, log, pause=0.002)
            yield Perch(binary, child, home, port, notify, ready - begun)
