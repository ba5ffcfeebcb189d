"""A chat with a language model, in synchronous Flask: its answers survive reloads, tabs and deploys, and can be stopped.

OPENAI_API_KEY=... gunicorn --threads 4 app:app
CALLBACK_URL=http://127.0.0.1:8000/callback CORS_ORIGINS=http://127.0.0.1:8000 ssegateway
"""
import os
import secrets
import threading

import worker
from flask import Flask, render_template, request
from ssegateway import Gateway, Gone, Unavailable, accept

app, gateway = Flask(__name__), Gateway()
EVENTS = os.environ.get("EVENTS_URL", "http://127.0.0.1:3000/runs")  # behind a proxy: /events/runs


@app.post("/callback")
def callback():
    call = gateway.callback(request.get_data(), request.headers)
    if call.action != "connect":
        return {}
    # Whoever knows the name of a run may watch it. flask_app.py shows how to look at the session here.
    run = call.path.rpartition("/")[2]
    return accept(groups=[f"run:{run}"], since="start", attach=True)


@app.post("/questions")
def ask():
    run, question = secrets.token_urlsafe(16), request.form["question"]
    gateway.send(group=f"run:{run}", data="", name="queued")  # from now on there is something to attach to
    worker.query("INSERT INTO runs (name, question) VALUES (?, ?)", run, question)
    start(run, question)
    return {"run": run}


@app.post("/runs/<run>/stop")
def stop(run):
    try:
        gateway.send(group=f"run:{run}", data="", name="stopped", end=True)
    except Gone:
        pass  # it was just over
    return {}


@app.errorhandler(Unavailable)
def unavailable(error):
    app.logger.warning(error)
    return {"error": "The gateway is unavailable. Please try again in a minute."}, 503


@app.get("/")
def page():
    runs = worker.query("SELECT name, question, answer FROM runs ORDER BY id")
    return render_template("chat.html", runs=runs, events=EVENTS)


if "BROKER_URL" in os.environ:
    from tasks import answer

    start = answer.delay
else:

    def start(run, question):
        threading.Thread(target=worker.answer, args=[run, question]).start()
