"""What the module makes of its variables, asked of Terraform without a provider: its variables and its own values alone, with
words in place of what AWS would say of the bucket and the image."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

# What AWS would say.
SAID = {
    "data.aws_partition.current.partition": '"aws"',
    "data.aws_ssm_parameter.image[0].value": '"ami-0"',
    "aws_s3_object.package[0].version_id": '"v1"',
    "aws_s3_bucket.configuration.arn": '"arn:aws:s3:::bucket"',
    "aws_s3_bucket.configuration.id": '"bucket"',
}
ASKED = """
locals {
  log_group = "/perch/perch"
}

output "hosts" {
  value = [for kind in sort(local.kinds) : {
    settings  = regexall("(?m)^([a-z0-9]+)='(.*)'$", local.install[kind])
    filled_in = local.filled_in
    fits      = length(local.user_data[kind]) <= 16384
  }]
}

output "package_arn" {
  value = local.package_arn
}
"""
BESIDE = {"environment": "test", "region": "eu-central-1", "vpc_id": "vpc-0", "subnet_ids": '["subnet-0", "subnet-1"]'}
DIGEST = "0" * 64
PACKAGE = f'{{url="https://example.com/perch.rpm", sha256="{DIGEST}"}}'
IMAGE = {"ami_id": "ami-0"}

# Variables, with what is to come of them: settings of each host's user data and `package_arn`, or why they are refused.
CASES = [
    ({"package": PACKAGE}, {"https": "", "package": "https://example.com/perch.rpm", "sha256": DIGEST, "config": "s3://bucket/perch.toml"}),
    ({**IMAGE, "http_ports": "[80, 443]", "ship_journal": "true"}, {"https": "yes", "package": ""}),
    # One address for both machines: the role may read what the host will ask for.
    ({"package": f'{{url="s3://mine/{{architecture}}/perch_{{architecture}}.deb?versionId=1", sha256="{DIGEST} {DIGEST}"}}'},
     {"package": "s3://mine/amd64/perch_amd64.deb?versionId=1", "package_arn": "arn:aws:s3:::mine/amd64/perch_amd64.deb"}),
    ({"package": f'{{url="s3://mine/perch-{{architecture}}.rpm", sha256="{DIGEST}"}}', "architecture": "arm64", "instance_type": "t4g.micro"},
     {"package": "s3://mine/perch-aarch64.rpm", "package_arn": "arn:aws:s3:::mine/perch-aarch64.rpm"}),
    ({"package": f'{{url="s3://mine/perch-{{machine}}.rpm", sha256="{DIGEST}"}}'}, "Nothing but {architecture} is filled in"),
    # An image starts on the machine it is for.
    ({**IMAGE, "architecture": "arm64"}, "The instance type is not of the architecture"),
    ({**IMAGE, "instance_type": "c7gn.medium"}, "The instance type is not of the architecture"),
    ({**IMAGE, "architecture": "arm64", "instance_type": "im4gn.large", "web": "{}"}, "The instance type of web is not of the architecture"),
    ({**IMAGE, "instance_type": "g5.xlarge", "web": '{instance_type="c6in.large"}'}, {"https": ""}),
    # Their TLS ends at the load balancer.
    ({**IMAGE, "http_ports": "[80, 443]", "web": "{}"}, {"https": ""}),
    # Something has to bring perch.
    ({}, "Without a package the hosts never have perch"),
    ({"user_data": "#!/bin/sh"}, {}),
    # The whole internet in other words, and what is not.
    *(({**IMAGE, "ssh": f'{{key_name="mine", cidrs={cidrs}}}'}, "never for the whole internet") for cidrs in [
        '["0.0.0.0/1", "128.0.0.0/1"]', '["::/1", "8000::/1"]', '["0.0.0.0/00"]', '["203.0.113.7"]', '["10.0.0.0/8", "2000::/15"]', "[]",
    ]),
    ({**IMAGE, "ssh": '{key_name="mine", cidrs=["10.0.0.0/8", "203.0.113.7/32", "2001:db8::/32"]}'}, {}),
    # What is told apart by its name is named once.
    ({**IMAGE, "ssh": '{key_name="mine", cidrs=["10.0.0.0/8", "10.0.0.0/8"]}'}, "Name each address range once"),
    ({**IMAGE, "http_cidrs": '["0.0.0.0/0", "0.0.0.0/0"]'}, "Name each address range once"),
    ({**IMAGE, "http_ports": "[80, 80]"}, "Name each port once"),
    ({**IMAGE, "egress_ports": "[443, 443]"}, "Name each port once"),
    ({**IMAGE, "subnet_ids": '["subnet-0", "subnet-0"]', "web": "{}"}, "Name each subnet once"),
    # There is no half of a port, of a host or of a GiB.
    ({**IMAGE, "http_ports": "[80.5]"}, "Ports are 1 to 65535"),
    ({**IMAGE, "egress_ports": "[443, 80.5]"}, "Ports are 1 to 65535"),
    ({**IMAGE, "volume_gib": "8.5"}, "A whole number: the images need 8 GiB"),
    *(({**IMAGE, "web": f"{{{number}=2.5}}"}, "Hosts and seconds are whole numbers") for number in ["minimum", "maximum", "sticky_seconds"]),
    ({**IMAGE, "bucket": "perch..mine"}, "no two dots stand together"),
    ({**IMAGE, "bucket": "perch.mine-1"}, {}),
]


def prepare(module, folder):
    """A module that has no more than the variables, and what is made of them."""
    place = folder / "terraform"
    place.mkdir()
    (folder / "cloud-init").mkdir()
    shutil.copy(module / "../cloud-init/user-data", folder / "cloud-init")
    for file in ["variables.tf", *(file.name for file in module.glob("*.tftpl"))]:
        shutil.copy(module / file, place)
    text = ASKED
    for file in ["configuration.tf", "hosts.tf"]:
        text += "".join(re.findall(r"^locals \{\n.*?^\}\n", (module / file).read_text(), re.MULTILINE | re.DOTALL))
    for name, value in SAID.items():
        text = text.replace(name, value)
    (place / "locals.tf").write_text(text)
    return place


def terraform(place, arguments):
    environment = os.environ | {"TF_CLI_ARGS": "-no-color", "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        ["terraform", f"-chdir={place}", *arguments], env=environment, text=True, capture_output=True, check=False, timeout=60)


def faults(module):
    with tempfile.TemporaryDirectory() as folder:
        place = prepare(module, pathlib.Path(folder).resolve())
        for number, (given, expected) in enumerate(CASES):
            state = f"{folder}/{number}.tfstate"
            variables = [f"-var={name}={value}" for name, value in {**BESIDE, **given}.items()]
            done = terraform(place, ["apply", "-auto-approve", "-input=false", "-lock=false", f"-state={state}", *variables])
            if isinstance(expected, str):
                said = " ".join(re.sub(r"[│╷╵]", " ", done.stderr).split())
                if done.returncode == 0 or expected not in said:
                    yield f"{given} has to be refused with `{expected}`, and was not: {said}"
                continue
            if done.returncode:
                yield f"{given}: {done.stderr}"
                continue
            found = json.loads(terraform(place, ["output", "-json", f"-state={state}"]).stdout)
            for host in found["hosts"]["value"]:
                made = {**dict(host["settings"]), "package_arn": found["package_arn"]["value"]}
                wrong = {name: made.get(name) for name, value in expected.items() if made.get(name) != value}
                if wrong or not host["filled_in"] or not host["fits"]:
                    yield f"{given} makes {wrong}, and not {expected} ({host['filled_in']=}, {host['fits']=})"
