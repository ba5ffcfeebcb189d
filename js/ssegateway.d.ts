/** Options of a `GatewaySource`. */
export interface GatewaySourceInit {
  /** Whether cookies go along to another origin. */
  withCredentials?: boolean;
  /** How many attempts may fail in a row; without an end by default. */
  attempts?: number;
  /** The first pause, in milliseconds; each one is up to twice as long as that before. Default: 1000. */
  pause?: number;
  /** The longest pause, in milliseconds. Default: 30000. */
  pauseMax?: number;
}

/** An attempt that has failed, or an interruption. */
export interface GatewayErrorEvent extends Event {
  /** The status of the answer, where it is known. After 204 the source is closed, and there is nothing to wait for. */
  readonly status?: number;
}

/** An `EventSource` that reopens after errors, and goes on where the page was. */
export declare class GatewaySource extends EventTarget {
  constructor(url: string | URL, options?: GatewaySourceInit);

  readonly url: string;
  /** CONNECTING (0), OPEN (1) or CLOSED (2), as that of an `EventSource`; CONNECTING during a pause. */
  readonly readyState: 0 | 1 | 2;

  onopen: ((this: GatewaySource, event: Event) => unknown) | null;
  onmessage: ((this: GatewaySource, event: MessageEvent<string>) => unknown) | null;
  onerror: ((this: GatewaySource, event: GatewayErrorEvent) => unknown) | null;

  addEventListener(
    type: "open",
    listener: (this: GatewaySource, event: Event) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: "error",
    listener: (this: GatewaySource, event: GatewayErrorEvent) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  /** Events of this name; those without one are called "message". */
  addEventListener(
    type: string,
    listener: (this: GatewaySource, event: MessageEvent<string>) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;

  close(): void;
}
