// The package as a project installs it: `startGateway`, with a client that is `fetch`.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";
import * as testing from "ssegateway/testing";
import { GatewaySource } from "ssegateway";

let gateway;
const startGateway = async options => (gateway = await testing.startGateway(options));
afterEach(() => gateway.stop());

/** Reads until the text has come; the stream stays open. */
async function read(stream, text) {
  const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let seen = ""; ; ) {
    const { value, done } = await reader.read();
    assert(!done, `the stream has ended without ${text}: ${seen}`);
    seen += value;
    if (seen.includes(text)) return seen;
  }
}

test("an event reaches the client, and its end the backend", async () => {
  await startGateway({ answer: { groups: ["news"], event: { data: "welcome" } } });
  const stream = await fetch(`${gateway.url}/news?user=ann`);
  assert.equal(stream.status, 200);
  assert.equal((await gateway.send({ group: "news", event: { name: "greeting", data: "Hello" } })).reached, true);
  assert.match(await read(stream, "Hello"), /data: welcome\n\n(.*\n)*event: greeting\n/);
  const { token } = gateway.callbacks[0];
  assert.deepEqual(await gateway.send({ token, close: true }), { status: "ok" });
  await assert.rejects(gateway.send({ token }), /404: Token not found/);
  assert.equal(await gateway.stop(), 0);
  assert.deepEqual(gateway.callbacks.map(call => call.action), ["connect", "disconnect"]);
});

test("a function decides, also by a status", async () => {
  const answer = call => (call.request.headers.cookie ? {} : 401);
  await startGateway({ answer, environment: { INTERNAL_TOKEN: "secret" } });
  assert.equal((await fetch(gateway.url)).status, 401);
  const stream = await fetch(gateway.url, { headers: { cookie: "user=ann" } });
  assert.equal(stream.status, 200);
  assert.deepEqual(await gateway.send({ token: gateway.callbacks[1].token }), { status: "ok" });
  assert.equal(await gateway.stop(), 0);
});

test("an application decides", async () => {
  const application = createServer((_, response) => response.writeHead(403).end()).listen(0, "127.0.0.1");
  await new Promise(resolve => application.once("listening", resolve));
  await startGateway({ answer: `http://127.0.0.1:${application.address().port}/callback` });
  assert.equal((await fetch(gateway.url)).status, 403);
  application.close();
});

test("what is wrong is said", async () => {
  await assert.rejects(startGateway({ environment: { PADDING_BYTES: "many" } }), /PADDING_BYTES/);
  await assert.rejects(startGateway({ binary: "/nowhere/ssegateway" }), /ENOENT/);
});

test("the part for pages can be loaded", () => assert.equal(typeof GatewaySource, "function"));
