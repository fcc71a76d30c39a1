"""An OIDC issuer on this machine, with keys of its own: prints where it is and where it is controlled, and serves until its
standard input ends.

    GET  /.well-known/openid-configuration, /keys    what an issuer publishes
    POST /sign {"header", "claims", "key"?}          a token, signed with the key "key" or the newest
    POST /forge {"trick", "claims"}                  a token that must not be taken
    POST /rotate                                     a new key; POST /rotate {"forget": true} without those of before
    PUT  /faults {"discovery"?, "keys"?}             what is answered instead: a status, "hang", or a text
    GET  /asked                                      how often each document was asked for
"""

import base64
import hashlib
import hmac
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class Issuer:
    def __init__(self):
        self.keys = {}
        self.faults = {}
        self.asked = {"discovery": 0, "keys": 0}
        self.over = threading.Event()
        self.rotate()

    def rotate(self, forget=False, bits=2048):
        if forget:
            self.keys.clear()
        self.newest = f"key-{time.monotonic_ns()}"
        self.keys[self.newest] = rsa.generate_private_key(public_exponent=65537, key_size=bits)

    def published(self):
        public = {name: key.public_key().public_numbers() for name, key in self.keys.items()}
        return {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": name, "n": number(key.n), "e": number(key.e)}
                         for name, key in public.items()]}

    def sign(self, header, claims, key=None):
        signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
        key = key or self.keys[self.newest]
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encode(signature)}"

    def pem(self):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.keys[self.newest].public_key().public_bytes(serialization.Encoding.PEM, form)

    def forge(self, trick, claims):
        header = {"alg": "RS256", "typ": "JWT", "kid": self.newest}
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if trick == "none":
            token = self.sign(header | {"alg": "none"}, claims)
            return token.rsplit(".", 1)[0] + "."
        if trick == "hmac with the public key":
            signed = f"{encode(json.dumps(header | {'alg': 'HS256'}).encode())}.{encode(json.dumps(claims).encode())}"
            return f"{signed}.{encode(hmac.new(self.pem(), signed.encode(), hashlib.sha256).digest())}"
        if trick == "hmac under the name of rsa":
            signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
            return f"{signed}.{encode(hmac.new(self.pem(), signed.encode(), hashlib.sha256).digest())}"
        if trick == "a key of its own":
            numbers = stranger.public_key().public_numbers()
            own = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
            return self.sign(header | {"jwk": own}, claims, stranger)
        if trick == "a stranger's key":
            return self.sign(header, claims, stranger)
        if trick == "another hash":
            signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
            signature = self.keys[self.newest].sign(signed.encode(), padding.PKCS1v15(), hashes.SHA512())
            return f"{signed}.{encode(signature)}"
        if trick == "another padding":
            signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            return f"{signed}.{encode(self.keys[self.newest].sign(signed.encode(), scheme, hashes.SHA256()))}"
        if trick == "other claims":
            head, _, signature = self.sign(header, claims | {"sub": "somebody"}).split(".")
            return f"{head}.{encode(json.dumps(claims).encode())}.{signature}"
        raise ValueError(trick)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    issuer = None

    def log_message(self, *arguments):
        pass

    def answer(self, status, document):
        text = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def publish(self, name, document):
        self.issuer.asked[name] += 1
        fault = self.issuer.faults.get(name)
        if fault == "hang":
            self.issuer.over.wait()
            self.close_connection = True
        elif isinstance(fault, int):
            self.answer(fault, {})
        else:
            self.answer(200, document if fault is None else fault)

    def do_GET(self):
        at = f"http://{self.headers['Host']}"
        if self.path == "/.well-known/openid-configuration":
            self.publish("discovery", {"issuer": at, "jwks_uri": f"{at}/keys"})
        elif self.path == "/keys":
            self.publish("keys", self.issuer.published())
        elif self.path == "/asked":
            self.answer(200, self.issuer.asked)
        else:
            self.answer(404, {})

    def do_POST(self):
        wish = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/sign":
            header = {"alg": "RS256", "typ": "JWT", "kid": self.issuer.newest} | wish.get("header", {})
            self.answer(200, self.issuer.sign(header, wish["claims"]))
        elif self.path == "/forge":
            self.answer(200, self.issuer.forge(wish["trick"], wish["claims"]))
        elif self.path == "/rotate":
            self.issuer.rotate(wish.get("forget", False), wish.get("bits", 2048))
            self.answer(200, {})
        elif self.path == "/faults":
            self.issuer.faults = wish
            self.answer(200, {})
        else:
            self.answer(404, {})


def main():
    Handler.issuer = Issuer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
