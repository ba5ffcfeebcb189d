"""The worker: asks the model and sends what it says to everybody who watches. Runs in a thread, or as a Celery task."""
import os
import sqlite3
from contextlib import closing

from openai import OpenAI
from ssegateway import Gateway, Gone

gateway, model = Gateway(), OpenAI()


def query(sql, *values):
    with closing(sqlite3.connect(os.environ.get("DATABASE", "chat.db"), isolation_level=None)) as database:
        return database.execute(sql, values).fetchall()


query("CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, name TEXT UNIQUE, question TEXT, answer TEXT)")


def answer(run, question):
    text = ""
    try:
        with gateway.stream(f"run:{run}", end=True, restart={"name": "restart", "data": ""}) as out:
            messages = [{"role": "user", "content": question}]
            chunks = model.chat.completions.create(model="gpt-5", messages=messages, stream=True)
            for chunk in out.watch(chunks):
                token = chunk.choices[0].delta.content or ""
                text += token
                out.send(token)
            query("UPDATE runs SET answer = ? WHERE name = ?", text, run)
            out.send("", name="done")
    except Gone:  # somebody has pressed Stop
        query("UPDATE runs SET answer = ? WHERE name = ?", text, run)
