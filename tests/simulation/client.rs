//! Clients: each has one connection, a script to send, a way of reading, and a way of leaving.

use super::faults::Fault;
use super::kernel::Read;
use super::world::{Item, World};
use crate::oracle::exchange::Exchange;
use crate::oracle::millis;
use crate::oracle::requests::{self, Asked, NamedIn, PROBE_KINDS, REFUSED_KINDS, Serves};
use ssegateway::gateway::Listener;
use std::io::ErrorKind;
use std::rc::Rc;

/// Where clients that come back name their cursors.
const NAMED_IN: [NamedIn; 5] =
    [NamedIn::Header, NamedIn::Header, NamedIn::Query, NamedIn::HeaderBeforeQuery, NamedIn::QueryBehindEmptyHeader];

/// How a client reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    #[default]
    Eager,
    /// Reads that many bytes, then pauses for that many milliseconds.
    Slow { bytes: usize, pause: u64 },
    /// Stops reading after that many bytes.
    Stalls { after: usize },
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Departure {
    /// Waits for the gateway to end the connection.
    #[default]
    Never,
    /// Ends its side and keeps reading.
    HalfClose,
    Close,
    Reset,
    /// The host vanishes without a FIN or reset.
    Vanish,
}

/// By default it reads and never leaves by itself.
#[derive(Default)]
pub(super) struct Client {
    script: Vec<u8>,
    said: usize,
    /// The largest piece that it sends at once, and the longest pause between two pieces.
    piece: usize,
    pause: u64,
    reading: Reading,
    departure: Departure,
    /// The end of input comes with the last piece.
    ends_with_last: bool,
    /// A `Speak` or `Listen` is scheduled.
    speaking: bool,
    listening: bool,
    /// It has closed or vanished.
    gone: bool,
    vanished: bool,
    giving_up: bool,
}

/// The script of a client, under construction.
#[derive(Default)]
pub(super) struct Script {
    bytes: Vec<u8>,
    exchange: Exchange,
}

impl Script {
    fn add(&mut self, asked: &Asked) {
        self.exchange.ask(asked);
        self.bytes.extend_from_slice(&asked.bytes);
    }
}

impl World {
    /// A client connects.
    pub(super) fn spawn(&mut self) {
        let n = self.clients.len();
        let refused = self.strikes_client(Fault::Garbage);
        let kind = self.random.below(10);
        let is_stream = !refused && kind > 0;
        let listener = self.choose_listener(is_stream);
        let serves = Serves::on(listener, &self.settings);
        let mut script = Script::default();
        if refused {
            let before = self.random.below(3);
            self.write_probes(&mut script, before, serves);
            self.write_refused(&mut script, serves);
        } else if kind == 0 {
            // Sometimes more answers than the gateway buffers for a client that does not read.
            let many = self.random.chance(100);
            let count = if many { self.random.within(300, 3_000) } else { self.random.within(1, 8) };
            self.write_probes(&mut script, count, serves);
            self.write_last(&mut script, serves);
        } else {
            let before = if kind == 1 { self.random.within(1, 3) } else { 0 };
            self.write_probes(&mut script, before, serves);
            self.write_stream(n, &mut script, serves);
        }
        let whole = script.bytes.len();
        let stay = self.random.within(0, if is_stream { 15_000 } else { 3_000 });
        let (piece, pause) = if self.strikes_client(Fault::SlowHead) {
            (self.random.within(1, 20) as usize, 400)
        } else if self.strikes_client(Fault::Pieces) {
            (self.random.within(1, 100) as usize, 3)
        } else {
            (whole.max(1), 0)
        };
        let reading = if self.strikes_client(Fault::StalledReader) {
            Reading::Stalls { after: self.random.index(1_000) }
        } else if self.strikes_client(Fault::SlowReader) {
            Reading::Slow { bytes: self.random.within(1, 300) as usize, pause: self.random.within(1, 200) }
        } else {
            Reading::Eager
        };
        let mut ends_with_last = false;
        let (departure, stay) = if self.crowd_left > 0 {
            (Departure::Close, self.random.within(500, 1_500))
        } else if self.strikes_client(Fault::Reset) {
            (Departure::Reset, self.random.within(0, stay))
        } else if self.strikes_client(Fault::HalfClose) {
            (self.random.pick(&[Departure::HalfClose, Departure::Close]), self.random.pick(&[0, 1, 5, 50, 500, stay]))
        } else if self.strikes_client(Fault::DataWithFin) {
            ends_with_last = true;
            (Departure::HalfClose, 100_000)
        } else if self.strikes_client(Fault::DeadHost) {
            (Departure::Vanish, stay)
        } else {
            (self.random.pick(&[Departure::Never, Departure::Close, Departure::Close]), stay)
        };
        self.join(listener, script, Client { piece, pause, reading, departure, ends_with_last, ..Client::default() });
        if departure != Departure::Never {
            self.plan(stay, Item::Depart(n));
        }
    }

    fn write_stream(&mut self, n: usize, script: &mut Script, serves: Serves) {
        let declared = if self.random.chance(50) { self.random.index(200) } else { 0 };
        let (old, field) = (self.random.chance(100), self.random.pick(&[0, 0, 0, 1, 2]));
        let target = format!("/s/{n}?q=%zz");
        let returns = self.has_groups && self.random.chance(600);
        match returns.then(|| self.draw_cursor()).flatten() {
            Some(cursor) => {
                let named = self.random.pick(&NAMED_IN);
                script.add(&requests::resumed_stream(&target, &cursor, named, serves));
            }
            None => script.add(&requests::stream(&target, old, field, declared, serves)),
        }
        if self.strikes_client(Fault::ExcessInput) {
            let count = self.random.pick(&[1, 100, 8_192, 8_193, 20_000]);
            script.exchange.send_garbage(count);
            script.bytes.resize(script.bytes.len() + count, b'x');
        }
    }

    /// The cursor of a client that comes back; some are older than others, or none of ours.
    pub(super) fn draw_cursor(&mut self) -> Option<Rc<str>> {
        if self.oracle.cursors.is_empty() {
            return None;
        }
        let at = self.random.index(self.oracle.cursors.len());
        let cursor = self.oracle.cursors[at].clone();
        Some(match self.random.below(40) {
            // A position that there is not yet, and one of another epoch.
            0 => format!("{cursor}zzz").into(),
            1 => format!("1{cursor}").into(),
            2 => "garbage".into(),
            _ => cursor,
        })
    }

    fn write_probes(&mut self, script: &mut Script, count: u64, serves: Serves) {
        for _ in 0..count {
            script.add(&requests::probe(self.random.index(PROBE_KINDS), false, serves));
        }
    }

    /// Sometimes appends a request whose answer is the last one.
    fn write_last(&mut self, script: &mut Script, serves: Serves) {
        match self.random.below(8) {
            0 => script.add(&requests::report(None, serves)),
            1 => script.add(&requests::report(Some(self.random.pick(&[1, 2, 10_000])), serves)),
            2 | 3 => script.add(&requests::probe(self.random.index(PROBE_KINDS), true, serves)),
            _ => {}
        }
    }

    fn write_refused(&mut self, script: &mut Script, serves: Serves) {
        match self.random.below(20) {
            0 | 1 => script.add(&requests::long_head(&self.settings)),
            2 | 3 => script.add(&requests::long_body(&self.settings, self.random.index(80_000))),
            _ => script.add(&requests::refused(self.random.index(REFUSED_KINDS), serves)),
        }
    }

    fn strikes_client(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    fn choose_listener(&mut self, is_stream: bool) -> Listener {
        match self.settings.internal_listener && !is_stream && self.random.chance(500) {
            true => Listener::Internal,
            false => Listener::Public,
        }
    }

    /// Connects a client; its number is that of its connection.
    pub(super) fn join(&mut self, listener: Listener, script: Script, client: Client) -> usize {
        let small = self.strikes_client(Fault::SmallPipes);
        let input_max = if small { self.random.within(20, 2_000) } else { 200_000 };
        let output_max = if small { self.random.within(20, 4_000) } else { self.random.pick(&[80_000, 400_000]) };
        let n = self.kernel.connect(listener, input_max as usize, output_max as usize);
        let Script { bytes, exchange } = script;
        self.trace.note(self.clock, "connect", &[("client", n as u64), ("script", bytes.len() as u64)]);
        self.clients.push(Client { script: bytes, speaking: true, ..client });
        self.oracle.exchanges.push(exchange);
        let delay = self.random.below(3);
        self.plan(delay, Item::Speak(n));
        n
    }

    /// Extends a client's script.
    pub(super) fn prompt(&mut self, n: usize, bytes: &[u8]) {
        self.clients[n].script.extend_from_slice(bytes);
        if !std::mem::replace(&mut self.clients[n].speaking, true) {
            self.plan(0, Item::Speak(n));
        }
    }

    /// Whether a client can still be used to send.
    pub(super) fn is_usable(&self, n: usize) -> bool {
        let exchange = &self.oracle.exchanges[n];
        !self.clients[n].gone && !exchange.closed && !exchange.closing && self.kernel.sockets[n].error.is_none()
    }

    pub(super) fn speak(&mut self, n: usize) {
        let piece = self.random.within(1, self.clients[n].piece.max(1) as u64) as usize;
        let client = &mut self.clients[n];
        client.speaking = false;
        let rest = &client.script[client.said..];
        if client.gone || rest.is_empty() {
            return;
        }
        let piece = if client.pause == 0 { rest.len() } else { piece.min(rest.len()) };
        let count = self.kernel.arrive(n, &rest[..piece]);
        client.said += count;
        let pause = client.pause;
        if client.said < client.script.len() {
            client.speaking = true;
            let pause = if count == 0 { 20 } else { self.random.within(0, pause) };
            self.plan(pause, Item::Speak(n));
        } else if client.ends_with_last {
            self.kernel.end_input(n);
        }
    }

    /// Something was written to a client, or its connection ended.
    pub(super) fn after_write(&mut self, n: usize) {
        let (client, socket) = (&mut self.clients[n], &self.kernel.sockets[n]);
        if client.vanished {
            if !client.giving_up && socket.output > 0 {
                client.giving_up = true;
                let timeout = millis(self.settings.client_timeout);
                self.plan(timeout, Item::GiveUp(n));
            }
            return;
        }
        if client.gone {
            if socket.error.is_none() && socket.closed.is_none() {
                self.plan(1, Item::Reset(n));
            }
            return;
        }
        if !std::mem::replace(&mut client.listening, true) {
            let delay = self.random.below(3);
            self.plan(delay, Item::Listen(n));
        }
    }

    pub(super) fn listen(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.listening = false;
        if client.gone {
            return;
        }
        let (count, pause) = match &mut client.reading {
            Reading::Eager => (usize::MAX, 0),
            Reading::Slow { bytes, pause } => (*bytes, *pause),
            Reading::Stalls { after: 0 } => return,
            Reading::Stalls { after } => (*after, 0),
        };
        let read = self.kernel.take(n, count);
        let client = &mut self.clients[n];
        match read {
            Read::Bytes(taken) => {
                if let Reading::Stalls { after } = &mut client.reading {
                    *after -= taken;
                }
                self.trace.note(self.clock, "client reads", &[("client", n as u64), ("bytes", taken as u64)]);
                self.clients[n].listening = true;
                self.plan(pause, Item::Listen(n));
            }
            Read::Nothing => {}
            Read::End => {
                // Most close as soon as they see the end; others leave that to the gateway.
                if self.random.chance(800) || self.faults.ended() {
                    self.go(n, Departure::Close);
                }
            }
        }
    }

    pub(super) fn depart(&mut self, n: usize) {
        let departure = self.clients[n].departure;
        if !self.faults.ended() {
            self.go(n, departure);
        }
    }

    fn go(&mut self, n: usize, departure: Departure) {
        if self.clients[n].gone {
            return;
        }
        let kind = departure as u64;
        self.trace.note(self.clock, "client goes", &[("client", n as u64), ("how", kind)]);
        match departure {
            Departure::Never => {}
            Departure::HalfClose => self.kernel.end_input(n),
            Departure::Close => {
                self.clients[n].gone = true;
                if self.kernel.sockets[n].output > 0 {
                    // Closing with unread data resets.
                    self.break_off(n, ErrorKind::ConnectionReset);
                } else {
                    self.kernel.end_input(n);
                    self.kernel.sockets[n].deaf = true;
                }
            }
            Departure::Reset => {
                self.clients[n].gone = true;
                self.break_off(n, ErrorKind::ConnectionReset);
            }
            Departure::Vanish => {
                self.clients[n].gone = true;
                self.clients[n].vanished = true;
                self.after_write(n);
            }
        }
    }

    /// Faults are over: resumes reading, and sends the rest at once.
    pub(super) fn resume(&mut self, n: usize) {
        self.clients[n].reading = Reading::Eager;
        self.clients[n].pause = 0;
        self.after_write(n);
    }

    /// Leaves like a well-behaved client; for a vanished host the kernel gives up.
    pub(super) fn leave_politely(&mut self, n: usize) {
        if self.clients[n].vanished {
            return self.break_off(n, ErrorKind::TimedOut);
        }
        self.go(n, Departure::Close);
    }
}

impl Client {
    /// A client that sends pieces of at most that many bytes.
    pub(super) fn in_pieces(piece: usize, pause: u64) -> Self {
        Self { piece, pause, ..Self::default() }
    }
}
