//! The Redis of the simulation (`tests/simulation/cluster/fake`) gives the replies and messages of a real one: random
//! commands of those in use, the gateways' scripts among them, on two connections.

#![cfg(feature = "redis")]

mod common;
#[path = "simulation/cluster/fake/mod.rs"]
#[allow(dead_code)]
mod fake;

use common::{PATIENCE, Random, Redis, find};
use fake::Server;
use ssegateway::redis::{Scanner, Value, parse};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

const SEEDS: u64 = 10;
const COMMANDS: usize = 150;

/// The scripts as the gateways load them: send, read, page, open, beat.
fn scripts() -> Vec<&'static str> {
    let source = include_str!("../src/redis/scripts.rs");
    let starts = source.split("&str = r\"").skip(1);
    starts.map(|rest| rest.split_once("\";").expect("the end of a script").0).collect()
}

fn encode(command: &[String]) -> Vec<u8> {
    let arguments = command.iter().map(|argument| format!("${}\r\n{argument}\r\n", argument.len()));
    format!("*{}\r\n{}", command.len(), arguments.collect::<String>()).into_bytes()
}

/// A reply as text. Ids are numbered in the order in which they are seen, and the time is not shown: both are the clock's.
fn show(value: &Value<'_>, ids: &mut Vec<String>) -> String {
    let all = |values: &[Value<'_>], ids: &mut Vec<String>| {
        values.iter().map(|value| show(value, ids)).collect::<Vec<_>>().join(", ")
    };
    match value {
        Value::Simple(text) | Value::Blob(text) => show_text(text, ids),
        Value::Error(text) => format!("error {}", show_text(text, ids)),
        Value::Integer(1_000_000_000_000..) => "the time".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Null => "null".to_owned(),
        Value::Array(values) => format!("[{}]", all(values, ids)),
        Value::Push(values) => format!("push [{}]", all(values, ids)),
    }
}

fn show_text(text: &[u8], ids: &mut Vec<String>) -> String {
    let is_id = |word: &str| {
        let parts = word.split_once('-').filter(|(ms, _)| ms.len() == 13);
        parts.is_some_and(|(ms, sequence)| ms.parse::<u64>().is_ok() && sequence.parse::<u64>().is_ok())
    };
    let text = String::from_utf8_lossy(text);
    let words = text.split(' ').map(|word| {
        let lines = word.split('\n').map(|word| {
            if !is_id(word) {
                return word.escape_default().to_string();
            }
            let at = ids.iter().position(|known| known == word).unwrap_or_else(|| {
                ids.push(word.to_owned());
                ids.len() - 1
            });
            format!("#{at}")
        });
        lines.collect::<Vec<_>>().join("/")
    });
    format!("{:?}", words.collect::<Vec<_>>().join(" "))
}

/// Both servers, and two connections to each.
struct Both {
    real: [TcpStream; 2],
    fake: Server,
    sessions: [u64; 2],
    ids: [Vec<String>; 2],
    fences: usize,
}

impl Both {
    fn new(redis: &Redis) -> Self {
        let mut fake = Server::new(String::new());
        let real = [(); 2].map(|()| {
            let socket = TcpStream::connect(("127.0.0.1", redis.port())).expect("Redis");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket
        });
        let sessions = [fake.accept(), fake.accept()];
        let mut both = Self { real, fake, sessions, ids: Default::default(), fences: 0 };
        for at in 0..2 {
            let hello: Vec<String> = ["HELLO", "3"].map(str::to_owned).into();
            both.real[at].write_all(&encode(&hello)).expect("a command");
            both.come(at);
        }
        both
    }

    /// What has come on a connection of each: replies, and messages of channels.
    fn come(&mut self, at: usize) -> [Vec<String>; 2] {
        self.fences += 1;
        let fence = format!("fence-{}", self.fences);
        let command = encode(&["PUBSUB".to_owned(), "NUMSUB".to_owned(), fence.clone()]);
        self.real[at].write_all(&command).expect("a command");
        let (mut real, mut bytes) = (Vec::new(), [0; 4096]);
        while find(&real, fence.as_bytes()).is_none() || !real.ends_with(b"\r\n:0\r\n") {
            let count = self.real[at].read(&mut bytes).unwrap_or_else(|_| panic!("no reply: {}", real.escape_ascii()));
            assert!(count > 0, "Redis has closed the connection");
            real.extend_from_slice(&bytes[..count]);
        }
        self.fake.receive(self.sessions[at], &command);
        let fake = self.fake.take_output(self.sessions[at], usize::MAX).expect("a connection");
        let [ids_of_real, ids_of_fake] = &mut self.ids;
        [frames(&real, ids_of_real), frames(&fake, ids_of_fake)]
    }

    /// A command with the ids of one of the two in place of their numbers.
    fn with_ids(&self, side: usize, command: &[String]) -> Vec<String> {
        let id = |argument: &String| self.ids[side].get(argument.strip_prefix('#')?.parse::<usize>().ok()?).cloned();
        command.iter().map(|argument| id(argument).unwrap_or_else(|| argument.clone())).collect()
    }

    /// Runs a command on both, and compares all that comes of it.
    fn run(&mut self, at: usize, command: &[impl ToString]) -> Vec<String> {
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
        self.fake.data.now_ms = self.fake.data.now_ms.max(now.as_millis() as u64);
        let [real, fake] = [0, 1].map(|side| encode(&self.with_ids(side, &command)));
        self.real[at].write_all(&real).expect("a command");
        self.fake.receive(self.sessions[at], &fake);
        let [replies, fake] = self.come(at);
        assert_eq!(replies, fake, "of {command:?}");
        // The other one may have got messages.
        let [real, fake] = self.come(1 - at);
        assert_eq!(real, fake, "of {command:?}, at the other connection");
        replies
    }
}

fn frames(mut bytes: &[u8], ids: &mut Vec<String>) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some(length) = Scanner::default().scan(bytes).expect("RESP3") {
        frames.push(show(&parse(&bytes[..length]).expect("RESP3"), ids));
        bytes = &bytes[length..];
        if bytes.is_empty() {
            break;
        }
    }
    frames
}

/// A random command.
fn draw(random: &mut Random, shas: &[String], ids: usize) -> Vec<String> {
    let group = random.pick(&["a", "b", "c d"]);
    let value = random.pick(&["", "x", "two words", "1", "-7"]);
    let (from, to) = (random.within(0, 6) as i64 - 3, random.within(0, 8) as i64 - 4);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let (list, end, channel) = (format!("P:h:{group}"), format!("P:e:{group}"), format!("P:c:{group}"));
    match random.below(27) {
        0 => words(&["SUBSCRIBE", &channel, "P:all"]),
        1 => words(&["UNSUBSCRIBE", &channel]),
        2 => words(&["PUBLISH", random.pick(&[&*channel, "P:all"]), value]),
        3 => words(&["XRANGE", "P:log", "-", "+", "COUNT", "2"]),
        4 => words(&["XRANGE", "P:log", "1600000000000-5", "+"]),
        5 => words(&["XREVRANGE", "P:log", "+", "-", "COUNT", "1"]),
        6 => words(&["RPUSH", "l", value, "y"]),
        7 => words(&["LRANGE", "l", &from.to_string(), &to.to_string()]),
        8 => words(&["LTRIM", "l", &from.to_string(), &to.to_string()]),
        9 => words(&["PEXPIRE", random.pick(&["l", "none", "s"]), random.pick(&["100000", "0", "-5"])]),
        10 => words(&["SET", "s", value, "PX", "100000"]),
        11 => words(&["MGET", "s", "none", &end]),
        12 => words(&["EXISTS", "s", "l", &end]),
        13 => words(&["HSET", "h", random.pick(&["f", "g"]), value, "k", "v"]),
        14 => words(&["HMGET", "h", "f", "none", "g"]),
        15 => words(&[random.pick(&["HGET", "HGET"]), "h", random.pick(&["f", "none"])]),
        16 => words(&["XADD", "P:log", random.pick(&["*", "1-1", "1700000000000-0"]), "s", value]),
        17 => {
            let mut command = words(&["EVALSHA", &shas[1], "5", "P:log", &list, &end, "P:h:b", "P:e:b"]);
            command.extend(words(&[random.pick(&["0", "40", "70", "1000"]), random.pick(&["2", "3", "8"])]));
            command
        }
        18 => {
            let source = random.pick(&["one", "one", "two"]);
            let (epoch, generation) = (random.below(1000).to_string(), random.pick(&["1", "1", "2"]));
            // The server of the last send, which was sent before or after anything else.
            let (last, sent_at) = (random.pick(&["", "one", "two"]), random.pick(&["0", "99999999999999"]));
            let rest = [&*epoch, source, "0", "300000", "100", generation, "15000", "65536", "P:all", last, sent_at];
            let mut command = words(&["EVALSHA", &shas[3], "4", "P:meta", "P:log", "P:gw:1", "P:trial"]);
            command.extend(words(&rest));
            command
        }
        19 => {
            words(&["EVALSHA", &shas[4], "3", "P:meta", "P:log", "P:gw:1", random.pick(&["1", "2"]), "15000", "65536"])
        }
        22 => {
            let mut command = words(&["EVALSHA", &shas[5], "4", &list, &end, "P:h:none", "P:e:none"]);
            command.extend(words(&[&channel, "P:c:none"]));
            command
        }
        20..=21 => {
            let mut command = words(&["EVALSHA", &shas[2], "3", "P:log", &list, "P:h:b"]);
            let (most, room) = (random.pick(&["2", "3", "8"]), random.pick(&["1", "40", "70", "1000"]));
            // An id behind which there is everything, something, or nothing.
            let behind = [(); 2].map(|()| match random.below(3) {
                0 => "0-0".to_owned(),
                // That of both that was seen as this one.
                1 if ids > 0 => format!("#{}", random.index(ids)),
                _ => "9999999999999-0".to_owned(),
            });
            command.extend(words(&[most, room, &behind[0], &behind[1]]));
            command
        }
        _ => draw_send(random, &shas[0]),
    }
}

fn draw_send(random: &mut Random, sha: &str) -> Vec<String> {
    let mut names: Vec<&str> = vec![random.pick(&["a", "b", "c d"])];
    if random.chance(300) {
        names = vec!["a", "c d"];
    }
    let events = random.pick(&[0, 1, 1, 1, 2, 3]);
    let mut flags = random.pick(&[0, 0, 0, 0, 0, 1, 2, 3]);
    if names.len() == 1 && random.chance(150) {
        flags |= 4;
    }
    if events == 0 {
        flags |= if flags & 6 == 0 { 48 } else { 16 };
    }
    let mut command = vec!["EVALSHA".to_owned(), sha.to_owned(), (2 + 2 * names.len()).to_string()];
    command.extend(["P:log", "P:gw:1"].map(str::to_owned));
    command.extend(names.iter().flat_map(|name| [format!("P:h:{name}"), format!("P:e:{name}")]));
    let (kept, most) = (random.pick(&["100000", "100000", "0"]), random.pick(&["4", "9"]));
    command.extend(["1.7.0", &flags.to_string(), kept, most, "P"].map(str::to_owned));
    command.extend(names.iter().map(|name| (*name).to_owned()));
    command.extend((0..events).map(|n| format!("data: {n} {}\n\n", random.below(100))));
    command.push(random.pick(&["1", "1", "1", "2"]).to_owned());
    command
}

#[test]
fn the_simulated_redis_answers_as_a_real_one_does() {
    let redis = Redis::start();
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut both = Both::new(&redis);
        assert_eq!(redis.command("FLUSHALL"), "+OK");
        let sha = |script: &&str, both: &mut Both| both.run(0, &["SCRIPT", "LOAD", script])[0].clone();
        let shas: Vec<String> =
            scripts().iter().map(|script| sha(script, &mut both).trim_matches('"').to_owned()).collect();
        assert_eq!(shas.len(), 6);
        for _ in 0..COMMANDS {
            let command = draw(&mut random, &shas, both.ids[0].len());
            both.run(random.index(2), &command);
            if random.chance(30) {
                // What has expired is gone.
                let at = random.pick(&["l", "P:gw:1", "P:e:a", "P:h:a"]);
                both.run(0, &["PEXPIRE", at, "1"]);
                common::eventually("it expires", || redis.command(&format!("EXISTS {at}")) == ":0");
                both.fake.data.now_ms += 2;
            }
        }
    }
}
