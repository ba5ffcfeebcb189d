// What the declarations allow, and what they refuse. It is type-checked, and never run.
import { GatewaySource } from "ssegateway";
import { startGateway, type Callback, type LiveGateway, type Sent } from "ssegateway/testing";

const gateway: LiveGateway = await startGateway({ answer: { groups: ["news"], event: { data: "welcome" } } });
await startGateway();
await startGateway({ answer: 403 });
await startGateway({ answer: "http://127.0.0.1:8000/callback", environment: { INTERNAL_TOKEN: "secret" } });
await startGateway({ answer: call => (call.request.headers.cookie ? { since: "start", attach: true } : 401) });
await startGateway({ answer: async (call: Callback) => ({ expires_in: call.token.length }) });
// @ts-expect-error: an array of names
await startGateway({ answer: { groups: "news" } });

const sent: Sent = await gateway.send({ group: "news", event: { name: "greeting", data: "Hello" } });
const cursor: string | undefined = sent.id;
await gateway.send({ token: gateway.callbacks[0]!.token, close: true });
await gateway.send({ groups: ["news", cursor ?? "other"], events: [{ data: "one" }, { data: "two" }] });
await gateway.send({ group: "news", end: true });
// @ts-expect-error: to nobody
await gateway.send({ event: { data: "Hello" } });
// @ts-expect-error: data is a text
await gateway.send({ group: "news", event: { data: { price: 3 } } });
// @ts-expect-error: only one group can end
await gateway.send({ groups: ["news"], end: true });
const status: number | null = await gateway.stop();

const events = new GatewaySource("/events/news", { withCredentials: true, attempts: 3 });
events.addEventListener("greeting", event => console.log(event.data.toUpperCase(), event.lastEventId));
events.addEventListener("open", () => console.log(events.url, status), { once: true });
events.onmessage = event => console.log(JSON.parse(event.data));
events.onerror = ({ status }) => events.readyState === 2 && console.log(status === 204 ? "over" : "given up");
events.close();
// @ts-expect-error: in milliseconds
new GatewaySource("/events/news", { pause: "1s" });
