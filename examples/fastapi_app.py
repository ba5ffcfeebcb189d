"""Messages between users in FastAPI, complete: SECRET_KEY=... uvicorn --workers 2 fastapi_app:app"""
import json
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

from fastapi import Cookie, FastAPI, Form, HTTPException, Request
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from itsdangerous import BadSignature, URLSafeSerializer
from ssegateway import Unavailable, accept
from ssegateway.aio import AsyncGateway

EVENTS = os.environ.get("EVENTS_URL", "http://127.0.0.1:3000/messages")  # behind a proxy: /events/messages
app, gateway = FastAPI(), AsyncGateway()
templates, sessions = Jinja2Templates(Path(__file__).parent / "templates"), URLSafeSerializer(os.environ["SECRET_KEY"])


def query(sql, *values):  # a real application has an asynchronous driver
    with closing(sqlite3.connect(os.environ.get("DATABASE", "messages.db"), isolation_level=None)) as database:
        return database.execute(sql, values).fetchall()


def user_of(session):
    try:
        return sessions.loads(session)
    except BadSignature:
        return None


query("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, sender TEXT, recipient TEXT, text TEXT)")


@app.post("/callback")
async def callback(request: Request):
    call = gateway.callback(await request.body(), request.headers)
    if call.action != "connect":
        return {}
    if not (user := user_of(call.cookies.get("session", ""))):
        raise HTTPException(401)
    return accept(groups=[f"user:{user}"])


@app.get("/")
async def page(request: Request, session: Annotated[str, Cookie()] = ""):
    user, cursor = user_of(session), await gateway.cursor("unknown")  # before the query: the stream continues from here
    messages = query("SELECT id, sender, text FROM messages WHERE ? IN (sender, recipient) ORDER BY id", user)
    context = {"user": user, "messages": messages, "events": EVENTS, "cursor": cursor or ""}
    return templates.TemplateResponse(request, "messages.html", context)


@app.post("/messages")
async def send(to: Annotated[str, Form()], text: Annotated[str, Form()], session: Annotated[str, Cookie()] = ""):
    if not (sender := user_of(session)):
        raise HTTPException(401)
    sql = "INSERT INTO messages (sender, recipient, text) VALUES (?, ?, ?) RETURNING id"
    [(number,)] = query(sql, sender, to, text)
    message = json.dumps({"id": number, "sender": sender, "text": text})
    try:
        await gateway.send(groups=[f"user:{to}", f"user:{sender}"], data=message)
    except Unavailable as error:  # the message is in the database, where pages find it later
        logging.warning(error)


@app.post("/login")
async def login(user: Annotated[str, Form()]):  # a real application checks a password first
    response = RedirectResponse("/", status_code=303)
    response.set_cookie("session", sessions.dumps(user), httponly=True, samesite="lax")
    return response
