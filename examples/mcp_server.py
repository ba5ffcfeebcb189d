"""An MCP server in synchronous Flask, whose tools report their progress: each POST is answered by a stream of the gateway.

gunicorn --threads 4 mcp_server:app
POST_STREAMS=on CALLBACK_URL=http://127.0.0.1:8000/callback ssegateway       the server's URL: http://127.0.0.1:3000/mcp
"""
import json
import threading
import time

from flask import Flask, request
from ssegateway import Gateway, Gone, accept, decline

app, gateway = Flask(__name__), Gateway()
SERVER = {"name": "counter", "version": "1"}
CAPABILITIES = {"tools": {}}
COUNT = {
    "name": "count",
    "description": "Counts, one number every tenth of a second",
    "inputSchema": {"type": "object", "properties": {"to": {"type": "integer"}}, "required": ["to"]},
}


@app.post("/callback")
def callback():
    call = gateway.callback(request.get_data(), request.headers)
    if call.action != "connect":
        return {}
    if call.method != "POST" or call.path != "/mcp":
        return {}, 405
    asked = json.loads(call.body)
    if "id" not in asked:
        return decline()  # a notification
    if asked["method"] == "tools/call":
        threading.Thread(target=count, args=[call.token, asked]).start()
        return accept()
    return accept({"name": "message", "data": json.dumps(answer(asked))}) | {"close": True}


def answer(asked):
    method, params = asked["method"], asked.get("params", {})
    if method == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": CAPABILITIES, "serverInfo": SERVER}
    elif method == "tools/list":
        result = {"tools": [COUNT]}
    else:
        return {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": f"no method {method}"}}
    return {"jsonrpc": "2.0", "id": asked["id"], "result": result}


def count(token, asked):
    """A tool. If its client cancels, it closes the stream, and the next send raises."""
    to, progress = asked["params"]["arguments"]["to"], asked["params"].get("_meta", {}).get("progressToken")
    try:
        with gateway.stream(token=token) as out:
            for number in range(1, to + 1):
                time.sleep(0.1)
                if out.stopped:
                    break
                params = {"progressToken": progress, "progress": number, "total": to}
                if progress is not None:
                    out.send(name="message", json={"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            result = {"content": [{"type": "text", "text": f"counted to {to}"}]}
            out.send(name="message", json={"jsonrpc": "2.0", "id": asked["id"], "result": result})
        gateway.send(token, close=True)
    except Gone:
        print(f"stopped counting at {number}", flush=True)
