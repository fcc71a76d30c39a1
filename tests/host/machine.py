"""A throw-away Debian 12 host: an overlay on the cached root file system, booted with systemd-nspawn."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADDRESS = "10.99.0.2"
# Its whole disk.
DISK = "600m"
BOOT_PATIENCE = 60  # seconds
PATIENCE = 20
COMMAND_PATIENCE = 30


class Failed(Exception):
    """What was to be shown did not show."""


def sh(*command, check=True, **options):
    """Runs a command and returns it with its output."""
    options.setdefault("timeout", COMMAND_PATIENCE)
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(map(str, command))}: not within {options['timeout']} s") from error
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def until(what, look, patience=PATIENCE):
    """Waits until `look` returns something, and returns that. A look that fails has not seen it yet."""
    end = time.monotonic() + patience
    last = None
    while time.monotonic() < end:
        try:
            last = look()
            if last:
                return last
        except (Failed, OSError, ValueError, TypeError, LookupError) as error:
            last = error
        time.sleep(0.03)
    raise Failed(f"{what}: not within {patience} s; last: {last!r}")


class Machine:
    numbers = itertools.count()

    def __init__(self, rootfs):
        self.base = pathlib.Path("/run/perch-host")
        self.root = self.base / "root"
        self.nspawn = None
        self.console = None
        self.base.mkdir(exist_ok=True)
        sh("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.base)
        for name in ("upper", "work", "root"):
            (self.base / name).mkdir()
        overlay = f"lowerdir={rootfs},upperdir={self.base}/upper,workdir={self.base}/work"
        sh("mount", "-t", "overlay", "overlay", "-o", overlay, self.root)
        self.write("etc/resolv.conf", "")
        self.write("etc/hostname", "host\n")

    def write(self, path, text, mode=0o644):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def install(self, binary):
        """Puts perch where its packages put it."""
        shutil.copy(binary, self.root / "usr/bin/perch")
        units = self.root / "usr/lib/systemd/system"
        for unit in ROOT.glob("systemd/*.s[eo]*"):
            if unit.suffix in (".service", ".socket"):
                shutil.copy(unit, units)
        shutil.copy(ROOT / "systemd/perch.sysusers", self.root / "usr/lib/sysusers.d/perch.conf")
        sh("systemctl", f"--root={self.root}", "enable", "perch.service")

    def trust(self, authority):
        """Makes every program on the host take the authority's certificates."""
        bundle = self.root / "etc/ssl/certs/ca-certificates.crt"
        bundle.write_text(bundle.read_text() + authority)

    def use_cloud_init(self):
        """Makes cloud-init take the way that it takes on EC2. It does not look for the hypervisor in a container, so
        that it would not ask for a session's token; and the network is there already."""
        settings = "datasource_list: [Ec2]\ndatasource: {Ec2: {strict_id: false}}\nnetwork: {config: disabled}\n"
        # The image has no locales.
        settings += "locale: false\n"
        self.write("etc/cloud/cloud.cfg.d/99_host.cfg", settings)
        # Nobody would answer it.
        (self.root / "usr/sbin/dhclient").unlink()
        source = self.root / "usr/lib/python3/dist-packages/cloudinit/sources/DataSourceEc2.py"
        text = source.read_text()
        changed = text.replace("lambda x: CloudNames.UNKNOWN", "lambda x: CloudNames.AWS")
        if changed == text:
            raise Failed("cloud-init's EC2 data source is not what this test knows")
        source.write_text(changed)

    def boot(self):
        """Boots, and returns once systemd takes orders. What starts with it may still be starting."""
        self.console = open(self.base / "console", "ab")
        flags = ["--quiet", "--boot", "--register=no", "--keep-unit", "--machine=host", "--link-journal=no"]
        # Without them IPAddressDeny= and PrivateNetwork= would not work, and cloud-init would wait for a resolver.
        flags += ["--capability=all", "--system-call-filter=bpf", "--resolv-conf=off", "--console=pipe"]
        flags += [f"--directory={self.root}", "--network-namespace-path=/run/netns/host"]
        # In its control groups and its network from the beginning: else /sys/class/net is the other one's.
        enter = 'for group in $PERCH_GROUPS; do echo $$ >"$group/$0/cgroup.procs"; done; exec "$@"'
        name = f"host-{next(self.numbers)}"
        for group in self.groups():
            (group / name).mkdir()
        self.nspawn = subprocess.Popen(
            ["sh", "-c", enter, name, "nsenter", "--net=/run/netns/host", "systemd-nspawn", *flags],
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=self.console,
        )
        self.wait_for_systemd()

    @staticmethod
    def groups():
        """This run's control groups, one in each hierarchy."""
        return [pathlib.Path(group) for group in os.environ["PERCH_GROUPS"].split()]

    def give_limits(self):
        """Lets the host's systemd limit memory where the hierarchies are the old ones, which systemd-nspawn mounts
        read-only."""
        hierarchies = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"]
        remount = f'for one in {" ".join(hierarchies)}; do [ ! -d $one ] || mount -o remount,bind,rw $one; done'
        if self.run("sh", "-c", remount, check=False).returncode == 0:
            self.systemctl("daemon-reexec")

    def leader(self):
        pid = self.nspawn.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return children[0] if children else None

    def wait_for_systemd(self):
        def answers():
            if self.nspawn.poll() is not None:
                return "ended"
            return self.leader() and self.run("systemctl", "is-system-running", check=False).stdout.strip()

        until("systemd", lambda: answers() in ("initializing", "starting", "running", "degraded", "ended"), BOOT_PATIENCE)
        if self.nspawn.poll() is not None:
            raise Failed(f"it did not boot: {self.console_text()}")
        self.give_limits()

    def wait_booted(self):
        """Waits for the end of the boot and returns how it went, "running" or "degraded"."""
        return self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_PATIENCE).stdout.strip()

    def console_text(self):
        return (self.base / "console").read_text(errors="replace")[-3000:]

    def reboot(self):
        self.run("systemctl", "reboot", check=False)
        try:
            ended = self.nspawn.wait(BOOT_PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"it does not go down: {self.console_text()}") from error
        # What systemd-nspawn says to who is to start it again (its own unit has RestartForceExitStatus=133).
        if ended != 133:
            raise Failed(f"it went down with {ended}: {self.console_text()}")
        self.boot()

    def power_off(self):
        """Takes the host and all that it had written away."""
        if self.nspawn:
            self.nspawn.terminate()
            try:
                self.nspawn.wait(10)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait()
            self.console.close()
        sh("umount", "--lazy", self.root)
        sh("umount", "--lazy", self.base)

    def run(self, *command, check=True, **options):
        """Runs a command on the host, as root."""
        leader = self.leader()
        if leader is None:
            raise Failed("the host is down")
        inside = ["nsenter", "-t", leader, *"-m -u -i -n -p -C -r -w".split()]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        return sh(*inside, *command, check=check, env=environment, **options)

    def write_running(self, path, text):
        """Writes a file on the running host."""
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("tee", path, input=text)

    def systemctl(self, *words, **options):
        return self.run("systemctl", *words, **options).stdout.strip()

    def show(self, name, unit="perch.service"):
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def main_process(self):
        """The daemon's process id on the host."""
        return self.show("MainPID")

    def wait_active(self, patience=PATIENCE):
        until("the unit to be active", lambda: self.show("ActiveState") == "active", patience)

    def drop_in(self, name, text):
        """Changes the unit, for as long as `remove_drop_in` is not called."""
        self.write_running(f"/run/systemd/system/perch.service.d/{name}.conf", text)
        self.systemctl("daemon-reload")

    def remove_drop_in(self, name):
        self.run("rm", "-f", f"/run/systemd/system/perch.service.d/{name}.conf")
        self.systemctl("daemon-reload")

    def status(self):
        """What `perch status` says."""
        return json.loads(self.run("perch", "status", "--json").stdout)

    def journal(self, *filters):
        """The unit's entries as journald has them, oldest first."""
        text = self.run("journalctl", "--unit=perch", "--output=json", "--no-pager", "--quiet", *filters).stdout
        return [json.loads(line) for line in text.splitlines()]

    def messages(self, *filters):
        return [entry.get("MESSAGE", "") for entry in self.journal(*filters)]

    def messages_of(self, identifier):
        """What a program wrote that is not the unit's."""
        return self.run("journalctl", f"--identifier={identifier}", "--output=cat", "--quiet").stdout.splitlines()

    def wait_message(self, words, *filters):
        """Waits for an entry that has these words, and returns it."""
        look = lambda: [entry for entry in self.journal(*filters) if words in str(entry.get("MESSAGE"))]
        return until(f"{words!r} in the journal", look)[-1]

    def now(self):
        """A filter for the journal's entries from here on. No cursor: with another filter beside it, journalctl 252 leaves
        the first entry after a cursor out."""
        self.run("journalctl", "--sync")
        return f"--since=@{time.time():.6f}"
