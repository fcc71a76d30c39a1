#!/usr/bin/env python3
"""A stand-in for S3's GetObject and for a plain web server, over one directory.

    bucket.py DIRECTORY [--region eu-central-1]

prints its URL as the first line, which goes into AWS_ENDPOINT_URL_S3. GET /BUCKET/KEY wants a signature (Signature
Version 4) of credentials that tests/support/imds.py hands out, with every x-amz- header in it, the session token among
them; GET /web/KEY wants none. Both answer with DIRECTORY/KEY, and for ?versionId=ID with DIRECTORY/KEY@ID. The bucket `forbidden` is for nobody.
Where DIRECTORY/KEY.breaks is, the answer breaks off halfway, and that file goes, so that the next one is whole.
"""

import argparse
import hashlib
import hmac
import http.server
import re
from pathlib import Path
from urllib.parse import unquote

SECRET = "this-secret-access-key-opens-nothing"
TOKEN = "this-session-token-opens-nothing"


def is_signed(handler, region):
    """Whether the request carries a signature as it has to be.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    headers = {name.lower(): value.strip() for name, value in handler.headers.items()}
    given = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=[^/]+/(\d{8})/([^/]+)/s3/aws4_request, *SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})",
        headers.get("authorization", ""))
    if not given or given[2] != region or headers.get("x-amz-security-token") != TOKEN:
        return False
    signed = given[3].split(";")
    if any(name.startswith("x-amz-") and name not in signed for name in headers):
        return False
    path, _, query = handler.path.partition("?")
    request = "\n".join([
        handler.command, path, query, *(f"{name}:{headers[name]}" for name in signed), "", given[3],
        headers["x-amz-content-sha256"]])
    scope = f"{given[1]}/{region}/s3/aws4_request"
    text = "\n".join([
        "AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in (given[1], region, "s3", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(key.hex(), given[4])


class Handler(http.server.BaseHTTPRequestHandler):
    directory: Path
    region: str

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>no</Message></Error>'.encode())

    def do_GET(self):
        path, _, query = self.path.partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        key += query.replace("versionId=", "@") if query.startswith("versionId=") else ""
        if bucket == "forbidden":
            return self.refuse(403, "AccessDenied")
        if bucket != "web" and not is_signed(self, self.region):
            return self.refuse(403, "SignatureDoesNotMatch")
        path = self.directory / key
        if not path.is_file():
            return self.refuse(404, "NoSuchKey")
        body, breaks = path.read_bytes(), path.with_name(f"{path.name}.breaks")
        if not breaks.exists():
            return self.answer(200, body)
        breaks.unlink()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2])
        self.close_connection = True

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--region", default="eu-central-1")
    arguments = parser.parse_args()
    Handler.directory, Handler.region = arguments.directory, arguments.region
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
