"""The chat endpoint as it is written with Flask, for gunicorn: what people run today, and perch is measured beside.

`MODEL` in the environment names an OpenAI-compatible API; without it the answer is an echo.
"""

import json
import os
import uuid

import requests
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
MODEL = os.environ.get("MODEL")
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF8", "jpg": b"\xff\xd8\xff", "pdf": b"%PDF-"}
app.config["MAX_CONTENT_LENGTH"] = 21 << 20


@app.post("/api/chat")
def chat():
    conversation = uuid.uuid4().hex
    if request.files:
        return upload(conversation)
    message = request.get_json()["message"]
    if "text/event-stream" not in request.headers.get("Accept", ""):
        return jsonify(reply=message, conversation=conversation)
    return Response(stream(message, conversation), mimetype="text/event-stream")


def upload(conversation):
    for file in request.files.getlist("file"):
        kind = (file.filename or "").rpartition(".")[2].lower()
        content = file.read()
        if not content.startswith(SIGNATURES.get(kind, b"\0")):
            return jsonify(title="Unsupported Media Type"), 415
    return jsonify(reply=request.form.get("message", ""), conversation=conversation)


def stream(message, conversation):
    question = {"model": "m", "stream": True, "messages": [{"role": "user", "content": message}]}
    with requests.post(f"{MODEL}/chat/completions", json=question, stream=True, timeout=60) as answer:
        for line in answer.iter_lines():
            if not line.startswith(b"data: {"):
                continue
            text = json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            yield f"event: delta\ndata: {json.dumps({'text': text})}\n\n"
    yield f"event: done\ndata: {json.dumps({'conversation': conversation})}\n\n"
