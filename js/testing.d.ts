/** An event, as in a send. */
export interface GatewayEvent {
  data: string;
  name?: string;
  id?: string | number;
  /** Milliseconds. */
  retry?: number;
}

/** A callback of the gateway, as the backend gets it. (`start`, with START_CALLBACK=on, has nothing but its action.) */
export interface Callback {
  action: "connect" | "disconnect" | "start";
  token: string;
  request: {
    /** Path and query, as the client sent them. */
    url: string;
    /** The client's, with names in lower case. */
    headers: Record<string, string>;
    method?: "POST";
    body?: string;
  };
  /** Of a disconnect. */
  reason?: "client_closed" | "server_closed" | "error";
}

/** An answer to a connect that opens the stream. */
export interface Accept {
  event?: GatewayEvent;
  events?: GatewayEvent[];
  groups?: string[];
  since?: string;
  attach?: boolean;
  headers?: Record<string, string | string[]>;
  status?: 204;
  expires_in?: number;
  close?: boolean;
}

/** An answer to a connect; a number is the status of a rejection. */
export type Decision = Accept | number;

/** One send: to a stream, to a group, or to all streams in any of several groups. */
export type Message = ({ token: string; end?: never } | { group: string; end?: boolean } | { groups: string[]; end?: never }) & {
  event?: GatewayEvent;
  events?: GatewayEvent[];
  close?: boolean;
  transient?: boolean;
};

/** The answer to a send: of a token its `status`, of groups also `reached` and, if the event is kept, its `id`. */
export interface Sent {
  status: "ok" | "buffered";
  id?: string;
  reached?: boolean;
}

export interface GatewayOptions {
  /** How callbacks are answered: the URL of your application's callback, or, without an application, what it would answer. */
  answer?: string | Decision | ((call: Callback) => Decision | Promise<Decision>);
  /** Variables of the gateway. */
  environment?: Record<string, string>;
  /** Another one than SSEGATEWAY names, or the package brings. */
  binary?: string;
}

export interface LiveGateway {
  /** Its address, on a free port. */
  readonly url: string;
  /** The callbacks so far, where `answer` is no URL. */
  readonly callbacks: Callback[];
  /** Its log so far. */
  log(): string;
  /** One send. Rejects with the status and the reason if the gateway refuses it. */
  send(message: Message): Promise<Sent>;
  /** Drains it; resolves to its exit status, or null if a signal has ended it. */
  stop(): Promise<number | null>;
}

/** Starts the gateway on a free port, and resolves once it is ready. */
export function startGateway(options?: GatewayOptions): Promise<LiveGateway>;
