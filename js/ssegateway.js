// An EventSource that does not give up. Firefox closes one for good when its connection is refused, every browser when a
// proxy answers with an error; this one reopens after a pause that doubles, and goes on where the page was.
//
//     import { GatewaySource } from "./ssegateway.js";
//     const events = new GatewaySource("/events/news");
//     events.addEventListener("greeting", event => console.log(event.data));
//
// An EventSource does not say why it was closed. So behind each pause a fetch of the same URL asks first: only if that finds
// a stream, which it aborts, an EventSource opens it. After a 204 there is nothing to wait for, and this one closes, too;
// after any other status it asks again, as long as `attempts` allows: new GatewaySource(url, { attempts: 3 }).

export class GatewaySource extends EventTarget {
  #url; #options; #source; #timer; #failures = 0; #cursor = ""; #closed = false; #asking;
  #types = new Set(["message"]);
  onopen = null; onmessage = null; onerror = null;

  /** `attempts`: how many may fail in a row. `pause` and `pauseMax`: milliseconds. */
  constructor(url, { withCredentials = false, attempts = Infinity, pause = 1000, pauseMax = 30000 } = {}) {
    super();
    this.#url = new URL(url, globalThis.location?.href);
    this.#options = { withCredentials, attempts, pause, pauseMax };
    this.#open();
  }

  get url() { return this.#url.href; }

  /** As that of an EventSource; CONNECTING (0) during a pause. */
  get readyState() { return this.#closed ? 2 : this.#source.readyState % 2; }

  addEventListener(type, ...rest) {
    super.addEventListener(type, ...rest);
    if (type !== "open" && type !== "error" && !this.#types.has(type)) {
      this.#types.add(type);
      this.#forward(type);
    }
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#source.close();
  }

  #open() {
    const source = this.#source = new EventSource(this.#url, { withCredentials: this.#options.withCredentials });
    source.onopen = () => {
      this.#failures = 0;
      this.#emit(new Event("open"));
    };
    source.onerror = () => source.readyState === EventSource.CLOSED ? this.#failed() : this.#emit(new Event("error"));
    this.#types.forEach(type => this.#forward(type));
  }

  // `status`: that of the answer, where it is known.
  #failed(status) {
    const { attempts, pause, pauseMax } = this.#options;
    if (status === 204 || ++this.#failures > attempts) this.close();
    // Half of it by chance, so that not all pages return at once.
    const milliseconds = Math.min(pause * 2 ** (this.#failures - 1), pauseMax) * (0.5 + Math.random() / 2);
    if (!this.#closed) this.#timer = setTimeout(() => this.#ask(), milliseconds);
    this.#emit(Object.assign(new Event("error"), { status }));
  }

  async #ask() {
    if (this.#cursor) this.#url.searchParams.set("last_event_id", this.#cursor);
    const asking = this.#asking = new AbortController();
    const answer = await fetch(this.#url, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      credentials: this.#options.withCredentials ? "include" : "same-origin",
      signal: asking.signal,
    }).catch(() => null);
    asking.abort();
    if (this.#closed) return;
    if (answer?.status === 200) this.#open();
    else this.#failed(answer?.status);
  }

  #forward(type) {
    this.#source.addEventListener(type, ({ data, lastEventId, origin }) => {
      this.#cursor = lastEventId;
      this.#emit(new MessageEvent(type, { data, lastEventId, origin }));
    });
  }

  #emit(event) {
    this["on" + event.type]?.call(this, event);
    this.dispatchEvent(event);
  }
}
