"""What is shown, in this order. Each check leaves the host as the next one expects it: perch active."""

import contextlib
import hashlib
import http.client
import json
import pathlib
import re
import shutil
import socket
import ssl
import time

from cloud import BUCKET, KEY, TOKEN
from load import Crowd, Greedy
from machine import ADDRESS, ROOT, Failed, sh, until

HERE = pathlib.Path(__file__).parent
USER_DATA = ROOT / "packaging/cloud-init/user-data"
ALL = []


class Check:
    def __init__(self, run, name, always):
        self.run, self.name, self.always = run, name, always


def check(name, always=False):
    """A check; it fails by raising, and returns a reason when it can't be made. `always`: others build on it."""

    def register(function):
        ALL.append(Check(function, name, always))
        return function

    return register


def expect(what, seen, expected):
    if seen != expected:
        raise Failed(f"{what}: {seen!r}, not {expected!r}")


def config(extra="", token='{ secret = "perch/discord", key = "DISCORD_BOT_TOKEN" }'):
    """A configuration as an operator writes it, but for the quick looks at S3."""
    # A crowd that has one address is let in as if it had many.
    http = '[limits]\nexempt = ["10.99.0.0/24"]\n[http]\nlisten = "0.0.0.0:80"\n[reload]\npoll = "1s"\nbake = "2s"\n[run]\ndrain = "10s"\n'
    return f"[discord]\ntoken = {token}\n{http}{extra}"


def recipe(page, heading, kind):
    """The blocks of one kind in a section of a page, as somebody would paste them."""
    section = (ROOT / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)


# On a real host the roots that are compiled in are enough.
CERTIFICATES = "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"
ENVIRONMENT = f"PERCH_CONFIG=s3://{BUCKET}/{KEY}\n{CERTIFICATES}\n"


def ask(path, body=None, timeout=20, port=80):
    """Asks perch over HTTP from outside the host; returns status and body."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=timeout)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if "json" in answer.getheader("Content-Type", "") else text
    except http.client.HTTPException as error:
        raise Failed(f"{path}: {error!r}") from error
    finally:
        connection.close()


def chat(message):
    status, answer = ask("/api/chat", {"message": message})
    expect("the chat's answer", (status, answer.get("reply")), (200, message))


def both_answer(world):
    chat("are you there?")
    expect("the bot's answer", world.discord.ask("are you there?"), "are you there?")


def prepare(world):
    """A host that has perch and a configuration for it by hand, booted; the one before is gone."""
    world.cloud.s3_answers(True)
    world.cloud.secrets_manager_answers(True)
    world.version = world.cloud.upload(config())
    machine = world.new_machine()
    machine.install(world.binary)
    machine.write("etc/perch/perch.env", ENVIRONMENT)
    machine.write("etc/cloud/cloud-init.disabled", "")
    machine.boot()
    expect("the boot", machine.wait_booted(), "running")
    settle(world)


def settle(world):
    """Waits until the version has passed its trial and the bot is connected: what is killed before that is undone."""
    good = lambda: world.machine.status()["config"]["last_good"]["version"] == world.version
    until("the version to be good", good)
    until("the session with Discord", world.discord.connected)


def user_data(package, version, **more):
    """packaging/cloud-init/user-data as an operator fills it in."""
    settings = {
        **more,
        "config": f"s3://{BUCKET}/{KEY}",
        "package": f"s3://{BUCKET}/perch_{version}_amd64.deb",
        "sha256": hashlib.sha256(package).hexdigest(),
        "environment": CERTIFICATES,
    }
    text = USER_DATA.read_text()
    for name, value in settings.items():
        text, found = re.subn(f"(?m)^{name}='.*'$", lambda _: f"{name}='{value}'", text)
        expect(f"places for {name} in the user data", found, 1)
    return text


@check("user data brings a bare host to the first reply", always=True)
def first_boot(world):
    world.version = world.cloud.upload(config())
    package = world.package("1.0.0").read_bytes()
    world.cloud.upload_file(package, "perch_1.0.0_amd64.deb")
    world.cloud.user_data.write_text(user_data(package, "1.0.0"))
    machine = world.new_machine()
    machine.use_cloud_init()
    begin = time.monotonic()
    machine.boot()
    until("the first chat", lambda: ask("/ready") == (200, {"ready": True}), patience=60)
    until("the session with Discord", world.discord.connected)
    expect("the first reply", world.discord.ask("hello?"), "hello?")
    took = time.monotonic() - begin
    expect("the boot", machine.wait_booted(), "running")
    status = machine.run("cloud-init", "status", "--long").stdout
    if "status: done" not in status or "DataSourceEc2" not in machine.run("cat", "/run/cloud-init/result.json").stdout:
        raise Failed(f"cloud-init: {status}")
    expect("the package", machine.run("dpkg-query", "--show", "perch").stdout, "perch\t1.0.0\n")
    print(f"         from power-on to the first reply: {took:.1f} s")
    print("         " + "\n         ".join(machine.messages_of("perch-user-data")))


@check("booted, the unit is active and ready", always=True)
def active(world):
    machine = world.machine
    expect("the unit", machine.show("ActiveState"), "active")
    expect("/ready", ask("/ready"), (200, {"ready": True}))
    expect("the version", machine.status()["config"]["version"], world.version)
    expect("failed units", machine.systemctl("--failed", "--quiet"), "")
    until("the session with Discord", world.discord.connected)
    status = machine.show("StatusText")
    if "http running" not in status:
        raise Failed(f"StatusText: {status}")


@check("a mention on Discord is answered")
def mention(world):
    expect("the answer", world.discord.ask("hello from #general"), "hello from #general")


@check("a chat over HTTP is answered")
def chat_answered(_):
    chat("hello over HTTP")
    expect("/health", ask("/health")[0], 200)


@check("the journal's entries have their fields")
def journal(world):
    entries = world.machine.journal("PERCH_SERVICE=discord")
    if not entries:
        raise Failed("there is no entry with PERCH_SERVICE=discord")
    first = world.machine.wait_message("first configuration applied")
    seen = {name: first.get(name) for name in ("PERCH_SERVICE", "PERCH_CONFIG_VERSION", "PRIORITY", "_UID")}
    user = world.machine.run("id", "--user", "perch").stdout.strip()
    expected = {"PERCH_SERVICE": "supervisor", "PERCH_CONFIG_VERSION": world.version, "PRIORITY": "6", "_UID": user}
    expect("its fields", seen, expected)
    if not first.get("PERCH_CHANGE") or first["_SYSTEMD_UNIT"] != "perch.service":
        raise Failed(f"it belongs to no change, or not to the unit: {first}")
    # `journalctl -p`
    expect("errors in a good start", world.machine.messages("--priority=err"), [])


@check("whoever connects first starts it: the socket does not need the daemon")
def socket_activation(world):
    machine = world.machine
    machine.systemctl("stop", "perch.service")
    expect("the unit", machine.show("ActiveState"), "inactive")
    expect("the socket", machine.show("ActiveState", "perch.socket"), "active")
    chat("is anybody there?")
    machine.wait_active()
    both_answer(world)


@check("a new version of the object is applied")
def upload(world):
    since = world.machine.now()
    process = world.machine.main_process()
    version = world.cloud.upload(config(extra='[log]\nlevel = "debug"\n'))
    until("the version", lambda: world.machine.status()["config"]["version"] == version)
    applied = [entry for entry in world.machine.journal(since) if entry.get("PERCH_CONFIG_VERSION") == version]
    if not applied or not applied[0].get("PERCH_CHANGE"):
        raise Failed(f"the journal does not name it: {world.machine.messages(since)}")
    expect("the process", world.machine.main_process(), process)
    world.version = world.cloud.upload(config())
    until("the version before", lambda: world.machine.status()["config"]["version"] == world.version)


@check("a bad version is refused and named, and what runs goes on")
def bad_version(world):
    since = world.machine.now()
    bad = world.cloud.upload(config().replace("listen", "lisen"))
    entry = world.machine.wait_message("lisen", since)
    expect("the priority and the version", (entry["PRIORITY"], entry.get("PERCH_CONFIG_VERSION")), ("3", bad))
    expect("the version that runs", world.machine.status()["config"]["version"], world.version)
    if "refused" not in world.machine.show("StatusText"):
        raise Failed(f"systemctl status does not say so: {world.machine.show('StatusText')}")
    both_answer(world)
    world.version = world.cloud.upload(config())
    until("the version after", lambda: world.machine.status()["config"]["version"] == world.version)


def probe(world, drop_in=""):
    """Starts perch with the probe before it, in everything that the unit takes away, and returns what it found."""
    machine = world.machine
    since = machine.now()
    # Python and its libraries are allowed to run, for the probe; nothing else differs.
    python = machine.run("readlink", "-f", "/usr/bin/python3").stdout.strip()
    paths = f"ExecPaths={python} /usr/lib/python3 /usr/lib/x86_64-linux-gnu /usr/lib/python3.11"
    machine.drop_in("probe", f"[Service]\n{paths}\nExecStartPre={python} -I /opt/probe.py\n{drop_in}")
    try:
        machine.systemctl("restart", "perch.service")
    finally:
        machine.remove_drop_in("probe")
    found = json.loads(machine.wait_message("PROBE ", since)["MESSAGE"].removeprefix("PROBE "))
    machine.systemctl("restart", "perch.service")
    return found


@check("the sandbox denies what perch does not need")
def sandbox(world):
    machine = world.machine
    machine.write_running("/opt/probe.py", (HERE / "probe.py").read_text())
    found = probe(world)
    expect("where it can write", found["writable"], ["/run/perch", "/var/lib/perch"])
    denied = {name: "EAFNOSUPPORT" for name in ("netlink", "packet", "vsock")} | {"raw": "EPERM"}
    expect("sockets", found["sockets"], dict.fromkeys(("inet", "inet6", "unix"), "allowed") | denied)
    expect("programs", found["programs"], {"perch": "allowed", "shell": "EACCES", "own": "EACCES"})
    allowed = [what for what, outcome in found["calls"].items() if outcome == "allowed"]
    expect("calls that were allowed", allowed, [])
    expect("processes of others that it sees", found["others"], [])
    expect("the limit of core dumps", found["core"], [0, 0])
    none = "0" * 16
    expected = {"NoNewPrivs": "1", "Seccomp": "2"} | dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), none)
    expect("the process", found["status"], expected)
    expect("reading the id of the boot", found["boot id"], "allowed")
    both_answer(world)


@check("the running process can't be made another program, not even one in memory")
def no_program(world):
    machine = world.machine
    tool = machine.root / "usr/local/lib/exec_inside"
    sh("cc", "-o", tool, ROOT / "tests/support/exec_inside.c")
    process = machine.main_process()
    tried = machine.run("/usr/local/lib/exec_inside", process, "/usr/bin/perch").stdout.splitlines()
    ways = ("its own file", "memory by its path", "memory by its descriptor")
    expect("what was tried", tried, [f"{way}: EPERM" for way in ways])
    expect("the process", machine.main_process(), process)
    both_answer(world)


@check("systemd-analyze security gives the unit 1.5 or less")
def exposure(world):
    text = world.machine.run("systemd-analyze", "security", "--no-pager", "perch.service").stdout
    level = float(text.rpartition("perch.service: ")[2].split()[0])
    if level > 1.5:
        raise Failed(f"{level}\n{text}")


def paste(world, commands, edited=None):
    """Runs lines of a page on the host as root's shell does; what is typed into the editor that they open is `edited`."""
    machine = world.machine
    if edited is not None:
        machine.write_running("/opt/typed", edited)
    # `systemctl edit` wants a terminal, and gives the editor the path of a draft.
    machine.write_running("/opt/pasted", f"set -ex\n{commands}")
    terminal = ["script", "--quiet", "--return", "--command", "sh /opt/pasted", "/dev/null"]
    machine.run("env", "SYSTEMD_EDITOR=cp /opt/typed", *terminal, timeout=60)


@check("the port for HTTPS is opened as the page says; before it is listened on it harms nobody, and then it is served")
def https_socket(world):
    machine = world.machine
    since = machine.now()
    (commands,) = [block for block in recipe("systemd/README.md", "Ports", "sh") if "perch-https.socket" in block]
    paste(world, commands)
    expect("the sockets", [machine.show("ActiveState", f"perch{kind}.socket") for kind in ("", "-https")], ["active"] * 2)
    expect("it begins at boot", machine.systemctl("is-enabled", "perch-https.socket"), "enabled")
    both_answer(world)
    expect("the answer at 443", ask("/ready", port=443)[0], 503)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((ADDRESS, 443), timeout=10) as plain, context.wrap_socket(plain):
            raise Failed("it speaks TLS, and has no certificate")
    except (ssl.SSLError, ConnectionError):
        pass
    # Both outlive the daemon.
    machine.systemctl("restart", "perch.service")
    expect("the answers", (ask("/ready")[0], ask("/ready", port=443)[0]), (200, 503))
    expect("errors", machine.messages(since, "--priority=err"), [])
    # With a certificate in the configuration perch takes the socket over, and its next process does too.
    with https_configured(world) as ask_securely:
        expect("the answer over TLS", ask_securely(), 200)
        expect("the way there", ask("/")[0], 308)
        process = machine.main_process()
        machine.systemctl("restart", "perch.service")
        expect("the answer of another process", (ask_securely(), machine.main_process() != process), (200, True))
    expect("errors", machine.messages(since, "--priority=err"), [])
    without_https(world)


@contextlib.contextmanager
def https_configured(world):
    """Has a certificate in the configuration; yields what asks over TLS."""
    machine, authority = world.machine, world.cloud.authority
    tls = '[http.tls]\ncert = "/etc/perch/cert.pem"\nkey = "/etc/perch/key.pem"\n'
    for file, source in (("cert", authority.certificate), ("key", authority.key)):
        machine.write_running(f"/etc/perch/{file}.pem", source.read_text())
        machine.run("chown", "perch:", f"/etc/perch/{file}.pem")
        machine.run("chmod", "400", f"/etc/perch/{file}.pem")
    world.version = world.cloud.upload(config(extra=tls))
    until("the version", lambda: machine.status()["config"]["version"] == world.version)
    trusting = ssl.create_default_context(cadata=authority.pem)

    def ask_securely():
        connection = http.client.HTTPSConnection(ADDRESS, timeout=20, context=trusting)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status
        finally:
            connection.close()

    yield ask_securely
    world.version = world.cloud.upload(config())
    settle(world)
    machine.run("rm", "/etc/perch/cert.pem", "/etc/perch/key.pem")


def without_https(world):
    """Closes the socket for HTTPS again."""
    machine = world.machine
    machine.systemctl("stop", "perch.service")
    machine.systemctl("disable", "--now", "perch-https.socket")
    machine.systemctl("start", "perch.service")
    settle(world)
    both_answer(world)


@check("another port is opened as the page says")
def another_port(world):
    machine = world.machine
    world.version = world.cloud.upload(config().replace("0.0.0.0:80", "0.0.0.0:8080"))
    (edited,) = [block for block in recipe("systemd/README.md", "Ports", "ini") if "ListenStream=8080" in block]
    (commands,) = [block for block in recipe("systemd/README.md", "Ports", "sh") if "perch-https" not in block]
    paste(world, commands, edited)
    expect("the unit that listens", machine.show("Listen", "perch.socket"), "[::]:8080 (Stream)")
    until("the answer at 8080", lambda: ask("/ready", port=8080) == (200, {"ready": True}))
    try:
        ask("/ready")
        raise Failed("somebody still listens on 80")
    except ConnectionRefusedError:
        pass
    # Connections wait while it restarts.
    machine.systemctl("restart", "perch.service")
    expect("the answer at 8080", ask("/ready", port=8080)[0], 200)
    machine.run("rm", "-r", "/etc/systemd/system/perch.socket.d")
    machine.systemctl("daemon-reload")
    world.version = world.cloud.upload(config())
    machine.systemctl("stop", "perch.socket", "perch.service")
    machine.systemctl("start", "perch.socket", "perch.service")
    settle(world)
    both_answer(world)


@check("the running process leaves no core dump and is the last to be ended when memory is short")
def process(world):
    machine = world.machine
    settle(world)
    number = machine.main_process()
    limits = machine.run("cat", f"/proc/{number}/limits").stdout
    core = next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size"))
    expect("the limit of core dumps", core, ["0", "0"])
    # A machine that keeps its own root from lowering the score keeps systemd from it, too, and systemd goes on.
    lowered = machine.run("choom", "-n", "-500", "true", check=False).returncode == 0
    score = machine.run("cat", f"/proc/{number}/oom_score_adj").stdout.strip()
    expect("the OOM score", score if lowered else machine.show("OOMScoreAdjust"), "-500")
    # What can't be dumped belongs to root in /proc (proc(5)).
    expect("its files in /proc", machine.run("stat", "-c", "%U", f"/proc/{number}/environ").stdout.strip(), "root")
    expect("the state directory", machine.run("stat", "-c", "%U %a", "/var/lib/perch").stdout.strip(), "perch 700")
    since = machine.now()
    machine.run("kill", "-ABRT", number)
    machine.wait_message("code=killed, status=6/ABRT", since)
    machine.wait_active()
    both_answer(world)


@check("the memory limit fits a host with 1 GiB")
def memory(world):
    limits = {name: world.machine.show(name) for name in ("MemoryHigh", "MemoryMax", "MemorySwapMax")}
    expect("the limits", limits, {"MemoryHigh": str(448 << 20), "MemoryMax": str(512 << 20), "MemorySwapMax": "0"})


@check("systemctl reload applies a new version at once, and fails when it is refused")
def reload(world):
    machine = world.machine
    slow = config().replace('poll = "1s"', 'poll = "1h"')
    first = world.cloud.upload(slow)
    until("the slow version", lambda: machine.status()["config"]["version"] == first)
    process = machine.main_process()
    second = world.cloud.upload(slow + '[log]\nlevel = "debug"\n')
    machine.systemctl("reload", "perch.service")
    expect("the version", machine.status()["config"]["version"], second)
    since = machine.now()
    world.cloud.upload("[http]\nlisten = 80\n")
    expect("the reload", machine.run("systemctl", "reload", "perch.service", check=False).returncode, 1)
    machine.wait_message("refused", since)
    state = {name: machine.show(name) for name in ("ActiveState", "SubState", "MainPID")}
    expect("the unit", state, {"ActiveState": "active", "SubState": "running", "MainPID": process})
    both_answer(world)
    world.version = world.cloud.upload(config())
    machine.systemctl("reload", "perch.service")
    expect("the version", machine.status()["config"]["version"], world.version)


RESTARTS = 20


@check(f"{RESTARTS} restarts under load: no request refused, no mention lost or answered twice")
def restarts(world):
    machine, discord = world.machine, world.discord
    before = discord.counters()
    with Crowd(discord) as crowd:
        for _ in range(RESTARTS):
            machine.systemctl("restart", "perch.service")
    until("every mention to be answered once, in order", lambda: not crowd.answered())
    after = discord.counters()
    expect("requests that failed", [text for _, _, text in crowd.failed], [])
    expect("IDENTIFYs and violations", [after[name] - before[name] for name in ("identifies", "violation_count")], [0, 0])
    if crowd.served < 10 * RESTARTS:
        raise Failed(f"only {crowd.served} requests were served")
    print(f"         {crowd.served} requests, {sum(map(len, crowd.said.values()))} mentions")


# What EC2 and Auto Scaling say before they take a host, by the names of tests/support/imds.py, and what perch makes of it.
NOTICES = {
    "spot": ('{"action": "terminate", "time": "2033-05-18T03:33:20Z"}', "EC2 terminates this spot instance"),
    "rebalance": ('{"noticeTime": "2020-10-26T21:06:20Z"}', "EC2 recommends to replace this spot instance"),
    "lifecycle": ("Terminated", "Auto Scaling terminates this instance"),
}


@check("told that it is to go, the host is not ready, ends what it has in hand and leaves Discord resumably; and it comes back")
def departure(world):
    machine, discord = world.machine, world.discord
    settle(world)
    before = discord.counters()
    with Crowd(discord) as crowd:
        for notice, (text, reason) in NOTICES.items():
            since = machine.now()
            begin = time.monotonic()
            world.cloud.announce(**{notice: text})
            try:
                said = until("/ready to say so", lambda: answer if (answer := ask("/ready"))[0] == 503 else None)[1]
                if reason not in said["reason"]:
                    raise Failed(f"{notice}: /ready says {said}")
                until("the session to end", lambda: not discord.connected())
                took = time.monotonic() - begin
                until("systemctl status to say so", lambda: f"leaving: {reason}" in machine.show("StatusText"))
                machine.wait_message(reason, since, "--priority=warning")
                chat("are you still there?")
            finally:
                world.cloud.announce(**{notice: None})
            until("the session with Discord", discord.connected)
            expect("/ready", ask("/ready"), (200, {"ready": True}))
            # Auto Scaling's hook gives it a minute.
            if took > 15:
                raise Failed(f"{notice}: it took {took:.1f} s")
    until("every mention to be answered once, in order", lambda: not crowd.answered())
    expect("requests that failed", [text for _, _, text in crowd.failed], [])
    after = discord.counters()
    expect("IDENTIFYs and violations", [after[name] - before[name] for name in ("identifies", "violation_count")], [0, 0])
    # After this code the session can be resumed.
    left = after["closed_by_client"].get("4000", 0) - before["closed_by_client"].get("4000", 0)
    expect("connections that perch ended so that they can be resumed", left, len(NOTICES))


APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes"]


def install(world, version):
    """Installs the package of another version as an operator does."""
    package = world.package(version)
    name = f"/opt/{package.name}"
    shutil.copy(package, world.machine.root / name[1:])
    world.machine.run(*APT, "-o", "Dpkg::Options::=--force-confold", "install", name)


@check("the package is upgraded under load: no request refused, no mention lost or answered twice")
def upgrade(world):
    machine, discord = world.machine, world.discord
    before, process = discord.counters()["identifies"], machine.main_process()
    environment = machine.run("cat", "/etc/perch/perch.env").stdout
    with Crowd(discord) as crowd:
        install(world, "1.0.1")
        until("another process", lambda: machine.main_process() not in ("0", process))
        machine.wait_active()
    until("every mention to be answered once, in order", lambda: not crowd.answered())
    expect("requests that failed", [text for _, _, text in crowd.failed], [])
    expect("IDENTIFYs", discord.counters()["identifies"] - before, 0)
    expect("the package", machine.run("dpkg-query", "--show", "perch").stdout, "perch\t1.0.1\n")
    expect("perch.env", machine.run("cat", "/etc/perch/perch.env").stdout, environment)
    both_answer(world)


@check("user data may be run again")
def user_data_again(world):
    machine = world.machine
    process = machine.main_process()
    package = world.package("1.0.1").read_bytes()
    world.cloud.upload_file(package, "perch_1.0.1_amd64.deb")
    machine.write_running("/opt/user-data", user_data(package, "1.0.1"))
    for _ in range(2):
        machine.run("sh", "/opt/user-data")
    expect("the process", machine.main_process(), process)
    both_answer(world)


@check("user data with https='yes' has the host serve HTTPS, and after a reboot it still does")
def user_data_https(world):
    machine = world.machine
    installed = machine.run("dpkg-query", "--show", "--showformat=${Version}", "perch").stdout
    package = world.package(installed).read_bytes()
    world.cloud.upload_file(package, f"perch_{installed}_amd64.deb")
    machine.write_running("/opt/user-data", user_data(package, installed, https="yes"))
    for _ in range(2):
        machine.run("sh", "/opt/user-data")
        machine.wait_active()
    with https_configured(world) as ask_securely:
        expect("the answer over TLS", ask_securely(), 200)
        machine.reboot()
        expect("the boot", machine.wait_booted(), "running")
        machine.wait_active()
        expect("the answer after a reboot", ask_securely(), 200)
    without_https(world)


# What cloud-init itself makes of user data.
PARTS = """
import json, sys
from cloudinit import helpers, user_data
places = helpers.Paths({"cloud_dir": "/tmp", "templates_dir": "/tmp", "run_dir": "/tmp"})
message = user_data.UserDataProcessor(places).process(open("/opt/user-data.mime", "rb").read())
parts = [part for part in message.walk() if part.get_content_maintype() != "multipart"]
print(json.dumps([[part.get_content_type(), part.get_payload(decode=True).decode()] for part in parts]))
"""


@check("Terraform's user data is what cloud-init takes it for")
def terraform_user_data(world):
    machine = world.machine
    install = user_data(world.package("1.0.1").read_bytes(), "1.0.1")
    text = (ROOT / "packaging/terraform/user-data.mime.tftpl").read_text()
    for place, value in {'%{ if agent != "" ~}\n': "", "%{ endif ~}\n": "", "%%{": "%{", "${agent}": "{}", "${install}": install}.items():
        text = text.replace(place, value)
    machine.write_running("/opt/user-data.mime", text)
    parts = json.loads(machine.run("python3", "-c", PARTS).stdout)
    expect("the kinds of its parts", [kind for kind, _ in parts], ["text/x-shellscript"] * 2)
    expect("the first", parts[0][1], install)
    if not parts[1][1].startswith("#!/bin/sh\n# Ships perch's journal"):
        raise Failed(f"the second is {parts[1][1]}")


@check("killed with SIGKILL under load, it is back in seconds: no connection refused, no mention lost")
def killed(world):
    machine, discord = world.machine, world.discord
    settle(world)
    before = discord.counters()
    kills = []
    with Crowd(discord) as crowd:
        for _ in range(3):
            process = machine.main_process()
            begin = time.monotonic()
            machine.run("kill", "-KILL", process)
            until("another process", lambda: machine.main_process() not in ("0", process))
            machine.wait_active()
            kills.append((begin, time.monotonic()))
            if kills[-1][1] - begin > 5:
                raise Failed(f"it took {kills[-1][1] - begin:.1f} s")
    until("every mention to be answered once, in order", lambda: not crowd.answered())
    for begin, end, text in crowd.failed:
        # What perch had in hand when it was killed, and nothing else.
        if "refused" in text or not any(begin <= kill_end and kill_begin <= end for kill_begin, kill_end in kills):
            raise Failed(f"a request failed: {text}")
    after = discord.counters()
    expect("IDENTIFYs", after["identifies"] - before["identifies"], 0)


@check("hung, it is ended by the watchdog and started again")
def watchdog(world):
    machine = world.machine
    settle(world)
    machine.drop_in("watchdog", "[Service]\nWatchdogSec=1s\n")
    machine.systemctl("restart", "perch.service")
    # Two times its patience: a healthy one is left alone.
    process = machine.main_process()
    time.sleep(2)
    expect("the process", machine.main_process(), process)
    since = machine.now()
    machine.run("kill", "-STOP", process)
    machine.wait_message("Watchdog timeout", since)
    until("another process", lambda: machine.main_process() not in ("0", process))
    machine.wait_active()
    machine.remove_drop_in("watchdog")
    both_answer(world)


@check("a token given as a systemd credential works")
def credential(world):
    machine = world.machine
    machine.write_running("/etc/perch/discord-token", TOKEN)
    machine.run("chmod", "600", "/etc/perch/discord-token")
    world.version = world.cloud.upload(config(token='{ credential = "discord-token" }'))
    # In plain, and encrypted for this host alone.
    machine.run("systemd-creds", "encrypt", "--name=discord-token", "/etc/perch/discord-token", "/etc/perch/encrypted-token")
    for setting, file in (("LoadCredential", "discord-token"), ("LoadCredentialEncrypted", "encrypted-token")):
        machine.drop_in("credential", f"[Service]\n{setting}=discord-token:/etc/perch/{file}\n")
        machine.systemctl("restart", "perch.service")
        expect("the version", machine.status()["config"]["version"], world.version)
        both_answer(world)
    world.version = world.cloud.upload(config())
    until("the version before", lambda: machine.status()["config"]["version"] == world.version)
    machine.remove_drop_in("credential")
    machine.run("rm", "/etc/perch/discord-token", "/etc/perch/encrypted-token")
    machine.systemctl("restart", "perch.service")
    both_answer(world)


@check("a configuration file that is wrong is left to somebody, whoever knocks meanwhile")
def left_to_somebody(world):
    machine = world.machine
    settle(world)
    machine.write_running("/etc/perch/wrong.toml", "[http]\nlisten = 80\n")
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT + "PERCH_CONFIG=/etc/perch/wrong.toml\n")
    since = machine.now()
    machine.run("systemctl", "restart", "perch.service", check=False)
    machine.wait_message("status=78/CONFIG", since)

    def knock():
        try:
            ask("/ready", timeout=1)
        except OSError:
            pass
        return machine.show("Result", "perch.socket") == "trigger-limit-hit"

    until("an end of it", knock)
    expect("the process", machine.main_process(), "0")
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT)
    machine.systemctl("start", "perch.socket", "perch.service")
    machine.run("rm", "/etc/perch/wrong.toml")
    both_answer(world)


@check("out of memory, perch alone is ended, and started again")
def memory_reached(world):
    machine = world.machine
    limit = machine.run("sh", "-c", "cat /sys/fs/cgroup/memory/system.slice/perch.service/memory.limit_in_bytes "
                        "/sys/fs/cgroup/system.slice/perch.service/memory.max 2>/dev/null", check=False).stdout.strip()
    if limit != str(512 << 20):
        return f"the limit is not enforced on this machine ({limit or 'no memory controller'})"
    settle(world)
    since = machine.now()
    process = machine.main_process()
    machine.run("systemctl", "set-property", "--runtime", "perch.service", "MemoryHigh=infinity", "MemoryMax=24M")
    try:
        greedy = Greedy()
        until("perch to be ended", lambda: greedy.more() or machine.main_process() != process)
        greedy.end()
    finally:
        machine.run("systemctl", "set-property", "--runtime", "perch.service", "MemoryHigh=448M", "MemoryMax=512M")
    machine.wait_active()
    ended = machine.wait_message("Failed with result", since)["MESSAGE"]
    expect("failed units", machine.systemctl("--failed", "--quiet"), "")
    both_answer(world)
    print(f"         {ended}")


@check("rebooted, the host answers what was said meanwhile, once")
def reboot(world):
    machine, discord = world.machine, world.discord
    settle(world)
    machine.systemctl("stop", "perch.service", "perch.socket")
    before = discord.counters()["identifies"]
    said = discord.say("is the host away?")
    boot = machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout
    machine.reboot()
    expect("the boot", machine.wait_booted(), "running")
    if machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout == boot:
        raise Failed("it was no reboot")
    expect("the answer", discord.wait_answer(said), "is the host away?")
    both_answer(world)
    answers = [reference for reference, _ in discord.answers() if reference == said]
    expect("answers", answers, [said])
    expect("IDENTIFYs", discord.counters()["identifies"] - before, 0)


@check("a full disk costs perch its memory, and not its service")
def disk_full(world):
    machine = world.machine

    def fill():
        machine.run("sh", "-c", "cat /dev/zero >>/var/filler 2>/dev/null || true")
        left = machine.run("stat", "--file-system", "--format=%a", "/var").stdout.strip()
        expect("the space that is left", left, "0")

    since = machine.now()
    fill()
    both_answer(world)
    machine.systemctl("stop", "perch.service")
    # What perch gave back.
    fill()
    machine.systemctl("start", "perch.service")
    # Without memory it may have no session to resume, and what was said before the new one is not its to hear.
    until("the session with Discord", world.discord.connected)
    both_answer(world)
    references = [reference for reference, _ in world.discord.answers()]
    expect("mentions that were answered twice", [one for one in references if references.count(one) > 1], [])
    print("         " + machine.wait_message("goes on without memory", since, "--priority=warning")["MESSAGE"])
    machine.run("rm", "/var/filler")
    machine.systemctl("restart", "perch.service")
    both_answer(world)


@check("the object comes only after the boot: the boot does not wait, and perch begins by itself")
def object_later(world):
    machine = world.machine
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT.replace(KEY, "later.toml"))
    machine.reboot()
    until("the boot", lambda: machine.show("ActiveState", "multi-user.target") == "active")
    waiting = until("what it waits for", lambda: machine.show("StatusText"))
    expect("the unit", machine.show("ActiveState"), "activating")
    if "waiting for a configuration" not in waiting or "later.toml" not in waiting:
        raise Failed(f"StatusText: {waiting}")
    world.cloud.upload(config(), "later.toml")
    machine.wait_active(patience=90)
    expect("the boot", machine.wait_booted(), "running")
    both_answer(world)
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT)
    machine.systemctl("restart", "perch.service")


@check("before there is a configuration, whoever connects is told so")
def told(world):
    machine = world.machine
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT.replace(KEY, "never.toml"))
    try:
        machine.systemctl("restart", "--no-block", "perch.service")
        machine.wait_message("never.toml")
        expect("the answer", ask("/ready", timeout=5)[0], 503)
    finally:
        machine.write_running("/etc/perch/perch.env", ENVIRONMENT)
        machine.systemctl("restart", "perch.service")


@check("S3 is away at boot: perch starts with the last known good configuration")
def s3_away(world):
    machine = world.machine
    settle(world)
    world.cloud.s3_answers(False)
    try:
        machine.reboot()
        machine.wait_active()
        expect("the version", machine.status()["config"]["version"], world.version)
        until("the session with Discord", world.discord.connected)
        both_answer(world)
        machine.wait_message(f"s3://{BUCKET}/{KEY}", "--boot", "--priority=warning")
    finally:
        world.cloud.s3_answers(True)
    world.version = world.cloud.upload(config())
    until("the version after", lambda: machine.status()["config"]["version"] == world.version, patience=60)


@check("Secrets Manager is away at a restart: systemd kept the token")
def secrets_away(world):
    machine = world.machine
    settle(world)
    until("the store to hold the token", lambda: machine.show("NFileDescriptorStore") == "1")
    world.cloud.secrets_manager_answers(False)
    try:
        for restart in (["systemctl", "restart", "perch.service"], ["systemctl", "kill", "--signal=KILL", "perch.service"]):
            process = machine.main_process()
            machine.run(*restart)
            until("another process", lambda: machine.main_process() not in ("0", process))
            machine.wait_active()
            until("the session with Discord", world.discord.connected)
            both_answer(world)
    finally:
        world.cloud.secrets_manager_answers(True)


# The kernel's clock is this machine's as well: perch alone is given a wrong one, which takes a tracer and what that needs
# (perch's memory is not to be read otherwise).
WRONG_CLOCK = """[Service]
ExecStart=
ExecStart=/usr/local/lib/wrong_clock /etc/clock-offset /usr/bin/perch run
NoExecPaths=
SystemCallFilter=
PrivateUsers=no
CapabilityBoundingSet=CAP_SYS_PTRACE
AmbientCapabilities=CAP_SYS_PTRACE
"""


@check("the clock is a day behind at boot, and set right later: perch serves all the while")
def clock(world):
    machine, discord = world.machine, world.discord
    settle(world)
    sh("cc", "-o", machine.root / "usr/local/lib/wrong_clock", ROOT / "tests/support/wrong_clock.c")
    machine.write_running("/etc/clock-offset", "-86400")
    machine.write_running("/etc/systemd/system/perch.service.d/clock.conf", WRONG_CLOCK)
    try:
        machine.reboot()
        machine.wait_active()
        until("the session with Discord", discord.connected)
        both_answer(world)
        identifies = discord.counters()["identifies"]
        behind = time.time() - machine.status()["perch"]["started"]
        if not 80000 < behind < 90000:
            raise Failed(f"perch began {behind} s ago by its own clock, not a day ago")
        machine.write_running("/etc/clock-offset", "0")
        world.version = world.cloud.upload(config())
        settle(world)
        both_answer(world)
        expect("IDENTIFYs", discord.counters()["identifies"] - identifies, 0)
        expect("errors", machine.messages("--boot", "--priority=err"), [])
    finally:
        machine.run("rm", "/etc/systemd/system/perch.service.d/clock.conf")
        machine.systemctl("daemon-reload")
        machine.systemctl("restart", "perch.service")


@check("no token is in what the host wrote")
def secrets(world):
    # The bot's, and the role's.
    for secret in (TOKEN, "this-secret-access-key-opens-nothing", "this-session-token-opens-nothing"):
        world.machine.run("journalctl", "--flush", check=False)
        places = ["/var/lib/perch", "/var/log", "/run/log", "/run/perch", "/etc"]
        found = world.machine.run("grep", "--recursive", "--text", "--files-with-matches", secret, *places, check=False).stdout
        expect("files with a secret", found, "")


@check("removed, it is gone, and what it knew stays; purged, that goes too")
def removed(world):
    machine = world.machine
    install(world, "1.0.2")
    machine.run(*APT, "remove", "perch")
    try:
        ask("/ready")
        raise Failed("somebody still listens")
    except ConnectionRefusedError:
        pass
    expect("failed units", machine.systemctl("--failed", "--quiet"), "")
    machine.run("test", "-e", "/var/lib/perch/perch.db", "-a", "-e", "/etc/perch/perch.env")
    machine.run(*APT, "purge", "perch")
    left = machine.run("find", "/", "-xdev", "-path", "/proc", "-prune", "-o", "-name", "*perch*", "-print").stdout.split()
    # The packages that this test brought, and what cloud-init and systemd wrote.
    left = [path for path in left if not path.startswith(("/opt/", "/var/lib/cloud/", "/var/log/"))]
    expect("what is left", left, [])
    # Nobody else is ever given its files.
    machine.run("id", "perch")


def rpm(world, how, version):
    """Runs rpm on the package of a version as dnf does, but for what it needs: that is there, and is no rpm."""
    package = world.package(version, "rpm")
    name = f"/opt/{package.name}"
    shutil.copy(package, world.machine.root / name[1:])
    world.machine.run("rpm", how, "--nodeps", "--dbpath", "/var/lib/rpm", name)


@check("the rpm is installed, upgraded under load with no request refused and no mention lost or answered twice, and erased")
def rpm_upgrade(world):
    machine, discord = world.machine, world.discord
    # Unless it is gone already.
    machine.run(*APT, "purge", "perch", check=False)
    rpm(world, "--install", "1.0.0")
    machine.write_running("/etc/perch/perch.env", ENVIRONMENT)
    world.version = world.cloud.upload(config())
    machine.systemctl("enable", "perch.service")
    machine.systemctl("start", "perch.socket", "perch.service")
    settle(world)
    both_answer(world)
    before, process = discord.counters()["identifies"], machine.main_process()
    with Crowd(discord) as crowd:
        rpm(world, "--upgrade", "1.0.1")
        until("another process", lambda: machine.main_process() not in ("0", process))
        machine.wait_active()
    until("every mention to be answered once, in order", lambda: not crowd.answered())
    expect("requests that failed", [text for _, _, text in crowd.failed], [])
    expect("IDENTIFYs", discord.counters()["identifies"] - before, 0)
    expect("perch.env", machine.run("cat", "/etc/perch/perch.env").stdout, ENVIRONMENT)
    machine.run("rpm", "--erase", "--dbpath", "/var/lib/rpm", "perch")
    try:
        ask("/ready")
        raise Failed("somebody still listens")
    except ConnectionRefusedError:
        pass
    expect("failed units", machine.systemctl("--failed", "--quiet"), "")
    expect("the units", machine.run("find", "/usr/lib/systemd", "/etc/systemd", "-name", "*perch*").stdout, "")
