//! The scripts of `src/redis/scripts.rs`, line by line. One that was changed there is unknown here by its SHA, and must be
//! changed here as well.

use super::data::{Bytes, Id};
use super::wire::Reply;
use super::{Note, Server};
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Send,
    Read,
    Page,
    Open,
    Beat,
    Alive,
}

const SHAS: [(&str, Script); 6] = [
    ("da1f417422f6fdfdb98d93c93129b2e242847325", Script::Send),
    ("9b149373f6548d80cfa0b7b2e626efe71a77dac5", Script::Read),
    ("8dc9d73f3587de9fc3d83a53d204e6fedd4c9905", Script::Page),
    ("f956727462b8ec4c8be1410f002b8b771372de8d", Script::Open),
    ("80de32e075182b1e02e5e5ccd8252b433b52c20d", Script::Beat),
    ("137305059ec4928d2b2370edf43c8265fec4d515", Script::Alive),
];

impl Script {
    /// The script with that SHA.
    pub(super) fn named(sha: &str) -> Option<Self> {
        SHAS.iter().find(|(known, _)| *known == sha).map(|(_, script)| *script)
    }

    /// Runs it. Errors: as the scripts raise them.
    pub(super) fn run(self, server: &mut Server, call: &Call<'_>) -> Result<Reply, String> {
        match self {
            Self::Send => send(server, call),
            Self::Read => Ok(read(server, call)),
            Self::Page => Ok(page(server, call)),
            Self::Open => open(server, call),
            Self::Beat => beat(server, call),
            Self::Alive => Ok(alive(server, call)),
        }
    }
}

/// The keys and arguments of a script; as there, they count from 1.
pub(super) struct Call<'a> {
    pub(super) keys: &'a [String],
    pub(super) arguments: &'a [Vec<u8>],
}

impl Call<'_> {
    fn key(&self, n: usize) -> &str {
        &self.keys[n - 1]
    }

    fn bytes(&self, n: usize) -> &[u8] {
        &self.arguments[n - 1]
    }

    fn text(&self, n: usize) -> String {
        String::from_utf8_lossy(self.bytes(n)).into_owned()
    }

    fn number<T: std::str::FromStr>(&self, n: usize) -> T {
        self.text(n).parse().unwrap_or_else(|_| panic!("argument {n} is no number: {}", self.text(n)))
    }
}

const TRANSIENT: u32 = 1;
const END: u32 = 4;
const MORE: u32 = 8;
const PROBE: u32 = 32;

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Rc::from(text.as_ref())
}

/// The quick way of the script through the usual send is the same as the other one.
fn send(server: &mut Server, call: &Call<'_>) -> Result<Reply, String> {
    let (groups, last) = ((call.keys.len() - 2) / 2, call.arguments.len());
    if server.data.get(call.key(2)).as_deref() != Some(call.bytes(last)) {
        return Err("FENCED the gateway is not registered".to_owned());
    }
    let alive: Vec<usize> = (1..=groups).filter(|n| !server.data.exists(call.key(2 + 2 * n))).collect();
    if alive.is_empty() {
        return Ok(Reply::Integer(0));
    }
    let (flags, count) = (call.number::<u32>(2), last - 6 - groups);
    let names: Vec<String> = alive.iter().map(|n| call.text(5 + n)).collect();
    let prefix = call.text(5);
    let channels: Vec<String> = names.iter().map(|name| format!("{prefix}:c:{name}")).collect();
    if flags >= PROBE {
        let sum: usize = channels.iter().map(|channel| server.subscribers(channel)).sum();
        return Ok(Reply::text(format!(" {sum}")));
    }
    server.deny_without_memory()?;
    let asked: Vec<String> = (1..=groups).map(|n| call.text(5 + n)).collect();
    let fields = || vec![bytes("s"), bytes(call.bytes(1)), bytes("g"), bytes(asked.join("\n"))];
    let id = server.data.xadd(call.key(1), None, fields())?;
    let mut first = id;
    if id.sequence + count as u64 > 200_000 && (count > 1 || id.to_string().len() > 19) {
        first = Id { ms: id.ms + 1, sequence: 0 };
    }
    let ids: Vec<Id> = (0..count.max(1) as u64).map(|n| Id { sequence: first.sequence + n, ..first }).collect();
    let newest = ids[ids.len() - 1];
    if newest != id {
        server.data.xadd(call.key(1), Some(newest), fields())?;
    }
    let entry = |n: usize, id: &Id| {
        let flag = if n + 1 < ids.len() { flags % 2 + MORE } else { flags };
        let mut entry = format!("{id} {flag} ").into_bytes();
        entry.extend(if count > 0 { call.bytes(6 + groups + n) } else { b"" });
        entry
    };
    let entries: Vec<Vec<u8>> = ids.iter().enumerate().map(|(n, id)| entry(n, id)).collect();
    let frames = (0..count).map(|n| (ids[n], call.bytes(6 + groups + n).to_vec())).collect();
    server.notes.push(Note::Sent { names: names.clone(), frames, is_transient: flags & TRANSIENT != 0 });
    let kept_ms = call.number::<i64>(3);
    if count > 0 && flags & TRANSIENT == 0 && kept_ms != 0 {
        let most = call.number::<i64>(4);
        for n in &alive {
            let list = call.key(1 + 2 * n);
            if server.data.rpush(list, entries.iter().map(bytes)) as i64 * 8 > most * 9 {
                server.data.ltrim(list, -most, -1);
            }
            server.data.pexpire(list, kept_ms);
        }
    }
    let all = format!("{prefix}:all");
    if flags & END != 0 {
        for n in &alive {
            server.data.set(call.key(2 + 2 * n), b"1", Some(if kept_ms == 0 { 60_000 } else { kept_ms as u64 }));
        }
        for name in &names {
            server.publish(&all, format!("E{name}").as_bytes());
        }
    }
    let mut reached = 0;
    if let [channel] = &channels[..] {
        for entry in &entries {
            reached = server.publish(channel, entry);
        }
    } else {
        reached = channels.iter().map(|channel| server.subscribers(channel)).sum();
        for entry in &entries {
            let mut message = format!("G{}\n\n", names.join("\n")).into_bytes();
            message.extend(entry);
            server.publish(&all, &message);
        }
    }
    Ok(Reply::text(format!("{newest} {reached}")))
}

fn read(server: &mut Server, call: &Call<'_>) -> Reply {
    let newest = server.data.newest(call.key(1)).map_or(Id::default(), |(id, _)| id);
    let mut found = vec![Reply::text(newest.to_string()), Reply::Integer(server.data.now_ms as i64)];
    let (mut room, most) = (call.number::<i64>(1), call.number::<usize>(2));
    room = room.min(server.data.page_bytes_max.map_or(i64::MAX, |max| max as i64));
    for at in (2..=call.keys.len()).step_by(2) {
        found.push(Reply::count(usize::from(server.data.exists(call.key(at + 1)))));
        let list = server.data.lrange(call.key(at), 0, -1);
        let (mut entries, mut omitted) = (Vec::new(), None);
        for entry in list.iter().rev() {
            room -= entry.len() as i64;
            if room < 0 && (at > 2 || !entries.is_empty()) {
                omitted = Some(entry);
                break;
            }
            entries.push(Reply::text(entry));
        }
        let surplus = list.len().checked_sub(most + 1).map(|n| &list[n]);
        let ids = [list.first(), surplus, omitted].map(|entry| entry.map_or(b"0-0".to_vec(), |entry| id_of(entry)));
        found.extend(ids.map(Reply::text));
        found.push(Reply::Array(entries));
    }
    Reply::Array(found)
}

fn page(server: &mut Server, call: &Call<'_>) -> Reply {
    let newest = server.data.newest(call.key(1)).map_or(Id::default(), |(id, _)| id);
    let (most, room) = (call.number::<usize>(1), call.number::<usize>(2));
    let room = room.min(server.data.page_bytes_max.unwrap_or(usize::MAX));
    let mut found = vec![Reply::text(newest.to_string())];
    for at in 2..=call.keys.len() {
        let behind = numbers(call.bytes(at + 1));
        let list = server.data.lrange(call.key(at), 0, -1);
        let first = list.iter().position(|entry| numbers(entry) > behind).unwrap_or(list.len());
        let (mut entries, mut bytes, mut is_cut) = (Vec::new(), 0, 0);
        for entry in &list[first..] {
            bytes += entry.len();
            if bytes > room && !entries.is_empty() {
                is_cut = 1;
                break;
            }
            entries.push(Reply::text(entry));
        }
        let dropped = if list.len() > most { id_of(&list[0]) } else { b"0-0".to_vec() };
        found.extend([Reply::text(dropped), Reply::Integer(is_cut), Reply::Array(entries)]);
    }
    Reply::Array(found)
}

fn id_of(entry: &[u8]) -> Vec<u8> {
    entry.split(|byte| *byte == b' ').next().expect("an id").to_vec()
}

/// The numbers of the id that a text begins with.
fn numbers(text: &[u8]) -> (u64, u64) {
    let text = String::from_utf8_lossy(text);
    let id = text.split(' ').next().expect("an id");
    let (ms, sequence) = id.split_once('-').expect("an id");
    (ms.parse().expect("a number"), sequence.parse().expect("a number"))
}

/// Without what only tries rights.
fn open(server: &mut Server, call: &Call<'_>) -> Result<Reply, String> {
    let source = format!("{} {}", call.text(2), call.text(3));
    let mut meta = |field: &str| server.data.hget(call.key(1), field);
    let (epoch, known, age, events) = (meta("epoch"), meta("source"), meta("age"), meta("events"));
    let since = meta("since").map(|since| String::from_utf8_lossy(&since).parse::<u64>().expect("a time"));
    let began = epoch.clone();
    let is_lost = call.bytes(10) != call.bytes(2) && since.is_some_and(|since| call.number::<u64>(11) > since);
    server.deny_without_memory()?;
    let (epoch, age, events) = match epoch {
        None => {
            server.data.hset(call.key(1), "age", call.bytes(4));
            server.data.hset(call.key(1), "events", call.bytes(5));
            (bytes(call.bytes(1)), bytes(call.bytes(4)), bytes(call.bytes(5)))
        }
        Some(epoch) => {
            let is_same = known.as_deref() == Some(source.as_bytes());
            let epoch = if is_same && !is_lost { epoch } else { bytes(call.bytes(1)) };
            (epoch, age.expect("an age"), events.expect("events"))
        }
    };
    server.data.hset(call.key(1), "epoch", &epoch);
    server.data.hset(call.key(1), "source", source.as_bytes());
    server.data.rpush(call.key(4), [bytes("1")]);
    server.data.ltrim(call.key(4), -1, -1);
    server.data.pexpire(call.key(4), 1000);
    server.publish(&call.text(9), b"T");
    server.data.set(call.key(3), call.bytes(6), Some(call.number(7)));
    let id = server.data.xadd(call.key(2), None, vec![bytes("h"), bytes("")])?;
    if began.as_deref() != Some(&*epoch) {
        server.data.hset(call.key(1), "since", id.ms.to_string().as_bytes());
    }
    server.notes.push(Note::Opened { epoch: String::from_utf8_lossy(&epoch).into_owned() });
    let answer = [epoch, age, events].map(Reply::text);
    Ok(Reply::Array(answer.into_iter().chain([Reply::text(id.to_string())]).collect()))
}

fn beat(server: &mut Server, call: &Call<'_>) -> Result<Reply, String> {
    let generation = server.data.get(call.key(3));
    if generation.as_ref().is_some_and(|generation| **generation != *call.bytes(1)) {
        return Err("FENCED by a newer connection".to_owned());
    }
    let memory = server.deny_without_memory();
    if generation.is_some() {
        server.data.pexpire(call.key(3), call.number(2));
    } else {
        memory.clone()?;
        server.data.set(call.key(3), call.bytes(1), Some(call.number(2)));
    }
    let id = match memory {
        Ok(()) => server.data.xadd(call.key(2), None, vec![bytes("h"), bytes("")])?,
        Err(_) => server.data.newest(call.key(2)).map_or(Id::default(), |(id, _)| id),
    };
    let epoch = server.data.hget(call.key(1), "epoch").unwrap_or_else(|| bytes(""));
    Ok(Reply::Array(vec![Reply::text(epoch), Reply::text(id.to_string())]))
}

fn alive(server: &mut Server, call: &Call<'_>) -> Reply {
    let is_kept = call.keys.iter().any(|key| server.data.exists(key));
    let is_followed = || (1..=call.arguments.len()).any(|n| server.subscribers(&call.text(n)) > 0);
    Reply::count(usize::from(is_kept || is_followed()))
}
