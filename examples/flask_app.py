"""Messages between users in Flask, complete, for any number of workers of any kind.

SECRET_KEY=... gunicorn --workers 2 flask_app:app     CALLBACK_URL=http://127.0.0.1:8000/callback ssegateway
"""
import os
import sqlite3
from contextlib import closing, suppress

from flask import Flask, request, session
from ssegateway import Gateway, GatewayError

app, gateway = Flask(__name__), Gateway()
app.secret_key = os.environ["SECRET_KEY"]


def query(sql, *values):  # a database rather than a dict, since all workers share the streams
    with closing(sqlite3.connect(os.environ.get("DATABASE", "streams.db"), isolation_level=None)) as database:
        return database.execute(sql, values).fetchall()


def send(token, *data, **options):
    if not gateway.send(token, *data, **options):  # the stream has ended
        query("DELETE FROM streams WHERE token = ?", token)


query("CREATE TABLE IF NOT EXISTS streams (token TEXT PRIMARY KEY, user TEXT, instance TEXT)")
with suppress(GatewayError):  # forget the streams that ended while this application was down
    for token in {token for (token,) in query("SELECT token FROM streams")} - {c.token for c in gateway.connections()}:
        send(token)  # a send without an event is a probe: the stream may still be connecting


@app.post("/callback")
def callback():
    call = gateway.callback(request.get_data(), request.headers)
    if call.action == "disconnect":
        query("DELETE FROM streams WHERE token = ?", call.token)
        return {}
    with app.test_request_context(headers=call.headers):  # the client's request, with its session cookie
        if not (user := session.get("user")):
            return {}, 401
    query("DELETE FROM streams WHERE instance IS NOT ?", call.instance)  # lost when the gateway restarted
    query("INSERT OR REPLACE INTO streams VALUES (?, ?, ?)", call.token, user, call.instance)  # the gateway may retry
    for (oldest,) in query("SELECT token FROM streams WHERE user = ? ORDER BY rowid DESC LIMIT -1 OFFSET 3", user):
        send(oldest, "Three pages are enough.", name="replaced", close=True)
    return {"event": {"name": "welcome", "data": user}}


@app.post("/messages")
def messages():
    if "user" not in session:
        return {}, 401
    for (token,) in query("SELECT token FROM streams WHERE user = ?", request.form["to"]):
        send(token, f"{session['user']}: {request.form['text']}")
    return {}


@app.get("/users")
def online():
    return [user for (user,) in query("SELECT DISTINCT user FROM streams")]


@app.post("/users")
def login():
    session["user"] = request.form["user"]  # a real application checks a password first
    return {}
