"""A thousand people who talk and ten thousand who are connected, at perch and at a Node `ws` server in turn.

`ws/load.c` is the crowd: it says why it is C. Each server has one core and the crowd another.
"""

import contextlib
import json
import pathlib
import shutil
import subprocess
import time

import stand_ins
from stand_ins import Failed, until

HERE = pathlib.Path(__file__).resolve().parent / "ws"
BUILT = HERE.parent.parent.parent / "target/bench-ws"

FEW, MANY = 1_000, 10_000  # connections
TALK = 8  # seconds in which a thousand talk
BROADCASTS = 15
CALM = 2  # seconds until everybody is told how many they are


def prepare():
    """Compiles the crowd and installs what perch is measured beside."""
    for tool in ("cc", "node", "npm"):
        if not shutil.which(tool):
            raise Failed(f"there is no {tool}")
    BUILT.mkdir(parents=True, exist_ok=True)
    run("cc", "-O2", "-o", BUILT / "load", HERE / "load.c")
    for name in ("package.json", "server.mjs"):
        shutil.copy(HERE / name, BUILT / name)
    run("npm", "install", "--prefix", BUILT, "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{command[0]}: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def node(home, core):
    """The Node server; yields its process and port."""
    port, log = stand_ins.free_port(), home / "node.log"
    with stand_ins.process(["node", BUILT / "server.mjs", port], log, core=core) as child:
        until(lambda: stand_ins.accepts(port), "the Node server", child, log)
        yield child, port


class Crowd:
    """People who connect to one server and do as they are told."""

    def __init__(self, port, core):
        command = ["taskset", "-c", str(core), str(BUILT / "load"), str(port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.child = subprocess.Popen(command, text=True, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.communicate()

    def do(self, verb, number):
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(f"{verb} {number}\n")
            self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise Failed(f"{verb} {number}: {self.child.stderr.read().strip()}")
        return json.loads(line)


def measure(pid, port, core, pss, cpu_seconds):
    """All figures of one server."""
    alone = pss(pid)
    figures = {}
    with Crowd(port, core) as crowd:
        crowd.do("open", FEW)
        time.sleep(CALM)
        figures["few"] = (pss(pid) - alone) * 1024 / FEW
        figures["pss"] = pss(pid)
        crowd.do("open", MANY)
        time.sleep(CALM)
        figures["many"] = (pss(pid) - alone) * 1024 / MANY
        figures["broadcast"] = crowd.do("broadcast", BROADCASTS)["p50"]
        before = cpu_seconds(pid)
        talked = crowd.do("talk", TALK)
        used = cpu_seconds(pid) - before
        if talked["delivered"] < talked["said"]:
            raise Failed(f"of {talked['said']} messages people got {talked['delivered']}")
        figures |= {key: talked[key] for key in ("p50", "p99")}
        figures["cpu"] = used / talked["delivered"] * 1e6
    return figures
