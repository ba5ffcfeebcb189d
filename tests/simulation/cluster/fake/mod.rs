//! A Redis in memory, as far as the gateways use one, byte for byte: commands in, replies and messages out, connection by
//! connection. `tests/redis_sim.rs` holds it to a real one.

mod data;
mod scripts;
mod sha1;
mod wire;

pub(crate) use data::{Data, Id};

use data::StreamEntry;
use scripts::{Call, Script};
use sha1::sha1;
use std::collections::{BTreeMap, BTreeSet};
use wire::{Reply, take_command};

/// What an account beside it wants to know.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// A gateway has begun a connection in this epoch.
    Opened { epoch: String },
    /// A send was carried out: its groups that had not ended, and its events.
    Sent { names: Vec<String>, frames: Vec<(Id, Vec<u8>)>, is_transient: bool },
}

/// A connection.
#[derive(Default)]
struct Session {
    input: Vec<u8>,
    output: Vec<u8>,
    channels: BTreeSet<String>,
    is_cut: bool,
}

/// A server.
pub(crate) struct Server {
    pub(crate) data: Data,
    sessions: BTreeMap<u64, Session>,
    last_session: u64,
    scripts: BTreeSet<String>,
    pub(crate) notes: Vec<Note>,
    /// Changes with a restart or a failover.
    pub(crate) replication: String,
    pub(crate) evicted: u64,
    pub(crate) is_out_of_memory: bool,
    /// Unread output beyond which a connection is cut.
    pub(crate) output_bytes_max: usize,
}

impl Server {
    /// An empty one.
    pub(crate) fn new(replication: String) -> Self {
        Self {
            data: Data::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            scripts: BTreeSet::new(),
            notes: Vec::new(),
            replication,
            evicted: 0,
            is_out_of_memory: false,
            output_bytes_max: usize::MAX,
        }
    }

    /// A new connection.
    pub(crate) fn accept(&mut self) -> u64 {
        self.last_session += 1;
        self.sessions.insert(self.last_session, Session::default());
        self.last_session
    }

    /// Its client has closed it, or it is cut.
    pub(crate) fn close(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// Bytes arrived.
    pub(crate) fn receive(&mut self, id: u64, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.input.extend(bytes);
        while let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.is_cut)
            && let Some(command) = take_command(&mut session.input)
        {
            if let Some(reply) = self.execute(id, &command) {
                self.write(id, &reply);
            }
        }
    }

    /// How many of these bytes complete the next command of a connection; all, if they do not.
    pub(crate) fn until_command(&self, id: u64, bytes: &[u8]) -> usize {
        let Some(session) = self.sessions.get(&id) else { return bytes.len() };
        let mut input = [&*session.input, bytes].concat();
        let before = input.len();
        take_command(&mut input).map_or(bytes.len(), |_| before - input.len() - session.input.len())
    }

    /// Takes so much of what was written to a connection; `None`: it is closed.
    pub(crate) fn take_output(&mut self, id: u64, count: usize) -> Option<Vec<u8>> {
        let session = self.sessions.get_mut(&id)?;
        if session.is_cut {
            self.sessions.remove(&id);
            return None;
        }
        Some(session.output.drain(..count.min(session.output.len())).collect())
    }

    /// The process ends: there are no connections, and no scripts.
    pub(crate) fn forget_sessions(&mut self) {
        self.sessions.clear();
        self.scripts.clear();
    }

    /// The channels of a connection.
    pub(crate) fn channels(&self, id: u64) -> Option<&BTreeSet<String>> {
        self.sessions.get(&id).map(|session| &session.channels)
    }

    fn write(&mut self, id: u64, reply: &Reply) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.is_cut {
            return;
        }
        reply.write(&mut session.output);
        session.is_cut = session.output.len() > self.output_bytes_max;
    }

    fn subscribers(&self, channel: &str) -> usize {
        self.sessions.values().filter(|session| !session.is_cut && session.channels.contains(channel)).count()
    }

    /// Returns who has got it.
    fn publish(&mut self, channel: &str, message: &[u8]) -> usize {
        let push = Reply::Push(vec![Reply::text("message"), Reply::text(channel), Reply::text(message)]);
        let to: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.is_cut && session.channels.contains(channel))
            .map(|(id, _)| *id)
            .collect();
        to.iter().for_each(|id| self.write(*id, &push));
        to.len()
    }

    fn deny_without_memory(&self) -> Result<(), String> {
        let error = "OOM command not allowed when used memory > 'maxmemory'. script: f00, on @user_script:20.";
        if self.is_out_of_memory { Err(error.to_owned()) } else { Ok(()) }
    }

    /// Runs a command. `None`: its replies are written already.
    fn execute(&mut self, id: u64, command: &[Vec<u8>]) -> Option<Reply> {
        let text = |n: usize| String::from_utf8_lossy(&command[n]).into_owned();
        let texts = |from: usize| (from..command.len()).map(text);
        let number = |n: usize| text(n).parse::<i64>().expect("a number");
        let data = &mut self.data;
        Some(match &*text(0).to_ascii_uppercase() {
            "HELLO" => {
                let fields = [("server", "redis"), ("version", "7.0.15"), ("mode", "standalone"), ("role", "master")];
                Reply::Map(fields.iter().flat_map(|(name, value)| [Reply::text(name), Reply::text(value)]).collect())
            }
            "PING" => Reply::Simple("PONG"),
            "SELECT" => Reply::Simple("OK"),
            "SCRIPT" => {
                let sha = sha1(&command[2]);
                self.scripts.insert(sha.clone());
                Reply::text(sha)
            }
            "INFO" => Reply::Verbatim(match &*text(1) {
                "memory" => "# Memory\r\nmaxmemory_policy:noeviction\r\n".to_owned(),
                "stats" => format!("# Stats\r\nevicted_keys:{}\r\n", self.evicted),
                _ => format!("# Replication\r\nrole:master\r\nmaster_replid:{}\r\n", self.replication),
            }),
            "EVALSHA" => {
                let (sha, keys) = (text(1), number(2) as usize);
                if !self.scripts.contains(&sha) {
                    return Some(Reply::Error("NOSCRIPT No matching script. Please use EVAL.".to_owned()));
                }
                let script = Script::named(&sha).unwrap_or_else(|| panic!("scripts.rs does not know the script {sha}"));
                let keys_of: Vec<String> = texts(3).take(keys).collect();
                let call = Call { keys: &keys_of, arguments: &command[3 + keys..] };
                script.run(self, &call).unwrap_or_else(Reply::Error)
            }
            kind @ ("SUBSCRIBE" | "UNSUBSCRIBE") => {
                for channel in texts(1) {
                    let channels = &mut self.sessions.get_mut(&id)?.channels;
                    if kind == "SUBSCRIBE" {
                        channels.insert(channel.clone())
                    } else {
                        channels.remove(&channel)
                    };
                    let count = Reply::count(channels.len());
                    self.write(
                        id,
                        &Reply::Push(vec![Reply::text(kind.to_ascii_lowercase()), Reply::text(channel), count]),
                    );
                }
                return None;
            }
            "PUBLISH" => Reply::count(self.publish(&text(1), &command[2])),
            "PUBSUB" => Reply::Array(
                texts(2)
                    .flat_map(|channel| [Reply::text(&channel), Reply::count(self.subscribers(&channel))])
                    .collect(),
            ),
            "XADD" => match data.xadd(
                &text(1),
                Id::parse(&text(2)),
                command[3..].iter().map(|field| field[..].into()).collect(),
            ) {
                Ok(id) => Reply::text(id.to_string()),
                Err(error) => Reply::Error(error),
            },
            "XRANGE" => {
                let bound = |n: usize| match &*text(n) {
                    "-" => Id::default(),
                    "+" => Id { ms: u64::MAX, sequence: u64::MAX },
                    text => Id::parse(text).expect("an id"),
                };
                let most = if command.len() > 5 { number(5) as usize } else { usize::MAX };
                let entries = data.xrange(&text(1), bound(2), bound(3));
                Reply::Array(entries.iter().take(most).map(entry).collect())
            }
            // Of the newest one.
            "XREVRANGE" => Reply::Array(data.newest(&text(1)).iter().map(entry).collect()),
            "RPUSH" => Reply::count(data.rpush(&text(1), command[2..].iter().map(|value| value[..].into()))),
            "LRANGE" => Reply::Array(data.lrange(&text(1), number(2), number(3)).iter().map(Reply::text).collect()),
            "LTRIM" => {
                data.ltrim(&text(1), number(2), number(3));
                Reply::Simple("OK")
            }
            "PEXPIRE" => Reply::count(usize::from(data.pexpire(&text(1), number(2)))),
            "SET" => {
                data.set(&text(1), &command[2], (command.len() > 4).then(|| number(4) as u64));
                Reply::Simple("OK")
            }
            "GET" => Reply::maybe(data.get(&text(1))),
            "MGET" => Reply::Array(texts(1).map(|key| Reply::maybe(data.get(&key))).collect()),
            "EXISTS" => Reply::count(texts(1).filter(|key| data.exists(key)).count()),
            "DEL" => Reply::count(texts(1).filter(|key| data.remove(key)).count()),
            "HSET" => {
                let pairs = command[2..].chunks_exact(2);
                let new = pairs.filter(|pair| data.hset(&text(1), &String::from_utf8_lossy(&pair[0]), &pair[1]));
                Reply::count(new.count())
            }
            "HGET" => Reply::maybe(data.hget(&text(1), &text(2))),
            "HMGET" => Reply::Array(texts(2).map(|field| Reply::maybe(data.hget(&text(1), &field))).collect()),
            "TIME" => {
                let (seconds, micros) = (data.now_ms / 1000, data.now_ms % 1000 * 1000);
                Reply::Array(vec![Reply::text(seconds.to_string()), Reply::text(micros.to_string())])
            }
            other => panic!("no gateway uses {other}"),
        })
    }
}

fn entry((id, fields): &StreamEntry) -> Reply {
    Reply::Array(vec![Reply::text(id.to_string()), Reply::Array(fields.iter().map(Reply::text).collect())])
}
