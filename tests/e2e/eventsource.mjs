// Opens an EventSource and prints its events, one JSON array per line:
//   node --input-type=module - URL NAME... < eventsource.mjs    in the directory where eventsource is installed
import { EventSource } from "eventsource";

const [url, ...names] = process.argv.slice(2);
const source = new EventSource(url);
const print = (...entry) => console.log(JSON.stringify(entry));

source.onopen = () => print("open");
source.onerror = ({ code }) => print("error", ["CONNECTING", "OPEN", "CLOSED"][source.readyState], ...(code ? [code] : []));
for (const name of ["message", ...names]) {
  source.addEventListener(name, ({ type, data, lastEventId }) => print(type, data, lastEventId));
}
