#!/usr/bin/env python3
"""An AWS that enforces its policies: S3 and Secrets Manager under roles that are made here.

    iam.py

prints where AWS is and where it is steered, on one line. What steers it, bodies and answers being JSON:
    POST /object  {"bucket", "key", "text"}  uploads, into a bucket with versions that is made when it is not there;
                                             answers {"version"}
    POST /secret  {"name", "text"}           makes a secret; answers {"arn"}
    POST /role    {"name", "policy"}         makes a role that may do what the document says, or changes what it may do;
                                             answers the environment of somebody who assumed it
"""

import ctypes
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
from botocore.config import Config

REGION = "eu-central-1"
STARTS_WITHIN = 60  # seconds
PR_SET_PDEATHSIG = 1  # prctl(2)


def start():
    """AWS's address. It ends with this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "AUTH": "true", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0",
    }
    prctl = ctypes.CDLL(None).prctl
    subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), "ministack")], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
    while True:
        try:
            urllib.request.urlopen(f"{address}/_ministack/health", timeout=5).close()
            return address
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Account:
    """What its owner does in it."""

    def __init__(self, address):
        self.s3, self.secrets, self.iam, self.sts = (
            boto3.client(service, endpoint_url=address, region_name=REGION, aws_access_key_id="test",
                         aws_secret_access_key="test", config=Config(s3={"addressing_style": "path"}))
            for service in ("s3", "secretsmanager", "iam", "sts"))

    def object(self, bucket, key, text):
        if bucket not in [known["Name"] for known in self.s3.list_buckets()["Buckets"]]:
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
            self.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        return {"version": self.s3.put_object(Bucket=bucket, Key=key, Body=text.encode())["VersionId"]}

    def secret(self, name, text):
        return {"arn": self.secrets.create_secret(Name=name, SecretString=text)["ARN"]}

    def role(self, name, policy):
        if name not in [known["RoleName"] for known in self.iam.list_roles()["Roles"]]:
            trust = {"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
            self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        self.iam.put_role_policy(RoleName=name, PolicyName="daemon", PolicyDocument=json.dumps(policy))
        arn = self.iam.get_role(RoleName=name)["Role"]["Arn"]
        keys = self.sts.assume_role(RoleArn=arn, RoleSessionName="i-00000000000000000")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["SessionToken"],
        }


class Handler(http.server.BaseHTTPRequestHandler):
    account: Account

    def do_POST(self):
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps(getattr(self.account, self.path[1:])(**wish)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    address = start()
    Handler.account = Account(address)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    print(f"{address} http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
