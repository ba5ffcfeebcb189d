// An EventSource that does not give up. Firefox closes one for good when its connection is refused, every browser when a
// proxy answers with an error; this one reopens after a pause that doubles, and goes on where the page was.
//
//     import { GatewaySource } from "./ssegateway.js";
//     const events = new GatewaySource("/events/news");
//     events.addEventListener("greeting", event => console.log(event.data));
//
// It cannot see statuses: a stream that is refused, or over (204), is tried again, too. Call close() when a page is done,
// or say how many attempts may fail in a row: new GatewaySource(url, { attempts: 3 }).

export class GatewaySource extends EventTarget {
  #url; #options; #source; #timer; #failures = 0; #cursor = ""; #closed = false;
  #types = new Set(["message"]);
  onopen = null; onmessage = null; onerror = null;

  /** `pause` and `pauseMax`: milliseconds. */
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
    this.#source.close();
  }

  #open() {
    if (this.#cursor) this.#url.searchParams.set("last_event_id", this.#cursor);
    const { withCredentials, attempts, pause, pauseMax } = this.#options;
    const source = this.#source = new EventSource(this.#url, { withCredentials });
    source.onopen = () => {
      this.#failures = 0;
      this.#emit(new Event("open"));
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED && !this.#closed) {
        if (++this.#failures > attempts) this.#closed = true;
        else this.#timer = setTimeout(() => this.#open(), this.#pause(pause, pauseMax));
      }
      this.#emit(new Event("error"));
    };
    this.#types.forEach(type => this.#forward(type));
  }

  // Half of it by chance, so that not all pages return at once.
  #pause(least, most) {
    return Math.min(least * 2 ** (this.#failures - 1), most) * (0.5 + Math.random() / 2);
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
