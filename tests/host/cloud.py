"""What is around the host: AWS and Discord under their real names, over TLS from a private authority.

Everything runs in this process' network; the host is in another, and the two are joined by a cable.
"""

import asyncio
import datetime
import http.client
import ipaddress
import json
import ssl
import subprocess
import threading

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from machine import ADDRESS, ROOT, Failed, sh, until

REGION = "eu-central-1"
BUCKET = "perch-configuration"
KEY = "perch.toml"
TOKEN = "MTEwMDAwMDAwMDAwMDAwMDAxMA.hosttest.this-token-opens-nothing"
GATEWAY = "10.99.0.1"
S3 = "10.99.0.11"
SECRETS = "10.99.0.12"
DISCORD = "10.99.0.13"
METADATA = "169.254.169.254"
NAMES = {
    S3: [f"s3.{REGION}.amazonaws.com", f"{BUCKET}.s3.{REGION}.amazonaws.com"],
    SECRETS: [f"secretsmanager.{REGION}.amazonaws.com"],
    DISCORD: ["discord.com"],
}
SIMULATOR = 8081


def lay_cable():
    """Joins this network with the host's, where AWS is everything but the host itself."""
    sh("ip", "netns", "add", "host")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", "host")
    sh("ip", "address", "add", f"{GATEWAY}/24", "dev", "host0")
    for address in NAMES:
        sh("ip", "address", "add", f"{address}/24", "dev", "host0")
    sh("ip", "address", "add", f"{METADATA}/32", "dev", "lo")
    sh("ip", "link", "set", "host0", "up")
    # The host's own network configuration is the image's affair; here the kernel has it from the start.
    for words in ("link set lo up", f"address add {ADDRESS}/24 dev eth0", "link set eth0 up", f"route add default via {GATEWAY}"):
        sh("ip", "-netns", "host", *words.split())


class Authority:
    """A certificate authority, and one certificate for every name."""

    def __init__(self, directory):
        now = datetime.datetime.now(datetime.timezone.utc)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the host test's authority")])
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

        def builder(key):
            begin, end = now - datetime.timedelta(days=1), now + datetime.timedelta(days=1)
            made = x509.CertificateBuilder().issuer_name(name).not_valid_before(begin).not_valid_after(end)
            return made.serial_number(x509.random_serial_number()).public_key(key.public_key())

        constraints = x509.BasicConstraints(ca=True, path_length=0)
        own = builder(keys[0]).subject_name(name).add_extension(constraints, critical=True).sign(keys[0], hashes.SHA256())
        names = [x509.DNSName(name) for names in NAMES.values() for name in names]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in (GATEWAY, ADDRESS)]
        leaf = builder(keys[1]).subject_name(x509.Name([])).add_extension(x509.SubjectAlternativeName(names), critical=True)
        self.pem = own.public_bytes(serialization.Encoding.PEM).decode()
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"
        self.certificate.write_bytes(leaf.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.key.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *form))


def stand_in(*command):
    """Starts a server that prints its addresses on its first line; returns them."""
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stand_in.running.append(process)
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{command[0]} did not start")
    return line.split()


stand_in.running = []


def support(script, *arguments):
    return stand_in("python3", ROOT / "tests/support/leashed.py", script, *arguments)


class TlsFront:
    """Takes TLS connections for `address` and passes what is in them on."""

    def __init__(self, address, authority, backend):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.certificate, authority.key)
        context.set_alpn_protocols(["http/1.1"])

        async def copy(reader, writer):
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            except (OSError, ssl.SSLError):
                pass
            finally:
                writer.close()

        async def serve(reader, writer):
            try:
                onward = await asyncio.open_connection(*backend)
            except OSError:
                return writer.close()
            await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))

        async def main():
            server = await asyncio.start_server(serve, address, 443, ssl=context)
            started.set()
            await server.serve_forever()

        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        if not started.wait(10):
            raise SystemExit(f"{address}:443 can't be listened on")


def request(method, url, body=None):
    """Asks a stand-in's control interface."""
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, "/" + path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 300:
        raise Failed(f"{method} {url}: {answer.status} {text.decode()}")
    return json.loads(text) if text else None


class Discord:
    """The simulator, spoken to as the people in it."""

    def __init__(self, binary, authority):
        stand_in(binary, "sim", "--listen", f"{DISCORD}:{SIMULATOR}", "--token", TOKEN)
        self.url = f"http://{DISCORD}:{SIMULATOR}"
        TlsFront(DISCORD, authority, (DISCORD, SIMULATOR))
        self.bot = self.state()["bot"]["id"]

    def state(self):
        return request("GET", f"{self.url}/sim/state")

    def counters(self):
        return self.state()["counters"]

    def add_channel(self, name):
        request("POST", f"{self.url}/sim/channels", {"name": name})

    def say(self, text, channel="general"):
        """Ada mentions the bot; returns the id of what she said."""
        said = request("POST", f"{self.url}/sim/say", {"channel": channel, "content": f"<@{self.bot}> {text}"})
        return said["id"]

    def answers(self, channel="general"):
        """What the bot's answers in a channel refer to and say, oldest first."""
        messages = request("GET", f"{self.url}/sim/messages?channel={channel}")
        messages = [message for message in messages if message["author"]["id"] == self.bot]
        return [((message.get("message_reference") or {}).get("message_id"), message["content"]) for message in messages]

    def wait_answer(self, said, channel="general", patience=20):
        return until(f"an answer to {said}", lambda: dict(self.answers(channel)).get(said), patience)

    def ask(self, text):
        return self.wait_answer(self.say(text))

    def connected(self):
        return any(connection["phase"] == "ready" for connection in self.state()["gateway"]["connections"])


class Cloud:
    def __init__(self, directory):
        self.authority = Authority(directory)
        (self.moto,) = support("moto")
        tls = ["--cert", self.authority.certificate, "--key", self.authority.key]
        fronts = {}
        for name, address in (("s3", S3), ("secrets", SECRETS)):
            front = support(ROOT / "tests/support/fault_proxy.py", "--upstream", self.moto, "--listen", f"{address}:443", *tls)
            fronts[name] = front[1]
        self.s3_control, self.secrets_control = fronts["s3"], fronts["secrets"]
        self.user_data = directory / "user-data"
        (self.metadata,) = support(ROOT / "tests/support/imds.py", "--listen", f"{METADATA}:80", "--region", REGION, "--user-data", self.user_data)
        keys = {"aws_access_key_id": "the-operators", "aws_secret_access_key": "own", "region_name": REGION}
        self.s3 = boto3.client("s3", endpoint_url=self.moto, **keys)
        self.secrets = boto3.client("secretsmanager", endpoint_url=self.moto, **keys)
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        self.secrets.create_secret(Name="perch/discord", SecretString=json.dumps({"DISCORD_BOT_TOKEN": TOKEN}))

    def upload(self, text, key=KEY):
        """Uploads a version of the configuration and returns its id."""
        return self.upload_file(text.encode(), key)

    def upload_file(self, data, key):
        return self.s3.put_object(Bucket=BUCKET, Key=key, Body=data)["VersionId"]

    def s3_answers(self, whether):
        """Takes S3 away, so that connections to it are refused, or gives it back."""
        request("PUT", f"{self.s3_control}/listening", whether)

    def secrets_manager_answers(self, whether):
        """The same for Secrets Manager."""
        request("PUT", f"{self.secrets_control}/listening", whether)

    def announce(self, **notices):
        """What the instance metadata says of the host's end; see tests/support/imds.py. None withdraws it."""
        request("PUT", f"{self.metadata}/control", notices)

    @staticmethod
    def hosts():
        """The host's /etc/hosts."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        return "\n".join(lines + [f"{address} {' '.join(names)}" for address, names in NAMES.items()]) + "\n"
