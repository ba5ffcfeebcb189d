//! Operations, decoded from the fuzzer's bytes.

use crate::oracle::callbacks::{FLAWED_KINDS, Reply};
use crate::oracle::entries::{Grant, Since};
use crate::oracle::groups::GROUPS;
use crate::oracle::requests::{self, Asked, NamedIn, REFUSED_KINDS, Serves};
use crate::oracle::sends::{Event, Form, INVALID_KINDS};
use arbitrary::{Result, Unstructured};
use ssegateway::gateway::{ConnectFailure, Cors, Settings};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// Small limits, so that they are reached; and whether there are groups.
pub fn settings(input: &mut Unstructured<'_>) -> Result<(Settings, bool)> {
    let [sizes, times, manner, pending]: [u8; 4] = input.arbitrary()?;
    let bit = |byte: u8, at: u8| byte >> at & 1 == 1;
    let seconds = |long: bool, a: u64, b: u64| Duration::from_secs(if long { b } else { a });
    let has_groups = bit(sizes, 6);
    let mut settings = Settings {
        callback_configured: manner & 0xf != 0xf,
        connect_queue: seconds(bit(times, 0), 2, 30),
        callback_concurrency: usize::from(sizes & 3) + 1,
        connect_failure: if bit(manner, 4) { ConnectFailure::Retry } else { ConnectFailure::Status },
        heartbeat_interval: seconds(bit(times, 1), 15, 1),
        reconnect_delay_ms: bit(manner, 5).then_some(1000),
        cors: if bit(manner, 6) { Cors::Any } else { Cors::Off },
        internal_listener: bit(manner, 7),
        streams_max: if bit(sizes, 2) { 64 } else { 2 },
        head_bytes_max: if bit(sizes, 3) { 16 * 1024 } else { 400 },
        body_bytes_max: if bit(sizes, 4) { 4096 } else { 512 },
        // From a wide range, so that a backlog of exactly that size occurs.
        pending_bytes_max: if bit(sizes, 5) { 100_000 } else { 45 + usize::from(pending) },
        keepalive_timeout: seconds(bit(times, 2), 75, 4),
        shutdown_delay: seconds(bit(times, 3), 0, 3),
        instance: "fuzzed".to_owned(),
        log_query: bit(times, 4),
        history_age: Duration::from_secs([300, 300, 2, 0][usize::from(sizes >> 7) * 2 + usize::from(times >> 7)]),
        history_events: [1000, 1, 3, 10][usize::from(times >> 5 & 3)],
        history_bytes: [1 << 20, 1 << 20, 1500, 4000][usize::from(pending & 3)],
        ..Settings::default()
    };
    if has_groups {
        // Not to be reached: when a stream that lags has ended, and what is queued for it alone, is not known outside.
        (settings.streams_max, settings.pending_bytes_max) = (1000, 1 << 20);
    }
    Ok((settings, has_groups))
}

pub fn millis(input: &mut Unstructured<'_>) -> Result<u64> {
    let base = *input.choose(&[0, 1, 990, 2000, 4000, 5000, 6000, 10_000, 15_000, 30_000, 75_000, 200_000])?;
    Ok(base + u64::from(input.arbitrary::<u8>()? & 31))
}

pub enum Request {
    Stream { old: bool, field: usize, declared: usize },
    /// The stream of a client that comes back with one of the last cursors.
    Resume { cursor: u8, named: NamedIn },
    Send(Send),
    Probe { kind: usize, close: bool },
    Report { limit: Option<usize> },
    Refused { kind: usize },
}

impl Request {
    /// `events`: the number so far, which makes every event unique.
    pub fn read(input: &mut Unstructured<'_>, events: &mut u32) -> Result<Request> {
        Ok(match input.int_in_range(0..=15_u8)? {
            0..=5 => Request::Stream { old: !input.ratio(3, 4)?, field: 2, declared: 0 },
            6 => Request::Stream { old: false, field: 0, declared: input.arbitrary::<u8>()?.into() },
            7..=9 => Request::Send(Send::read(input, events)?),
            10 => Request::Probe { kind: usize::from(input.arbitrary::<bool>()?), close: input.arbitrary()? },
            kind @ 11..=14 => Request::Probe { kind: usize::from(kind) - 9, close: false },
            _ => match input.arbitrary()? {
                kind @ 0..200_u8 => Request::Refused { kind: usize::from(kind) % REFUSED_KINDS },
                200..220 => Request::Report { limit: None },
                more => Request::Report { limit: Some(usize::from(more % 3) + 1) },
            },
        })
    }

    /// A client that comes back.
    pub fn read_resume(input: &mut Unstructured<'_>) -> Result<Request> {
        use NamedIn::*;
        let named = *input.choose(&[Header, Query, HeaderBeforeQuery, QueryBehindEmptyHeader])?;
        Ok(Request::Resume { cursor: input.arbitrary()?, named })
    }

    /// The request of client `n`; `None`: the world writes it.
    pub fn write(&self, n: usize, serves: Serves) -> Option<Asked> {
        Some(match *self {
            Request::Stream { old, field, declared } => {
                requests::stream(&format!("/s/{n}?a=%zz"), old, field, declared, serves)
            }
            Request::Resume { .. } | Request::Send(_) => return None,
            Request::Probe { kind, close } => requests::probe(kind, close, serves),
            Request::Report { limit } => requests::report(limit, serves),
            Request::Refused { kind } => requests::refused(kind, serves),
        })
    }
}

pub struct Send {
    pub client: u8,
    pub event: Option<Event>,
    /// A send that is refused whatever its token.
    pub invalid: Option<usize>,
    pub close: bool,
    pub form: Form,
}

impl Send {
    pub fn read(input: &mut Unstructured<'_>, events: &mut u32) -> Result<Send> {
        let [client, how]: [u8; 2] = input.arbitrary()?;
        let form = Form { chunked: (how & 0x40 == 0x40).then_some(33), expects: how & 0x80 == 0x80 };
        let mut send = Send { client, event: None, invalid: None, close: how & 0x38 == 0x38, form };
        if how & 7 == 0 {
            return Ok(send);
        }
        let [shape, length]: [u8; 2] = input.arbitrary()?;
        send.event = Some(event(shape, length, events));
        send.invalid = (shape >> 4 == 15).then_some(usize::from(length) * 3 % INVALID_KINDS);
        Ok(send)
    }
}

fn event(shape: u8, length: u8, events: &mut u32) -> Event {
    let bit = |at: u8| shape >> at & 1 == 1;
    *events += 1;
    let number = *events;
    let length = usize::from(length) * 3;
    let data = match shape >> 4 & 7 {
        0..=2 => format!("{number}"),
        3 => format!("{number}\r\nb\rc\n\nd"),
        4 => format!("{number}\r: heartbeat\r\rdata: x\n"),
        5 => format!("{{\"number\":{number},\"text\":\"\u{e9}\u{1f600}\0\"}}"),
        6 => format!("{number}{}", "\n".repeat(length)),
        _ => format!("{number}{}", "l".repeat(length)),
    };
    let id = if bit(2) { String::new() } else { number.to_string() };
    let name = bit(0).then(|| "news".to_owned());
    Event { name, id: bit(1).then_some(id), retry: bit(3).then_some(number), data }
}

/// What the backend says on its own connection.
pub enum Message {
    Send(Send),
    /// To the groups of these bits.
    Publish { groups: u8, events: Vec<Event>, is_transient: bool, close: bool, end: bool, form: Form },
    /// A stream joins the groups of some bits, and leaves those of others.
    Change { client: u8, join: u8, leave: u8 },
    /// A look at a group, or at the newest cursor.
    Look { group: Option<usize> },
}

impl Message {
    /// In a run with groups.
    pub fn read(input: &mut Unstructured<'_>, events: &mut u32) -> Result<Message> {
        Ok(match input.int_in_range(0..=15_u8)? {
            0..=2 => Message::Send(Send::read(input, events)?),
            3..=12 => {
                let [groups, how]: [u8; 2] = input.arbitrary()?;
                let form = Form { chunked: (how & 0x40 == 0x40).then_some(33), expects: how & 0x80 == 0x80 };
                let shapes: Result<Vec<[u8; 2]>> = (0..how & 3).map(|_| input.arbitrary()).collect();
                let events = shapes?.into_iter().map(|[shape, length]| event(shape, length, events)).collect();
                let (is_transient, close, end) = (how & 4 == 4, how & 0x3c == 0x38, how & 0x3c == 0x28);
                Message::Publish { groups, events, is_transient, close, end, form }
            }
            13 | 14 => {
                let [client, groups]: [u8; 2] = input.arbitrary()?;
                Message::Change { client, join: groups & 15, leave: groups >> 4 }
            }
            _ => Message::Look { group: input.arbitrary::<bool>()?.then_some(usize::from(input.arbitrary::<u8>()?)) },
        })
    }
}

/// The groups of these bits.
pub fn groups(bits: u8) -> Vec<usize> {
    (0..GROUPS).filter(|group| bits >> group & 1 == 1).collect()
}

/// How the answer to a connect puts a stream into groups; `cursors`: what clients were told.
pub fn grant(input: &mut Unstructured<'_>, cursors: &VecDeque<Rc<str>>) -> Result<Grant> {
    let [bits, how]: [u8; 2] = input.arbitrary()?;
    let since = match how & 7 {
        0 => Since::Start,
        1 if !cursors.is_empty() => Since::Cursor(cursors[usize::from(how >> 3) % cursors.len()].clone()),
        _ => Since::Now,
    };
    Ok(Grant { groups: groups(bits), since, attach: bits >> 4 == 1 })
}

pub fn reply(input: &mut Unstructured<'_>) -> Result<Reply> {
    let kind = input.int_in_range(0..=9_u8)?;
    if let 6 | 7 = kind {
        return Ok(Reply::reject(*input.choose(&[400, 401, 404, 302, 304, 500, 502, 503, 504, 999])?));
    }
    let shape: u8 = input.arbitrary()?;
    if kind > 7 {
        return Ok(Reply::broken(shape & 1 == 1, shape & 2 == 2));
    }
    let status = if shape & 1 == 1 { 299 } else { 200 };
    let (event, close, flaw) = (shape & 2 == 2, shape & 12 == 12, usize::from(shape >> 4));
    if !event && !close && flaw < FLAWED_KINDS {
        return Ok(Reply::flawed(status, flaw));
    }
    let welcome = Event { data: "welcome\nto you".to_owned(), ..Event::default() };
    Ok(Reply::accept(status, event.then_some(&welcome), close))
}
