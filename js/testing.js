// The real gateway for a test in Node: Playwright, Vitest, node:test.
//
//     import { startGateway } from "ssegateway/testing";
//     const gateway = await startGateway({ answer: { groups: ["news"] } });
//     ...                                        // open `${gateway.url}/events` in a page
//     await gateway.send({ group: "news", event: { data: "It works" } });
//     await gateway.stop();

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

const BINARY = fileURLToPath(new URL("bin/ssegateway", import.meta.url));
const PATIENCE_MS = 10_000;

/**
 * Starts a gateway on a free port, with a backend that records its callbacks in `callbacks`.
 *
 * `answer`: what that backend answers to a connect, such as `{ groups: ["news"] }`, a status that rejects, or a function
 * from the callback to one of these; or the callback URL of your application, which then decides.
 * `environment`: variables of the gateway. `binary`: another one than SSEGATEWAY names, or the package brings.
 */
export async function startGateway({ answer = {}, environment = {}, binary = process.env.SSEGATEWAY ?? BINARY } = {}) {
  const callbacks = [];
  const backend = createServer((request, response) => reply(request, response, answer, callbacks));
  const isRecorded = typeof answer !== "string";
  if (isRecorded) await listen(backend);
  const callbackUrl = isRecorded ? `http://127.0.0.1:${backend.address().port}/` : answer;
  try {
    const { child, port, log } = await launch(binary, { CALLBACK_URL: callbackUrl, ...environment });
    const url = `http://127.0.0.1:${port}`;
    const stop = async () => {
      if (child.exitCode === null) {
        child.kill();
        await once(child, "exit");
      }
      backend.close();
      return child.exitCode;
    };
    return { url, callbacks, log, send: message => send(url, environment.INTERNAL_TOKEN, message), stop };
  } catch (error) {
    backend.close();
    throw error;
  }
}

async function launch(binary, environment) {
  for (let attempt = 1; ; attempt++) {
    // A port that is free now; if somebody else takes it before the gateway does, the next one.
    const reserved = await listen(createServer());
    const { port } = reserved.address();
    await new Promise(closed => reserved.close(closed));
    const variables = { LISTEN_ADDRESS: "127.0.0.1", PORT: port, LOG_LEVEL: "debug", ...environment };
    const child = spawn(binary, { env: variables, stdio: ["ignore", "ignore", "pipe"] });
    let text = "";
    child.stderr.setEncoding("utf8").on("data", piece => (text += piece));
    const failure = new Promise((_, reject) => child.on("error", reject));
    failure.catch(() => {}); // it may come when nobody waits for it any more
    if (await Promise.race([isReady(child, variables.PORT), failure])) return { child, port: variables.PORT, log: () => text };
    child.kill();
    if (attempt === 5 || !text.includes("in use")) throw new Error(`the gateway does not get ready:\n${text}`);
  }
}

async function isReady(child, port) {
  for (const deadline = Date.now() + PATIENCE_MS; Date.now() < deadline && child.exitCode === null; ) {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null);
    if (answer?.ok) return true;
    await new Promise(resolve => setTimeout(resolve, 10));
  }
  return false;
}

/** One send: `{ group, event: { name, data } }` or `{ token, ... }`. Resolves to the gateway's answer. */
async function send(url, token, message) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${url}/internal/send`, { method: "POST", headers, body: JSON.stringify(message) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status}: ${body.error}`);
  return body;
}

async function listen(server) {
  await once(server.listen(0, "127.0.0.1"), "listening");
  return server;
}

async function reply(request, response, answer, callbacks) {
  const call = JSON.parse(Buffer.concat(await request.toArray()).toString());
  callbacks.push(call);
  const decided = call.action === "connect" ? await (typeof answer === "function" ? answer(call) : answer) : {};
  const isStatus = typeof decided === "number";
  response.writeHead(isStatus ? decided : 200).end(isStatus ? "" : JSON.stringify(decided));
}
