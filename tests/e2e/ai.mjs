// The transport of useChat (npm: ai) and the SDK of OpenAI as clients; each prints what it reads, one JSON value per line:
//   node --input-type=module - ask|resume|openai URL < ai.mjs    in the directory where they are installed
import { DefaultChatTransport } from "ai";
import OpenAI from "openai";

const [what, url] = process.argv.slice(2);
const print = value => console.log(JSON.stringify(value));
const message = { id: "1", role: "user", parts: [{ type: "text", text: "Why?" }] };

async function* chunks() {
  if (what === "openai") {
    const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
    yield* await client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "Why?" }], stream: true });
    return;
  }
  const transport = new DefaultChatTransport({ api: url });
  const options = { chatId: "7", messages: [message], trigger: "submit-message" };
  const stream = await (what === "ask" ? transport.sendMessages(options) : transport.reconnectToStream(options));
  if (stream) yield* stream;
  else yield null;
}

for await (const chunk of chunks()) print(chunk);
print("end");
