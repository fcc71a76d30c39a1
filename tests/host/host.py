"""The host test, in the order of its checks. See `run` beside this file, which makes the namespaces it runs in."""

import http.client
import os
import pathlib
import sys
import time
import traceback

import checks
from cloud import Cloud, Discord, lay_cable
from machine import ROOT, Failed, Machine, sh

WORK = pathlib.Path("/run/perch-host-test")
BUILD = ROOT / "packaging"


class World:
    """What the checks are made on."""

    def __init__(self):
        # Nothing of this is seen by anybody else, or outlives it.
        WORK.mkdir(exist_ok=True)
        lay_cable()
        self.binary = pathlib.Path(os.environ["PERCH_RELEASE"])
        self.rootfs = os.environ["PERCH_ROOTFS"]
        self.cloud = Cloud(WORK)
        self.discord = Discord(self.binary, self.cloud.authority)
        self.machine = None
        self.packages = {}

    def new_machine(self):
        """A host as it comes from the image, without perch and not booted."""
        if self.machine:
            self.machine.power_off()
        self.machine = Machine(self.rootfs)
        self.machine.write("etc/hosts", self.cloud.hosts())
        self.machine.trust(self.cloud.authority.pem)
        return self.machine

    def package(self, version, kind="deb"):
        """Makes the package of this binary, as if it were this version's."""
        environment = os.environ | {"PERCH_VERSION": version, "PERCH_QUICK": "yes"}
        if (version, kind) not in self.packages:
            built = sh(BUILD / kind / "build", self.binary, WORK, env=environment, timeout=120)
            self.packages[version, kind] = pathlib.Path(built.stdout.split()[-1])
        return self.packages[version, kind]


def run(check, world):
    """Runs one check; says how it went, and why not."""
    since = world.machine.now() if world.machine else None
    try:
        reason = check.run(world)
        return "skipped" if reason else "passed", reason
    except PROBLEMS as error:
        reason = str(error) or traceback.format_exc()
    if world.machine:
        reason += "\n" + state(world.machine, since)
    # What comes next is not to fail for what this one left behind.
    checks.prepare(world)
    return "failed", reason


# What all checks may take, in seconds, three times over what they do.
MOST = 300

# What a check may come upon that is its own affair; anything else is the test's mistake.
PROBLEMS = (Failed, OSError, ValueError, TypeError, LookupError, http.client.HTTPException)


def main():
    wanted = sys.argv[1:]
    world = World()
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    begin = time.monotonic()
    for check in checks.ALL:
        if wanted and not check.always and not any(word in check.name for word in wanted):
            continue
        start = time.monotonic()
        result, reason = run(check, world)
        counts[result] += 1
        print(f"{result:8} {time.monotonic() - start:5.1f} s  {check.name}{': ' + reason if reason else ''}")
    took = time.monotonic() - begin
    if took > MOST:
        counts["failed"] += 1
        print(f"failed: all of it is to take {MOST} s at most")
    print(", ".join(f"{number} {word}" for word, number in counts.items()) + f" in {took:.0f} s")
    sys.stdout.flush()
    # As the first process of its namespace it takes all the others with it.
    os._exit(1 if counts["failed"] else 0)


def state(machine, since):
    """What a person would look at next."""
    try:
        lines = machine.run("systemctl", "status", "--no-pager", "--lines=0", "perch.service", check=False).stdout.splitlines()
        lines += [str(entry.get("MESSAGE")) for entry in machine.journal(since or "--boot")]
    except PROBLEMS as error:
        lines = [str(error)]
    return "\n".join(f"    | {line[:300]}" for line in lines)


if __name__ == "__main__":
    main()
