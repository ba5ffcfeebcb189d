//! What may happen, decoded from the fuzzer's bytes: one byte says what, the following ones say how.

use arbitrary::{Arbitrary, Result, Unstructured};
use ssegateway::callback::{Outcome, PassedHeader};
use ssegateway::gateway::{ConnectFailure, Cors, SocketError, Settings};
use std::time::Duration;

/// More would only make the run longer, not stranger.
const OPERATIONS_MAX: usize = 300;

#[derive(Debug)]
pub struct Script {
    pub settings: Settings,
    pub shut_down_at_the_end: bool,
    pub operations: Vec<Operation>,
}

/// Clients are meant by how lately they came.
#[derive(Debug)]
pub enum Operation {
    Accept {
        internal: bool,
    },
    /// The client writes a request.
    Request {
        client: u8,
        request: Request,
        deliver: bool,
    },
    /// The client writes a request with one byte changed.
    Mangled {
        client: u8,
        request: Request,
        at: u8,
        byte: u8,
    },
    Raw {
        client: u8,
        bytes: Vec<u8>,
    },
    /// The client writes so many KiB of nothing in particular.
    Flood {
        client: u8,
        kibibytes: u8,
    },
    /// Some of what the client wrote arrives.
    Deliver {
        client: u8,
        bytes: u8,
    },
    /// All of it arrives, and the end of input.
    Eof {
        client: u8,
    },
    Fail {
        client: u8,
        fault: SocketError,
    },
    /// So many bytes fit into the client's socket until further notice; `None`: any number.
    Room {
        client: u8,
        bytes: Option<u16>,
    },
    /// A backend's request, or several in one piece, whose answers are read at once.
    Send(Vec<Send>),
    Answer {
        call: u8,
        answer: Answer,
    },
    /// A callback that was answered already is answered again.
    AnswerAgain {
        call: u8,
        answer: Answer,
    },
    /// The loop sleeps and wakes as often as the gateway asks for it.
    Sleep {
        millis: u64,
    },
    /// The clock jumps.
    Leap {
        millis: u64,
    },
    ShutDown,
    /// The loop has memory given back.
    Shrink,
}

#[derive(Debug)]
pub enum Request {
    Stream { http_1_1: bool, body: u8 },
    Send(Send),
    Healthz { head: bool, close: bool },
    Readyz,
    Options,
    Unknown,
    PutOnStream,
    Metrics,
    Connections { limit: u8 },
    Refused { which: u8 },
}

#[derive(Clone, Debug)]
pub struct Send {
    pub client: u8,
    pub event: Option<SendEvent>,
    pub close: bool,
    pub chunked: bool,
    pub expect: bool,
}

#[derive(Clone, Debug)]
pub struct SendEvent {
    pub named: bool,
    pub id: Option<bool>,
    pub retry: bool,
    pub kind: u8,
    pub length: u16,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Accept { status: u16, event: bool, close: bool, flaw: u8 },
    Reject { status: u16 },
    Broken { timed_out: bool, written: bool },
}

impl<'a> Arbitrary<'a> for Script {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Script> {
        let settings = settings(input)?;
        let shut_down_at_the_end = input.arbitrary()?;
        let mut operations = Vec::new();
        while !input.is_empty() && operations.len() < OPERATIONS_MAX {
            operations.push(operation(input)?);
        }
        Ok(Script { settings, shut_down_at_the_end, operations })
    }
}

/// Small limits, so that they are met.
fn settings(input: &mut Unstructured<'_>) -> Result<Settings> {
    let [sizes, times, manner, pending]: [u8; 4] = input.arbitrary()?;
    let bit = |byte: u8, at: u8| byte >> at & 1 == 1;
    let seconds = |long: bool, a: u64, b: u64| Duration::from_secs(if long { b } else { a });
    Ok(Settings {
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
        // Any of many numbers: a backlog of just so many bytes must turn up.
        pending_bytes_max: if bit(sizes, 5) { 100_000 } else { 45 + usize::from(pending) },
        keepalive_timeout: seconds(bit(times, 2), 75, 4),
        shutdown_delay: seconds(bit(times, 3), 0, 3),
        instance: "fuzzed".to_owned(),
        log_query: bit(times, 4),
        ..Settings::default()
    })
}

fn operation(input: &mut Unstructured<'_>) -> Result<Operation> {
    let client = |input: &mut Unstructured<'_>| input.arbitrary::<u8>();
    Ok(match input.int_in_range(0..=32_u8)? {
        0..=3 => Operation::Accept { internal: input.ratio(1, 4)? },
        4..=8 => Operation::Request { client: client(input)?, request: request(input)?, deliver: input.ratio(3, 4)? },
        9 => Operation::Mangled {
            client: client(input)?,
            request: request(input)?,
            at: input.arbitrary()?,
            byte: input.arbitrary()?,
        },
        10 => {
            let client = client(input)?;
            let length = usize::from(input.int_in_range(0..=100_u8)?).min(input.len());
            Operation::Raw { client, bytes: input.bytes(length)?.to_vec() }
        }
        11 => Operation::Flood { client: client(input)?, kibibytes: input.int_in_range(1..=80)? },
        12 | 13 => Operation::Deliver { client: client(input)?, bytes: input.arbitrary()? },
        14 | 15 => Operation::Eof { client: client(input)? },
        16 => Operation::Fail {
            client: client(input)?,
            fault: *input.choose(&[SocketError::Reset, SocketError::WriteFailed, SocketError::TimedOut])?,
        },
        17 | 18 => {
            let client = client(input)?;
            let bytes = match input.int_in_range(0..=3_u8)? {
                0 => None,
                1 => Some(0),
                2 => Some(input.arbitrary::<u8>()?.into()),
                _ => Some(input.arbitrary()?),
            };
            Operation::Room { client, bytes }
        }
        19..=21 => {
            let count = input.int_in_range(1..=4)?;
            Operation::Send((0..count).map(|_| send(input)).collect::<Result<_>>()?)
        }
        22..=25 => Operation::Answer { call: input.arbitrary()?, answer: answer(input)? },
        26 => Operation::AnswerAgain { call: input.arbitrary()?, answer: answer(input)? },
        27 | 28 => Operation::Sleep { millis: millis(input)? },
        29 => Operation::Leap { millis: millis(input)? },
        30 => Operation::Sleep { millis: 16 },
        31 => Operation::ShutDown,
        _ => Operation::Shrink,
    })
}

fn millis(input: &mut Unstructured<'_>) -> Result<u64> {
    let base = *input.choose(&[0, 1, 990, 2000, 4000, 5000, 6000, 10_000, 15_000, 30_000, 75_000, 200_000])?;
    Ok(base + u64::from(input.arbitrary::<u8>()? & 31))
}

fn request(input: &mut Unstructured<'_>) -> Result<Request> {
    Ok(match input.int_in_range(0..=15_u8)? {
        0..=5 => Request::Stream { http_1_1: input.ratio(3, 4)?, body: 0 },
        6 => Request::Stream { http_1_1: true, body: input.arbitrary()? },
        7..=9 => Request::Send(send(input)?),
        10 => Request::Healthz { head: input.arbitrary()?, close: input.arbitrary()? },
        11 => Request::Readyz,
        12 => Request::Options,
        13 => Request::Unknown,
        14 => Request::PutOnStream,
        _ => match input.arbitrary()? {
            which @ 0..200 => Request::Refused { which },
            200..220 => Request::Metrics,
            more => Request::Connections { limit: more % 3 + 1 },
        },
    })
}

fn send(input: &mut Unstructured<'_>) -> Result<Send> {
    let client = input.arbitrary()?;
    let how: u8 = input.arbitrary()?;
    let event = if how & 7 == 0 {
        None
    } else {
        let shape: u8 = input.arbitrary()?;
        Some(SendEvent {
            named: shape & 1 == 1,
            id: (shape & 2 == 2).then_some(shape & 4 == 4),
            retry: shape & 8 == 8,
            kind: shape >> 4,
            length: u16::from(input.arbitrary::<u8>()?) * 3,
        })
    };
    Ok(Send { client, event, close: how & 0x38 == 0x38, chunked: how & 0x40 == 0x40, expect: how & 0x80 == 0x80 })
}

fn answer(input: &mut Unstructured<'_>) -> Result<Answer> {
    Ok(match input.int_in_range(0..=9_u8)? {
        0..=5 => {
            let shape: u8 = input.arbitrary()?;
            Answer::Accept {
                status: if shape & 1 == 1 { 299 } else { 200 },
                event: shape & 2 == 2,
                close: shape & 12 == 12,
                flaw: shape >> 4,
            }
        }
        6 | 7 => Answer::Reject { status: *input.choose(&[400, 401, 404, 302, 304, 500, 502, 503, 504, 999])? },
        _ => {
            let shape: u8 = input.arbitrary()?;
            Answer::Broken { timed_out: shape & 1 == 1, written: shape & 2 == 2 }
        }
    })
}

/// The data of the event in a backend's answer.
pub const WELCOME: &str = "welcome\nto you";

impl Answer {
    pub fn is_accepted(&self) -> bool {
        match self {
            Answer::Accept { .. } => true,
            Answer::Reject { .. } | Answer::Broken { .. } => false,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match *self {
            Answer::Accept { status, event, close, flaw } => {
                let mut fields = Vec::new();
                if event {
                    fields.push(format!(r#""event":{{"data":{}}}"#, serde_json::Value::from(WELCOME)));
                }
                if close {
                    fields.push(r#""close":true"#.to_owned());
                }
                let body = match flaw {
                    // Flaws that hide nothing.
                    0 if !event => Some(r#""event":{"name":"n"}"#),
                    1 if !close => Some(r#""close":1"#),
                    2 => Some(r#""more":null"#),
                    _ => None,
                };
                fields.extend(body.map(str::to_owned));
                let body = format!("{{{}}}", fields.join(","));
                let body = if flaw == 3 && !event && !close { None } else { Some(body.into_bytes()) };
                Outcome::Answered { status, passed: Vec::new(), body }
            }
            Answer::Reject { status } => {
                let passed = vec![(PassedHeader::RetryAfter, b"7".to_vec())];
                Outcome::Answered { status, passed, body: None }
            }
            Answer::Broken { timed_out: true, written } => Outcome::TimedOut { written },
            Answer::Broken { timed_out: false, written } => Outcome::Unavailable { written },
        }
    }
}
