#!/usr/bin/env python3
"""An AWS that enforces its policies: S3 and Secrets Manager under roles that are made here.

    iam.py

prints where AWS is and where it is steered, on one line. What steers it, bodies and answers being JSON:
    POST /object  {"bucket", "key", "text"}  uploads, into a bucket with versions that is made when it is not there;
                                             answers {"version"}
    POST /secret  {"name", "text"}           makes a secret; answers {"arn"}
    POST /role    {"name", "policy"}         makes a role that may do what the document says, or changes what it may do;
                                             answers the environment of somebody who assumed it
    POST /key     {"text"}                   makes a key; answers {"arn"} and what it makes of the text, {"encrypted"}
    POST /group   {"name"}                   makes a log group; answers {"arn"}
    POST /call    {"keys", "service", "operation", "arguments"}
                                             does something with the keys that /role answered; answers {"refused"}, with
                                             AWS's code where it is not allowed, else null
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
import urllib.error
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

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
        self.address = address
        self.s3, self.secrets, self.iam, self.sts, self.kms, self.logs = (
            self.client(service) for service in ("s3", "secretsmanager", "iam", "sts", "kms", "logs"))

    def client(self, service, keys=None):
        keys = keys or {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        given = {name.lower(): value for name, value in keys.items()}
        return boto3.client(service, endpoint_url=self.address, region_name=REGION, **given,
                            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}))

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


    def key(self, text):
        arn = self.kms.create_key()["KeyMetadata"]["Arn"]
        encrypted = self.kms.encrypt(KeyId=arn, Plaintext=text.encode())["CiphertextBlob"]
        return {"arn": arn, "encrypted": encrypted.hex()}

    def group(self, name):
        self.logs.create_log_group(logGroupName=name)
        return {"arn": self.logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"][0]["logGroupArn"]}

    def call(self, keys, service, operation, arguments):
        if operation == "UpdateInstanceInformation":
            return {"refused": self.refused_agent(keys, operation)}
        if "CiphertextBlob" in arguments:
            arguments["CiphertextBlob"] = bytes.fromhex(arguments["CiphertextBlob"])
        if "logEvents" in arguments:
            arguments["logEvents"] = [{"timestamp": int(time.time() * 1000), "message": text} for text in arguments["logEvents"]]
        try:
            getattr(self.client(service, keys), operation)(**arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            return {"refused": code if code.startswith("AccessDenied") else None}
        return {"refused": None}

    def refused_agent(self, keys, operation):
        """The SSM agent's own calls, which no SDK has."""
        credentials = Credentials(*(keys[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")))
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"AmazonSSM.{operation}"}
        request = AWSRequest("POST", f"{self.address}/", data=b"{}", headers=headers)
        SigV4Auth(credentials, "ssm", REGION).add_auth(request)
        asked = urllib.request.Request(request.url, request.data, dict(request.headers))
        try:
            urllib.request.urlopen(asked, timeout=30).close()
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            return "AccessDeniedException" if "AccessDenied" in said else None
        return None


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
