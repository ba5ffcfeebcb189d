//! The measurements of groups: sends to small and large ones, streams beside them, replay, members that do not read.

use super::common::requests::{Payload, push_send_to};
use super::common::text::count;
use super::report::{Faults, Row, Unit, mebibytes, time};
use super::rows::{AT_ONCE, Bench, HEARTBEAT_RARE, MANY_STREAMS, MOMENT, STREAMS, Stage, WARM_UP, WINDOW, micro, send};
use super::senders::{GROUPS, Recipients, TOKENS};
use super::stamp::now;
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The group of nearly all streams, and what their stamps say.
const ALL: &str = "all";
const ALL_CHANNEL: u32 = u32::MAX;
const FAN_OUTS: usize = 5;
/// Events a second to the stream that is in no group.
const BESIDE_PER_SECOND: f64 = 1000.0;
/// Clients that come back are in so many groups each, which they share with those of the same number modulo `CLASSES`.
const GROUPS_EACH: usize = 5;
const CLASSES: usize = 100;
/// What is kept for each of them.
const EVENTS_EACH: usize = 20;
/// Members that do not read, and what is sent to them.
const STUCK: usize = 1000;
const LARGE_EVENT: usize = 100_000;
const LARGE_EVENTS: usize = 1000;

fn own_group(stream: usize) -> String {
    json!({"groups": [format!("g{stream}")]}).to_string()
}

/// All streams in one group, but for the first.
fn all_but_one(stream: usize) -> String {
    let groups = if stream == 0 { json!({}) } else { json!({"groups": [ALL]}) };
    groups.to_string()
}

fn channel_of_all(stream: usize) -> u32 {
    if stream == 0 { 0 } else { ALL_CHANNEL }
}

fn class_group(class: usize, group: usize) -> String {
    format!("c{class}-{group}")
}

fn groups_of_class(stream: usize) -> String {
    let groups: Vec<String> = (0..GROUPS_EACH).map(|group| class_group(stream % CLASSES, group)).collect();
    json!({ "groups": groups }).to_string()
}

fn class_channel(class: usize) -> u32 {
    ALL_CHANNEL - 1 - class as u32
}

fn channel_of_class(stream: usize) -> u32 {
    class_channel(stream % CLASSES)
}

pub(crate) fn groups(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let mut rows = small_groups(bench)?;
    rows.extend(large_group(bench)?);
    rows.extend(catching_up(bench)?);
    rows.push(stuck_members(bench)?);
    Ok(rows)
}

/// CPU per event of a group with one member, beside that of a token.
fn small_groups(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let streams = STREAMS.min(bench.streams_max);
    let mut rows = Vec::new();
    for (name, kind) in [("a token", TOKENS), ("a group of one", GROUPS)] {
        let mut stage = Stage::with_answers(bench, HEARTBEAT_RARE, own_group)?;
        stage.open(streams)?;
        if kind == TOKENS {
            stage.start_senders()?;
        } else {
            stage.load.start_senders_to(kind, (0..streams).map(|stream| format!("g{stream}")).collect())?;
            stage.load.rest(MOMENT)?;
        }
        stage.load.senders.set_payload(Payload::Plain, 16);
        let mut recipients = Recipients::random(streams, None);
        let warm_up = send(&mut stage, WARM_UP, &mut recipients)?;
        let sent = send(&mut stage, WINDOW, &mut recipients)?;
        let faults = Faults::of(warm_up.tally).and(sent.tally);
        let name = format!("CPU per event to {name}, streams in a group each, 16 pipelined");
        rows.push(Row::new(&name, sent.processor_each(), Unit::Micro).details(sent.details()).faults(faults));
    }
    Ok(rows)
}

/// CPU per delivery of a send to a large group, and the latency of a stream that is not in it.
fn large_group(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let streams = MANY_STREAMS.min(bench.streams_max);
    let mut stage = Stage::with_answers(bench, HEARTBEAT_RARE, all_but_one)?;
    stage.load.clients.channels = Some(channel_of_all);
    stage.load.clients.timed = Some(0);
    stage.load.senders.set_payload(Payload::Plain, 1);
    stage.open(streams)?;
    stage.start_senders()?;
    // What is measured is the wait in the gateway, not in the load.
    stage.load.set_batch(8);

    let (mut processor, mut last) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..FAN_OUTS {
        let (start, before) = (now(), stage.server.processor_time()?);
        stage.load.senders.send_to_group(ALL, ALL_CHANNEL, &mut stage.load.clients)?;
        stage.load.drain(&mut Recipients::nobody())?;
        processor += stage.server.processor_time()?.saturating_sub(before);
        last += Duration::from_nanos(stage.load.clients.last_event.saturating_sub(start));
        stage.load.rest(MOMENT)?;
    }
    let (tally, _) = stage.load.take_tally();
    let name = format!("CPU per delivery, one send to a group of {}", count(streams as u64));
    let each = micro(processor) / tally.received.max(1) as f64;
    let details = format!("last delivery after {}", time(last / FAN_OUTS as u32));
    let mut rows = vec![Row::new(&name, each, Unit::Micro).details(details).faults(Faults::of(tally))];

    for (when, is_busy) in [("nothing else happens", false), ("sends go to the group", true)] {
        let mut recipients = Recipients::random(1, Some(BESIDE_PER_SECOND));
        let until = now() + WINDOW.as_nanos() as u64;
        while now() < until {
            stage.load.send_for(Duration::from_micros(100), &mut recipients)?;
            if is_busy && stage.load.clients.outstanding() < streams as u64 / 20 {
                stage.load.senders.send_to_group(ALL, ALL_CHANNEL, &mut stage.load.clients)?;
            }
        }
        stage.load.drain(&mut Recipients::nobody())?;
        let (tally, latency) = stage.load.take_tally();
        let [half, most] = [0.5, 0.99].map(|quantile| latency.quantile(quantile));
        let name = format!("latency of a stream outside of it while {when}, p99");
        let details = format!("p50 {}, longest {}", time(half), time(latency.max()));
        rows.push(Row::new(&name, micro(most), Unit::Micro).details(details).faults(Faults::of(tally)));
    }
    Ok(rows)
}

/// CPU of a replay, and how evenly clients get theirs.
fn catching_up(bench: &mut Bench) -> io::Result<Vec<Row>> {
    let clients = MANY_STREAMS.min(bench.streams_max);
    let mut processor = Vec::new();
    let mut rows = Vec::new();
    for events in [0, EVENTS_EACH] {
        let mut stage = Stage::with_answers(bench, HEARTBEAT_RARE, groups_of_class)?;
        let cursor = cursor(stage.server.address)?;
        stage.load.senders.set_payload(Payload::Plain, 1);
        stage.load.start_senders_to(GROUPS, Vec::new())?;
        stage.load.rest(MOMENT)?;
        stage.load.clients.channels = Some(channel_of_class);
        for number in 0..events {
            for class in 0..CLASSES {
                let group = class_group(class, number % GROUPS_EACH);
                let number = number as u32;
                stage.load.senders.send_numbered(&group, class_channel(class), number)?;
            }
            stage.load.drain(&mut Recipients::nobody())?;
        }
        stage.load.clients.cursor = Some(cursor);
        stage.load.clients.behind = events as u32;
        let before = stage.server.processor_time()?;
        stage.load.connect(clients, AT_ONCE)?;
        stage.load.rest(MOMENT)?;
        processor.push(micro(stage.server.processor_time()?.saturating_sub(before)));
        stage.load.clients.expect(events as u32);
        let (tally, _) = stage.load.take_tally();
        if events > 0 {
            let latency = &stage.load.clients.catch_up_latency;
            let [mean, longest] = [latency.mean(), latency.max()].map(time);
            let beyond = (processor[1] - processor[0]) / tally.received.max(1) as f64;
            let name = format!(
                "CPU per replayed event, {} clients with {GROUPS_EACH} groups and {events} events each",
                count(clients as u64)
            );
            let details = format!("connect to last event: mean {mean}, longest {longest}");
            rows.push(Row::new(&name, beyond, Unit::Micro).details(details).faults(Faults::of(tally)));
        }
    }
    Ok(rows)
}

/// Memory that members take which do not read.
fn stuck_members(bench: &mut Bench) -> io::Result<Row> {
    let streams = STUCK.min(bench.streams_max);
    let mut stage = Stage::with_answers(bench, HEARTBEAT_RARE, |_| json!({"groups": [ALL]}).to_string())?;
    stage.open(streams)?;
    let before = stage.server.memory()?.resident;
    let mut sender = BufReader::new(TcpStream::connect(stage.server.address)?);
    let data = vec![b'x'; LARGE_EVENT];
    let mut request = Vec::new();
    push_send_to(&mut request, "group", ALL, &data);
    for _ in 0..LARGE_EVENTS {
        sender.get_mut().write_all(&request)?;
        skip_answer(&mut sender)?;
    }
    let peak = stage.server.memory_peak()?.saturating_sub(before);
    let now = stage.server.memory()?.resident.saturating_sub(before);
    let name =
        format!("memory that {} members take which do not read, 100 MB sent to their group", count(streams as u64));
    Ok(Row::new(&name, peak as f64, Unit::Mebibytes).details(format!("{} at the end", mebibytes(now as f64))))
}

/// The newest cursor.
fn cursor(server: SocketAddr) -> io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(server)?);
    stream.get_mut().write_all(b"GET /internal/cursor HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let value: serde_json::Value = serde_json::from_str(body)?;
    value["cursor"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other("no cursor"))
}

/// Reads the answer to a send.
fn skip_answer(sender: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if sender.read_line(&mut line)? == 0 {
            return Err(io::Error::other("the gateway closed a sender's connection"));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    sender.read_exact(&mut vec![0; length])
}
