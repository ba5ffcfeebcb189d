// A room in Express, complete: who may come in, messages to all, who has left.
//
//     npm install express && node node_express.mjs
//     CALLBACK_URL=http://127.0.0.1:8000/callback CORS_ORIGINS=http://127.0.0.1:8000 ssegateway
//
// Then open http://127.0.0.1:8000/?user=ann, and another one for Bob.
import express from "express";

const { PORT = 8000, GATEWAY_URL = "http://127.0.0.1:3000", CALLBACK_TOKEN, INTERNAL_TOKEN } = process.env;
const EVENTS_URL = process.env.EVENTS_URL ?? `${GATEWAY_URL}/events/room`; // behind a proxy: /events/room

const page = user => `<!doctype html><title>Room</title>
<form><input name=text autofocus> <button>Send as ${user}</button></form><ul></ul>
<script>
const events = new EventSource("${EVENTS_URL}", { withCredentials: true });
events.onmessage = event => document.querySelector("ul").appendChild(document.createElement("li")).append(event.data);
document.forms[0].onsubmit = event => {
  event.preventDefault();
  fetch("/messages", { method: "POST", body: new URLSearchParams(new FormData(event.target)) });
};
</script>`;

/** Sends to every stream in a group. Any process may do so. */
async function send(group, event) {
  const headers = { "Content-Type": "application/json" };
  if (INTERNAL_TOKEN) headers.Authorization = `Bearer ${INTERNAL_TOKEN}`;
  const answer = await fetch(`${GATEWAY_URL}/internal/send`, { method: "POST", headers, body: JSON.stringify({ group, event }) });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
}

/** Who it is, by the cookie: of the page's request, or of the stream's, which the gateway passes on. */
const userOf = headers => /(?:^|; )user=(\w+)/.exec(headers?.cookie)?.[1];

const app = express();

app.post("/callback", express.json({ limit: "1mb" }), async (request, response) => {
  if (CALLBACK_TOKEN && request.headers.authorization !== `Bearer ${CALLBACK_TOKEN}`) return response.sendStatus(403);
  const call = request.body, user = userOf(call.request?.headers);
  if (call.action !== "connect") response.end();
  else if (user) response.json({ groups: ["room"], event: { data: `Welcome, ${user}` } });
  else response.sendStatus(401); // the client gets this status, and no stream
  if (call.reason === "client_closed") await send("room", { data: `${user} has left` });
});

app.post("/messages", express.urlencoded(), async (request, response) => {
  const user = userOf(request.headers);
  if (!user) return response.sendStatus(401);
  await send("room", { data: `${user}: ${request.body.text}` });
  response.sendStatus(204);
});

app.get("/", (request, response) => {
  const user = /^\w+$/.test(request.query.user) ? request.query.user : "guest"; // in place of a login
  response.cookie("user", user).send(page(user));
});

app.listen(PORT, "127.0.0.1");
