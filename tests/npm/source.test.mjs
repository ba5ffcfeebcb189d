// GatewaySource, with the EventSource of Node.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";
import { GatewaySource } from "ssegateway";

/** A server that gives these answers one after the other, and the last one again and again. */
async function serve(t, ...answers) {
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request.url);
    const [status, body = ""] = answers.length > 1 ? answers.shift() : answers[0];
    response.writeHead(status, { "Content-Type": "text/event-stream" });
    status === 200 ? response.write(body || ": open\n\n") : response.end();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { requests, server, url: `http://127.0.0.1:${server.address().port}/events` };
}

/** The source, and the statuses of its errors. */
function open(t, url, options) {
  const source = new GatewaySource(url, { pause: 10, ...options });
  t.after(() => source.close());
  const errors = [];
  source.addEventListener("error", event => errors.push(event.status));
  return { source, errors };
}

const next = (source, type) => new Promise(resolve => source.addEventListener(type, resolve, { once: true }));
async function closed(source) {
  while (source.readyState !== 2) await next(source, "error");
}

test("it asks until there is a stream, and goes on where the page was", async t => {
  const first = [200, "retry: 1\nid: 7\ndata: one\n\n"], last = [200, "data: two\n\n"];
  const { requests, server, url } = await serve(t, first, [500], [503], [200], last);
  const { source, errors } = open(t, url);
  assert.equal((await next(source, "message")).data, "one");
  server.closeAllConnections();
  assert.equal((await next(source, "message")).data, "two");
  assert.deepEqual(errors.filter(status => status), [503]); // the 500 was the EventSource's, which does not say so
  assert.deepEqual(requests.slice(2), Array(3).fill("/events?last_event_id=7"));
  assert.equal(source.readyState, 1);
});

test("after a 204 it stays away", async t => {
  const { requests, url } = await serve(t, [204]);
  const { source, errors } = open(t, url);
  await closed(source);
  assert.deepEqual([errors, requests.length], [[undefined, 204], 2]);
});

test("it gives up after so many attempts", async t => {
  const { requests, url } = await serve(t, [403]);
  const { source, errors } = open(t, url, { attempts: 2 });
  await closed(source);
  assert.deepEqual([errors, requests.length], [[undefined, 403, 403], 3]);
});
