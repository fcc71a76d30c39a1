#!/usr/bin/env python3
"""Runs a stand-in that ends when its standard input does, so that no test leaves one behind, however it ends.

    leashed.py SCRIPT [ARGUMENTS]   one of the scripts beside this one
    leashed.py moto                 S3 and Secrets Manager on a free port; prints their URL
    leashed.py fakellm CONFIG       an OpenAI-compatible API on a free port, with the rules of a file; prints its URL
"""

import logging
import os
import runpy
import socket
import sys
import threading


def end_with_standard_input():
    while os.read(0, 4096):
        pass
    os._exit(0)


def moto():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    threading.Event().wait()


def fakellm(config):
    os.environ["FAKELLM_CONFIG"] = config
    import uvicorn
    from fakellm.server import app

    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    print(f"http://{host}:{port}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


def main():
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    if sys.argv[1] == "moto":
        return moto()
    if sys.argv[1] == "fakellm":
        return fakellm(sys.argv[2])
    sys.argv = sys.argv[1:]
    return runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
