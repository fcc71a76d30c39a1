"""Measures perch beside what one would compare it with, and prints a Markdown table.

Started by `run`, which installs what is needed. Every section stands alone: one that can't be measured says why in
its row, and the others go on. No figure is judged here.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import stand_ins
import websocket
from stand_ins import Failed, until

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent

TIME_LIMIT = 600  # seconds for everything
CONNECTIONS = 64
ROUNDS = 5
ROUND = 3  # seconds of load
STARTS = 10
UPLOADS = 8
IDLE = 5  # seconds until a process that does nothing is taken for idle
FEW, MANY = 10, 1000  # reloads
STREAM_ROUNDS = 3
PEOPLE = 200  # who read a streamed answer at once
FILE = 1 << 20  # bytes of an uploaded picture
UPLOADING = 16  # connections that upload at once
FROM_FILE = "nginx, from a file"
REMEMBERED = 50  # changes that `status` surely still tells of

CONFIG = """\
# version {version}
environment = "production"

[http]
listen = "127.0.0.1:{port}"

[chat]
{chat}

[reload]
poll = "1s"
bake = "0s"

[log]
level = "{level}"
"""

DISCORD = """
[discord]
token = {token}
api_url = "{url}"
"""


class Settings:
    """Which programs, which cores."""

    def __init__(self, perch, moto, python):
        self.perch = perch
        self.moto = moto
        self.python = python
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.load_core = cores[0], cores[min(1, len(cores) - 1)]

    @contextlib.contextmanager
    def home(self):
        """A directory that goes when its section ends."""
        with tempfile.TemporaryDirectory(prefix="perch-bench-") as path:
            yield pathlib.Path(path)


class Row:
    def __init__(self, what, perch, beside="", ratio="", spread=""):
        self.cells = [what, perch, beside, ratio, spread]

    def __str__(self):
        return f"| {' | '.join(self.cells)} |"


def config(port, version=0, level="info", discord_url=None, token=None, chat='backend = "echo"', more=""):
    text = CONFIG.format(port=port, version=version, level=level, chat=chat) + more
    return text + (DISCORD.format(token=token, url=discord_url) if discord_url else "")


def write(path, text):
    """Replaces a file whole, as an editor does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    # perch waits for a file that was written a moment ago, as its writer may not be done; this one is.
    long_ago = time.time() - 60
    os.utime(new, (long_ago, long_ago))
    new.replace(path)
    return path


def with_discord(home, port, url, **rest):
    token = home / "token"
    token.touch(0o600)
    token.write_text(stand_ins.TOKEN)
    return config(port, discord_url=url, token=f'{{ file = "{token}" }}', **rest)


# What the kernel knows about a process ---------------------------------------------------------------------------


def family(pid):
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def pss(pid):
    """Proportional set size in MiB, with that of its children."""
    kib = 0
    for member in family(pid):
        kib += int(re.search(r"^Pss: +(\d+) kB", pathlib.Path(f"/proc/{member}/smaps_rollup").read_text(), re.M)[1])
    return kib / 1024


def cpu_seconds(pid):
    ticks = 0
    for member in family(pid):
        fields = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# The sections ------------------------------------------------------------------------------------------------------


def load(settings, url, pid, seconds, connections=CONNECTIONS, send=()):
    """One round of wrk, told what to `send`; its figures, with the share of its core that the server used."""
    command = ["taskset", "-c", settings.load_core, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["-s", HERE / "chat.lua", url, "--", *send]
    before = cpu_seconds(pid)
    output = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if output.returncode:
        raise Failed(f"wrk: {output.stderr.strip()}")
    figures = json.loads(output.stdout.strip().splitlines()[-1])
    if figures["failed"]:
        raise Failed(f"{figures['failed']} of {figures['requests']} requests failed at {url}")
    figures["rate"] = figures["requests"] / figures["microseconds"] * 1e6
    used = cpu_seconds(pid) - before
    figures["busy"] = used / figures["microseconds"] * 1e6
    figures["per_cpu"] = figures["requests"] / used
    return figures


def chat(settings):
    """JSON in, JSON out, beside nginx's answer that is always the same, from memory and from a file, and beside Flask's."""
    with settings.home() as home, contextlib.ExitStack() as stack:
        port = stand_ins.free_port()
        file = write(home / "perch.toml", config(port))
        core = settings.server_core
        perch = stack.enter_context(stand_ins.perch(settings.perch, home, file, port, core=core))
        body = perch.ask()
        nginx, nginx_port = stack.enter_context(stand_ins.nginx(home, body, core))
        gunicorn, gunicorn_port = stack.enter_context(stand_ins.gunicorn(settings.python, home, core))
        servers = {
            "perch": (port, perch.child),
            "nginx": (nginx_port, nginx),
            FROM_FILE: (nginx_port, nginx, "get", stand_ins.SAME),
            "gunicorn": (gunicorn_port, gunicorn),
        }
        rounds = in_turn(settings, servers)
    what = f"`POST /api/chat`, {len(body)} bytes back, {CONNECTIONS} connections"
    return [
        row(f"{what}: requests/s", rounds, "nginx", "rate", count),
        row("the same", rounds, FROM_FILE, "rate", count),
        row(f"{what}: p99", rounds, "nginx", "p99", lambda value: f"{value / 1000:.2f} ms"),
        row(f"{what}: requests per second of the server's CPU time", rounds, "nginx", "per_cpu", count),
        row("the same", rounds, "gunicorn", "per_cpu", count),
        row(f"{what}: share of the server's core in use", rounds, "nginx", "busy", lambda value: f"{value:.0%}"),
    ]


def tls(settings):
    """The same with TLS 1.3 on kept connections, beside nginx."""
    with settings.home() as home, contextlib.ExitStack() as stack:
        port, secure = stand_ins.free_port(), stand_ins.free_port()
        certificate, key = stand_ins.certificate(home)
        more = f'[http.tls]\nlisten = "127.0.0.1:{secure}"\ncert = "{certificate}"\nkey = "{key}"\n'
        file = write(home / "perch.toml", config(port, more=more))
        core = settings.server_core
        perch = stack.enter_context(stand_ins.perch(settings.perch, home, file, port, core=core))
        body = '{"reply":"hello","conversation":"00000000000000000000000000000000"}'
        nginx, nginx_port = stack.enter_context(stand_ins.nginx(home, body, core, (certificate, key)))
        servers = {
            "perch": (secure, perch.child),
            "nginx": (nginx_port, nginx),
            FROM_FILE: (nginx_port, nginx, "get", stand_ins.SAME),
        }
        rounds = in_turn(settings, servers, "https")
    what = f"`POST /api/chat` over TLS, {CONNECTIONS} connections"
    return [
        row(f"{what}: requests/s", rounds, "nginx", "rate", count),
        row("the same", rounds, FROM_FILE, "rate", count),
        row(f"{what}: requests per second of the server's CPU time", rounds, "nginx", "per_cpu", count),
    ]


def stream(settings):
    """Answers that a model writes slowly, for many at once, beside Flask."""
    figures = {"perch": [], "gunicorn": []}
    with settings.home() as home, contextlib.ExitStack() as stack:
        core = settings.server_core
        model = stack.enter_context(stand_ins.model(home, settings.load_core))
        port = stand_ins.free_port()
        openai = f'backend = "openai"\nbase_url = "{model}"\nmodel = "m"'
        file = write(home / "perch.toml", config(port, chat=openai))
        perch = stack.enter_context(stand_ins.perch(settings.perch, home, file, port, core=core))
        flask, flask_port = stack.enter_context(stand_ins.gunicorn(settings.python, home, core, model, PEOPLE))
        for number in range(1 + STREAM_ROUNDS):
            for name, (served, child) in {"perch": (port, perch.child), "gunicorn": (flask_port, flask)}.items():
                before = cpu_seconds(child.pid)
                heard = stand_ins.people(PEOPLE, served, settings.load_core)
                heard["per_cpu"] = heard["pieces"] / (cpu_seconds(child.pid) - before)
                if number:  # the first was to warm up
                    figures[name].append(heard)
    what = f"answers streamed from a model, {PEOPLE} at once"
    return [
        row(f"{what}: how late a piece comes, p99", figures, "gunicorn", "p99", lambda value: f"{value:.1f} ms"),
        row(f"{what}: pieces per second of the server's CPU time", figures, "gunicorn", "per_cpu", count),
    ]


def uploads(settings):
    """A picture of a mebibyte, over and over, beside Flask."""
    with settings.home() as home, contextlib.ExitStack() as stack:
        picture = stand_ins.picture(home, FILE)
        port = stand_ins.free_port()
        core = settings.server_core
        file = write(home / "perch.toml", config(port))
        perch = stack.enter_context(stand_ins.perch(settings.perch, home, file, port, core=core))
        flask, flask_port = stack.enter_context(stand_ins.gunicorn(settings.python, home, core))
        upload = "upload", picture
        servers = {"perch": (port, perch.child, *upload), "gunicorn": (flask_port, flask, *upload)}
        rounds = in_turn(settings, servers, connections=UPLOADING)
        most = pss(perch.child.pid)
    what = f"uploads of {FILE >> 20} MiB, {UPLOADING} at once"
    return [
        row(f"{what}: files/s", rounds, "gunicorn", "rate", count),
        row(f"{what}: files per second of the server's CPU time", rounds, "gunicorn", "per_cpu", count),
        Row(f"PSS after {what}", mib(most)),
    ]


def in_turn(settings, servers, scheme="http", **how):
    """Rounds of load on each of the servers, one after the other, so that the machine's moods meet them alike."""
    rounds = {name: [] for name in servers}
    for seconds in [1] + ROUNDS * [ROUND]:
        for name, (port, child, *send) in servers.items():
            figures = load(settings, f"{scheme}://127.0.0.1:{port}", child.pid, seconds, send=send, **how)
            rounds[name].append(figures)
    return {name: figures[1:] for name, figures in rounds.items()}  # the first was to warm up


def row(what, rounds, beside, key, show):
    one, other = ([figures[key] for figures in rounds[name]] for name in ("perch", beside))
    middle, yardstick = statistics.median(one), statistics.median(other)
    spread = f"{show(min(one))} to {show(max(one))}; {beside} {show(min(other))} to {show(max(other))}"
    return Row(what, show(middle), f"{show(yardstick)} ({beside})", f"{middle / yardstick:.2f}", spread)


def count(value):
    return f"{value:,.0f}"


def ready(settings):
    from_file = []
    for _ in range(STARTS):
        with settings.home() as home, stand_ins.discord(settings.perch, home) as url:
            port = stand_ins.free_port()
            file = write(home / "perch.toml", with_discord(home, port, url))
            with stand_ins.perch(settings.perch, home, file, port) as perch:
                from_file.append(perch.seconds_to_ready * 1000)
    yield Row("exec to READY, configuration from a file, HTTP and Discord", *milliseconds(from_file))

    from_aws = []
    with settings.home() as aws_home, stand_ins.aws(settings.moto, aws_home) as aws:
        token = f'{{ secret = "{stand_ins.SECRET}", key = "DISCORD_BOT_TOKEN" }}'
        for start in range(STARTS):
            with settings.home() as home, stand_ins.discord(settings.perch, home) as url:
                port = stand_ins.free_port()
                text = config(port, version=start, discord_url=url, token=token)
                (aws.upload if start else aws.fill)(text)
                uri = f"s3://{stand_ins.BUCKET}/perch.toml"
                with stand_ins.perch(settings.perch, home, uri, port, aws.environment) as perch:
                    from_aws.append(perch.seconds_to_ready * 1000)
        one_call = aws.milliseconds()
    what = f"the same with S3 and Secrets Manager (one call to moto alone takes {one_call:.1f} ms)"
    yield Row(what, *milliseconds(from_aws))


def milliseconds(values):
    return f"{statistics.median(values):.2f} ms", "", "", f"{min(values):.2f} to {max(values):.2f} ms"


def idle(settings):
    with settings.home() as home, stand_ins.discord(settings.perch, home) as url:
        port = stand_ins.free_port()
        file = write(home / "perch.toml", with_discord(home, port, url))
        with stand_ins.perch(settings.perch, home, file, port) as perch:
            until(lambda: services_run(perch), "both services to run", perch.child, home / "perch.log")
            body = perch.ask()
            time.sleep(IDLE)
            ours = pss(perch.child.pid)
        with stand_ins.nginx(home, body, settings.server_core) as (nginx, _):
            theirs = pss(nginx.pid)
    return [Row("PSS, idle, HTTP and Discord", mib(ours), f"{mib(theirs)} (nginx, idle)", f"{ours / theirs:.1f}")]


def services_run(perch):
    services = perch.status()["services"]
    return all(services.get(name, {}).get("state") == "running" for name in ("http", "discord"))


def mib(value):
    return f"{value:.1f} MiB"


def upload(settings):
    seconds = []
    with settings.home() as home, stand_ins.aws(settings.moto, home) as aws:
        port = stand_ins.free_port()
        aws.fill(config(port))
        uri = f"s3://{stand_ins.BUCKET}/perch.toml"
        with stand_ins.perch(settings.perch, home, uri, port, aws.environment) as perch:
            for number in range(1, UPLOADS + 1):
                time.sleep(random.random())  # an upload comes at any moment between two looks
                begun = time.monotonic()
                version = aws.upload(config(port, number, level=("info", "warn")[number % 2]))
                until(lambda: perch.status()["config"]["version"] == version, "an upload", perch.child, pause=0.005)
                seconds.append(time.monotonic() - begun)
    middle = statistics.median(seconds)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
    return [Row('S3 upload to applied, `poll = "1s"`', f"{middle:.2f} s", "1 s (poll)", f"{middle:.2f}", spread)]


def reloads(settings):
    with settings.home() as home:
        port = stand_ins.free_port()
        file = write(home / "perch.toml", config(port))
        with stand_ins.perch(settings.perch, home, file, port) as perch:
            first = perch.status()["config"]["version"]
            commands, sizes, swaps = [], {}, {}
            for number in range(1, MANY + 1):
                write(file, config(port, number, level=("info", "warn")[number % 2]))
                begun = time.monotonic()
                answer = perch.verb("reload")
                commands.append((time.monotonic() - begun) * 1000)
                if answer.returncode:
                    raise Failed(f"reload {number}: {answer.returncode}: {answer.stderr.strip()}")
                if number % REMEMBERED == 0:
                    changes = perch.status().get("changes", [])
                    swaps |= {change["id"]: change["swap_us"] / 1000 for change in changes if change.get("swap_us")}
                if number in (FEW, MANY):
                    time.sleep(IDLE / 2)
                    sizes[number] = pss(perch.child.pid)
            if perch.status()["config"]["version"] == first:
                raise Failed(f"after {MANY} reloads the first configuration still runs")
            perch.ask()
            whole = [duration * 1000 for duration in perch.notify.reloads()]
    few, many = sizes[FEW], sizes[MANY]
    rows = [Row(f"PSS after {MANY:,} reloads", mib(many), f"{mib(few)} (after {FEW})", f"{many / few:.3f}")]
    if swaps:
        what = f"the swap itself, as `status` tells it, {len(swaps):,} of them"
        rows.append(Row(what, *milliseconds(swaps.values())))
    if whole:
        rows.append(Row(f"a reload, RELOADING=1 to READY=1, {len(whole):,} of them", *milliseconds(whole)))
    rows.append(Row("`perch reload`, from exec to its outcome", *milliseconds(commands)))
    return rows


def sockets(settings):
    websocket.prepare()
    servers = (settings.server_core, settings.load_core, pss, cpu_seconds)
    with settings.home() as home:
        port = stand_ins.free_port()
        file = write(home / "perch.toml", config(port))
        with stand_ins.perch(settings.perch, home, file, port, core=servers[0]) as perch:
            ours = websocket.measure(perch.child.pid, port, *servers[1:])
    with settings.home() as home, websocket.node(home, servers[0]) as (node, port):
        theirs = websocket.measure(node.pid, port, *servers[1:])

    def beside(what, key, show):
        one, other = ours[key], theirs[key]
        return Row(f"WebSocket: {what}", show(one), f"{show(other)} (Node `ws`)", f"{one / other:.2f}")

    def kib(value):
        return f"{value:.1f} KiB"

    def milli(value):
        return f"{value / 1000:.2f} ms"

    return [
        beside("memory (PSS) a connection, 1,000 connected", "few", kib),
        beside("memory (PSS) a connection, 10,000 connected", "many", kib),
        beside("memory (PSS) of the process, 1,000 connected", "pss", mib),
        beside("round trip p50, 1,000 of 10,000 talk, in rooms of ten", "p50", milli),
        beside("the same, p99", "p99", milli),
        beside("until the last of 1,000 in a room has a message", "broadcast", milli),
        beside("CPU time of the server for each message to each reader", "cpu", lambda value: f"{value:.1f} µs"),
    ]


SECTIONS = {
    "chat": chat,
    "tls": tls,
    "stream": stream,
    "uploads": uploads,
    "websocket": sockets,
    "ready": ready,
    "idle": idle,
    "upload": upload,
    "reloads": reloads,
}


# The report --------------------------------------------------------------------------------------------------------


def machine(settings):
    model = re.search(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    cores = len(os.sched_getaffinity(0))
    size = settings.perch.stat().st_size / 2**20
    load = "the same" if settings.load_core == settings.server_core else f"core {settings.load_core}"
    return "\n".join([
        f"Machine: {cores} cores, {model[1] if model else platform.machine()}, Linux {platform.release()}; "
        f"{time.strftime('%Y-%m-%d')}.",
        f"{said(settings.perch, '--version')}, one file of {size:.1f} MiB; {said('nginx', '-v')}; "
        f"{said('wrk', '-v').partition(' [')[0]}; servers on core {settings.server_core}, load from {load}.",
        f"Medians; the load in {ROUNDS} rounds of {ROUND} s, in turn.",
    ])


def said(*command):
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    return (output.stdout or output.stderr).strip().splitlines()[0].removeprefix("nginx version: ")


def newest_release():
    found = list(TOP.glob(f"target/{os.uname().machine}-*/release/perch"))
    if not found:
        sys.exit("bench: no release build for this machine; make one with `cargo build --release`")
    return max(found, key=lambda path: path.stat().st_mtime)


def give_up(*_):
    sys.exit(f"bench: not done within {TIME_LIMIT} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moto", required=True)
    parser.add_argument("--python", required=True, help="the python3 that has flask and gunicorn")
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="SECTION,…")
    parser.add_argument("perch", nargs="?", type=pathlib.Path)
    arguments = parser.parse_args()
    perch = (arguments.perch or newest_release()).resolve()
    if not os.access(perch, os.X_OK):
        sys.exit(f"bench: {perch} can't be executed")
    settings = Settings(perch, arguments.moto, arguments.python)
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        sys.exit(f"bench: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIME_LIMIT)
    print(machine(settings))
    print("\n| | perch | beside it | ratio | range |\n|---|---:|---:|---:|---|")
    complete = True
    for name in wanted:
        try:
            for row in SECTIONS[name](settings):
                print(row, flush=True)
        except (Failed, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            complete = False
            why = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")
            print(Row(name, "not measured", spread=why), flush=True)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
