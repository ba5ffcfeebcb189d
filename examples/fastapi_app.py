"""Messages between users in FastAPI, complete, for one process: uvicorn fastapi_app:app"""
import secrets
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated

from fastapi import Cookie, FastAPI, Form, HTTPException, Request, Response
from ssegateway import GatewayError
from ssegateway.aio import AsyncGateway


@asynccontextmanager
async def lifespan(app):
    async with aclosing(gateway):
        with suppress(GatewayError):  # the owners of open streams are not known: close them, the pages reconnect
            async for connection in gateway.connections():
                await gateway.send(connection.token, close=True)
        yield


app, gateway = FastAPI(lifespan=lifespan), AsyncGateway()
sessions = {}  # cookie -> user; a real application has its own
streams = {}  # token -> user
instance = None  # of the gateway that holds them


async def send(token, *data, **options):
    if not await gateway.send(token, *data, **options):  # the stream has ended
        streams.pop(token, None)


@app.post("/callback")
async def callback(request: Request):
    global instance
    call = gateway.callback(await request.body(), request.headers)
    if call.action == "disconnect":
        streams.pop(call.token, None)
        return {}
    if not (user := sessions.get(call.cookies.get("session"))):
        raise HTTPException(401)
    if instance != (instance := call.instance):  # the gateway restarted, and its streams are lost
        streams.clear()
    streams[call.token] = user
    for oldest in [token for token, of in streams.items() if of == user][:-3]:
        await send(oldest, "Three pages are enough.", name="replaced", close=True)
    return {"event": {"name": "welcome", "data": user}}


@app.post("/messages")
async def messages(to: Annotated[str, Form()], text: Annotated[str, Form()], session: Annotated[str, Cookie()] = ""):
    if not (user := sessions.get(session)):
        raise HTTPException(401)
    for token in [token for token, of in streams.items() if of == to]:
        await send(token, f"{user}: {text}")


@app.get("/users")
async def online():
    return sorted(set(streams.values()))


@app.post("/users")
async def login(user: Annotated[str, Form()], response: Response):
    sessions[cookie := secrets.token_urlsafe()] = user
    response.set_cookie("session", cookie, httponly=True)
