"""Messages between users in Flask, complete, for any number of workers of any kind.

SECRET_KEY=... gunicorn --workers 2 --threads 4 flask_app:app
CALLBACK_URL=http://127.0.0.1:8000/callback CORS_ORIGINS=http://127.0.0.1:8000 ssegateway
"""
import json
import os
import sqlite3
from contextlib import closing

from flask import Flask, redirect, render_template, request, session
from ssegateway import Gateway, Unavailable, accept

app, gateway = Flask(__name__), Gateway()
app.secret_key = os.environ["SECRET_KEY"]
EVENTS = os.environ.get("EVENTS_URL", "http://127.0.0.1:3000/messages")  # behind a proxy: /events/messages


def query(sql, *values):
    with closing(sqlite3.connect(os.environ.get("DATABASE", "messages.db"), isolation_level=None)) as database:
        return database.execute(sql, values).fetchall()


query("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, sender TEXT, recipient TEXT, text TEXT)")


@app.post("/callback")
def callback():
    call = gateway.callback(request.get_data(), request.headers)
    if call.action != "connect":
        return {}
    with app.test_request_context(headers=call.headers):  # the client's request, with its session cookie
        user = session.get("user")
    return accept(groups=[f"user:{user}"]) if user else ({}, 401)


@app.get("/")
def page():
    user, cursor = session.get("user"), gateway.cursor("unknown")  # before the query: the stream continues from here
    messages = query("SELECT id, sender, text FROM messages WHERE ? IN (sender, recipient) ORDER BY id", user)
    return render_template("messages.html", user=user, messages=messages, events=EVENTS, cursor=cursor or "")


@app.post("/messages")
def send():
    if not (sender := session.get("user")):
        return {}, 401
    recipient, text = request.form["to"], request.form["text"]
    sql = "INSERT INTO messages (sender, recipient, text) VALUES (?, ?, ?) RETURNING id"
    [(number,)] = query(sql, sender, recipient, text)
    message = json.dumps({"id": number, "sender": sender, "text": text})
    try:
        gateway.send(groups=[f"user:{recipient}", f"user:{sender}"], data=message)
    except Unavailable as error:  # the message is in the database, where pages find it later
        app.logger.warning(error)
    return {}


@app.post("/login")
def login():
    session["user"] = request.form["user"]  # a real application checks a password first
    return redirect("/")
