//! The measurements: each function starts a gateway of its own and returns rows of the report.

use super::backend::{Answers, Backend, Ledger, accept_plainly};
use super::common::requests::Payload;
use super::common::text::count;
use super::histogram::Histogram;
use super::load::Load;
use super::report::{Faults, Row, Unit, mebibytes, time};
use super::senders::Recipients;
use super::server::Server;
use super::stamp::{Tally, now};
use super::syscalls::Tracer;
use ssegateway::sys::Signals;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Streams to which events are sent at random.
pub(crate) const STREAMS: usize = 1000;
/// Streams for the cost of memory and heartbeats.
pub(crate) const MANY_STREAMS: usize = 10_000;
const STORM: usize = 5000;
/// Clients connecting at the same time.
pub(crate) const AT_ONCE: usize = 128;
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);
pub(crate) const WINDOW: Duration = Duration::from_secs(3);
/// Enough for twenty events beyond the 99.9th percentile.
const PACED_WINDOW: Duration = Duration::from_secs(10);
const EVENTS_PER_SECOND: f64 = 2000.0;
const ROUNDS: u32 = 5;
/// Seconds between heartbeats where they are measured, and where they would disturb.
const HEARTBEAT: u64 = 5;
pub(crate) const HEARTBEAT_RARE: u64 = 60;
pub(crate) const MOMENT: Duration = Duration::from_millis(500);
/// Disconnects that take longer than this since the last one count as lost.
const DISCONNECT_PATIENCE: Duration = Duration::from_secs(8);

/// What all measurements share.
pub(crate) struct Bench {
    pub program: PathBuf,
    /// The cores of the gateway and of the load, if there are two.
    pub cores: Option<(usize, usize)>,
    pub signals: Signals,
    /// Include the slow measurements: a slow backend, a whole minute of waiting.
    pub full: bool,
    /// Maximum streams, by the descriptor limit.
    pub streams_max: usize,
    /// Latencies at a steady rate, for the picture.
    pub latency: Histogram,
}

/// A gateway with its backend and its load.
pub(crate) struct Stage {
    pub load: Load,
    pub server: Server,
    backend: Backend,
}

impl Stage {
    fn start(bench: &Bench, heartbeat: u64) -> io::Result<Self> {
        Self::with_answers(bench, heartbeat, accept_plainly)
    }

    pub(crate) fn with_answers(bench: &Bench, heartbeat: u64, answers: Answers) -> io::Result<Self> {
        let backend = Backend::start(answers)?;
        let server = Server::start(&bench.program, backend.address, bench.cores.map(|(server, _)| server), heartbeat)?;
        let load = Load::new(server.address, &bench.signals, bench.cores.is_some())?;
        Ok(Self { load, server, backend })
    }

    pub(crate) fn open(&mut self, streams: usize) -> io::Result<()> {
        self.load.connect(streams, AT_ONCE)?;
        self.load.rest(MOMENT)
    }

    /// Opens the senders' connections; shortly before they send, as the gateway closes idle ones.
    pub(crate) fn start_senders(&mut self) -> io::Result<()> {
        let tokens = self.backend.ledger(|ledger| ledger.tokens.clone());
        self.load.start_senders(tokens.into_iter().map(Option::unwrap_or_default).collect())?;
        self.load.rest(MOMENT)
    }

    /// All clients and senders leave at once. Returns the time until the last disconnect callback, and how many were
    /// lost.
    fn leave(&mut self) -> io::Result<(Duration, u64)> {
        let start = now();
        let left = self.load.clients.leave() as u64;
        self.load.senders.stop();
        let (mut seen, mut moved) = (0, start);
        while seen < left && now() - moved < DISCONNECT_PATIENCE.as_nanos() as u64 {
            self.load.rest(Duration::from_millis(5))?;
            let disconnects = self.backend.ledger(|ledger| ledger.disconnects);
            if disconnects != seen {
                (seen, moved) = (disconnects, now());
            }
        }
        // A surplus callback would arrive about now.
        self.load.rest(MOMENT)?;
        let last = self.backend.ledger(|ledger| ledger.last_disconnect);
        Ok((Duration::from_nanos(last.saturating_sub(start)), left.saturating_sub(seen)))
    }

    fn duplicated_callbacks(&self) -> u64 {
        self.backend.ledger(|ledger: &mut Ledger| ledger.duplicated)
    }
}

/// The result of sending for some time.
pub(crate) struct Sent {
    pub tally: Tally,
    latency: Histogram,
    processor: Duration,
    /// Excludes the wait for the last events.
    time: Duration,
}

impl Sent {
    pub(crate) fn processor_each(&self) -> f64 {
        micro(self.processor) / self.tally.received.max(1) as f64
    }

    pub(crate) fn details(&self) -> String {
        let rate = self.tally.received as f64 / self.time.as_secs_f64();
        let [half, most] = [0.5, 0.99].map(|quantile| time(self.latency.quantile(quantile)));
        format!("{} events/s; latency p50 {half}, p99 {most}", count(rate as u64))
    }
}

pub(crate) fn micro(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

pub(crate) fn send(stage: &mut Stage, window: Duration, recipients: &mut Recipients) -> io::Result<Sent> {
    let start = now();
    let before = stage.server.processor_time()?;
    stage.load.send_for(window, recipients)?;
    let sending = Duration::from_nanos(now() - start);
    stage.load.drain(&mut Recipients::nobody())?;
    let processor = stage.server.processor_time()?.saturating_sub(before);
    let (tally, latency) = stage.load.take_tally();
    Ok(Sent { tally, latency, processor, time: sending })
}

/// CPU per event with one, 16 and 32 requests in flight, with quoted JSON, and latency at a steady rate.
pub(crate) fn sending(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let mut stage = Stage::start(bench, HEARTBEAT_RARE)?;
    let streams = STREAMS.min(bench.streams_max);
    stage.open(streams)?;
    stage.start_senders()?;
    let mut rows = Vec::new();
    for (name, payload, depth) in [
        ("CPU per event, request by request", Payload::Plain, 1),
        ("CPU per event, 16 pipelined", Payload::Plain, 16),
        ("CPU per event, 32 pipelined", Payload::Plain, 32),
        ("CPU per event, 1 kB of quoted JSON", Payload::Json, 1),
    ] {
        stage.load.senders.set_payload(payload, depth);
        let mut recipients = Recipients::random(streams, None);
        let warm_up = send(&mut stage, WARM_UP, &mut recipients)?;
        let sent = send(&mut stage, WINDOW, &mut recipients)?;
        let faults = Faults::of(warm_up.tally).and(sent.tally);
        rows.push(Row::new(name, sent.processor_each(), Unit::Micro).details(sent.details()).faults(faults));
    }
    stage.load.senders.set_payload(Payload::Plain, 1);
    send(&mut stage, WARM_UP, &mut Recipients::random(streams, Some(EVENTS_PER_SECOND)))?;
    let sent = send(&mut stage, PACED_WINDOW, &mut Recipients::random(streams, Some(EVENTS_PER_SECOND)))?;
    bench.latency.add(&sent.latency);
    let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(|quantile| sent.latency.quantile(quantile));
    let cpu = format!("CPU per event {:.1} µs", sent.processor_each());
    let tail = format!("p99.9 {}, longest {}", time(nearly_all), time(sent.latency.max()));
    let faults = Faults::of(sent.tally);
    rows.push(Row::new("latency at 2,000 events/s, p50", micro(half), Unit::Micro).details(cpu).faults(faults));
    rows.push(Row::new("latency at 2,000 events/s, p99", micro(most), Unit::Micro).details(tail).faults(faults));
    Ok(rows)
}

/// Memory, heartbeats and fan-out with many streams, and the memory left after they have gone.
pub(crate) fn holding(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let mut stage = Stage::start(bench, HEARTBEAT)?;
    let streams = MANY_STREAMS.min(bench.streams_max);
    let each = format!("{} streams", count(streams as u64));
    stage.load.rest(MOMENT)?;
    let before = stage.server.memory()?;
    let private = format!("of which private {}", mebibytes(before.private as f64));
    let mut rows = vec![Row::new("memory with no client", before.resident as f64, Unit::Mebibytes).details(private)];

    stage.open(streams)?;
    let (processor, heartbeats) = (stage.server.processor_time()?, stage.load.clients.heartbeats);
    stage.load.rest(Duration::from_secs(2 * HEARTBEAT))?;
    let processor = stage.server.processor_time()?.saturating_sub(processor);
    let heartbeats = stage.load.clients.heartbeats - heartbeats;
    let held = stage.server.memory()?;

    stage.start_senders()?;
    let name = format!("CPU per delivery, one to each of {each}, 16 pipelined");
    let fanout = fan_out(&mut stage, streams)?;
    let tally = fanout.tally;
    let details = format!("last delivery after {}; {}", time(fanout.time / ROUNDS), fanout.details());
    rows.push(Row::new(&name, fanout.processor_each(), Unit::Micro).details(details).faults(Faults::of(tally)));

    let (_, missing) = stage.leave()?;
    let lost = missing + stage.load.clients.failed;
    let faults = Faults { lost, duplicated: stage.duplicated_callbacks(), reordered: 0 };
    let per_heartbeat = micro(processor) / heartbeats.max(1) as f64;
    let details = format!("{} in {} s", count(heartbeats), 2 * HEARTBEAT);
    rows.push(Row::new(&format!("CPU per heartbeat, {each}"), per_heartbeat, Unit::Micro).details(details));
    let per_stream = held.resident.saturating_sub(before.resident) as f64 / streams as f64;
    let details = format!("{} in total; a browser's request, 15 header fields", mebibytes(held.resident as f64));
    let name = format!("memory per idle stream, {each}");
    rows.push(Row::new(&name, per_stream / 1024.0, Unit::Kibibytes).details(details).faults(faults));

    let wait = Duration::from_secs(if bench.full { 60 } else { 12 });
    stage.load.rest(wait)?;
    let after = stage.server.memory()?.resident as f64 - before.resident as f64;
    let name = format!("memory {} s after all have left, above the start", wait.as_secs());
    rows.push(Row::new(&name, after, Unit::Mebibytes));
    Ok(rows)
}

fn fan_out(stage: &mut Stage, streams: usize) -> io::Result<Sent> {
    stage.load.senders.set_payload(Payload::Plain, 16);
    let mut all = Sent {
        tally: Tally::default(),
        latency: Histogram::default(),
        processor: Duration::ZERO,
        time: Duration::ZERO,
    };
    for _ in 0..ROUNDS {
        let start = now();
        let before = stage.server.processor_time()?;
        stage.load.drain(&mut Recipients::everybody(streams))?;
        all.processor += stage.server.processor_time()?.saturating_sub(before);
        all.time += Duration::from_nanos(stage.load.clients.last_event.saturating_sub(start));
        let (tally, latency) = stage.load.take_tally();
        all.tally.add(tally);
        all.latency.add(&latency);
        stage.load.rest(Duration::from_millis(200))?;
    }
    Ok(all)
}

/// Many clients connect, some at a time, to a slow backend; then all leave.
pub(crate) fn connecting(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let delays: &[u64] = if bench.full { &[20, 200] } else { &[20] };
    let mut rows = Vec::new();
    for delay in delays {
        storm(bench, Duration::from_millis(*delay), &mut rows)?;
    }
    Ok(rows)
}

fn storm(bench: &Bench, delay: Duration, rows: &mut Vec<Row>) -> io::Result<()> {
    let mut stage = Stage::start(bench, HEARTBEAT_RARE)?;
    let clients = STORM.min(bench.streams_max);
    stage.backend.set_delay(delay);
    stage.load.rest(MOMENT)?;
    let before = stage.server.processor_time()?;
    let took = stage.load.connect(clients, AT_ONCE)?;
    let processor = micro(stage.server.processor_time()?.saturating_sub(before));
    let failed = stage.load.clients.failed;
    let connects = stage.backend.ledger(|ledger| ledger.connects);
    let missing = (clients as u64).saturating_sub(connects);
    let faults = Faults { lost: failed.max(missing), duplicated: stage.duplicated_callbacks(), reordered: 0 };
    let latency = &stage.load.clients.connect_latency;
    let [half, most] = [0.5, 0.99].map(|quantile| time(latency.quantile(quantile)));
    let peak = mebibytes(stage.server.memory_peak()? as f64);
    let name = format!("{} connects, {AT_ONCE} at a time, backend takes {}", count(clients as u64), time(delay));
    let details = format!("p50 {half}, p99 {most}; memory {peak} at most");
    rows.push(Row::new(&name, took.as_secs_f64(), Unit::Seconds).details(details).faults(faults));
    rows.push(Row::new("CPU per connect with its callback", processor / clients as f64, Unit::Micro));

    stage.load.rest(MOMENT)?;
    let before = stage.server.processor_time()?;
    let (last, missing) = stage.leave()?;
    let processor = micro(stage.server.processor_time()?.saturating_sub(before)) / clients as f64;
    let faults = Faults { lost: missing, duplicated: stage.duplicated_callbacks(), reordered: 0 };
    let least = time(delay * (clients / AT_ONCE) as u32);
    let details = format!("CPU per disconnect {processor:.0} µs; {AT_ONCE} at a time take {least} at least");
    let name = "then all leave: the last disconnect callback after";
    rows.push(Row::new(name, last.as_secs_f64(), Unit::Seconds).details(details).faults(faults));
    Ok(())
}

/// System calls per event, as strace counts them while events are sent.
pub(crate) fn system_calls(bench: &mut Bench) -> io::Result<String> {
    let mut stage = Stage::start(bench, HEARTBEAT_RARE)?;
    let streams = STREAMS.min(bench.streams_max);
    stage.open(streams)?;
    // Wait until the callback threads have ended, so that none is traced.
    stage.load.rest(Duration::from_secs(5))?;
    stage.start_senders()?;
    let mut counts = Vec::new();
    for depth in [1, 16, 32] {
        stage.load.senders.set_payload(Payload::Plain, depth);
        let mut recipients = Recipients::random(streams, None);
        let tracer = Tracer::attach(stage.server.pid())?;
        stage.load.rest(MOMENT)?;
        let sent = send(&mut stage, WINDOW, &mut recipients)?;
        counts.push((depth, sent.tally.received, tracer.detach()?));
    }
    Ok(super::syscalls::table(&counts))
}
