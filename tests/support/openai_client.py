"""Asks an API with OpenAI's own client. Reads {"base_url", "key", "calls": [{"stream"?, …}]}, where a call is what
chat.completions.create takes, or {"models": null or NAME}; prints a list with what came of each: the answer as the client has it,
or the class of the exception that it raised."""

import json
import sys

import openai

given = json.load(sys.stdin)
client = openai.OpenAI(base_url=given["base_url"], api_key=given["key"], max_retries=given.get("retries", 0))


def ask(call):
    if "models" in call:
        if call["models"] is None:
            return [model.id for model in client.models.list()]
        return client.models.retrieve(call["models"]).to_dict()
    answer = client.chat.completions.create(**call)
    if not call.get("stream"):
        return answer.to_dict() | {"request": answer._request_id}
    return [chunk.to_dict() for chunk in answer]


def tried(call):
    try:
        return ask(call)
    except openai.APIStatusError as error:
        body = error.body or {}
        return {"raised": type(error).__name__, "status": error.status_code, "code": error.code, "param": error.param,
                "type": error.type, "message": body.get("message"), "retry_after": error.response.headers.get("retry-after"),
                "request": error.request_id}
    except openai.APIError as error:
        return {"raised": type(error).__name__, "message": error.message}


json.dump([tried(call) for call in given["calls"]], sys.stdout)
