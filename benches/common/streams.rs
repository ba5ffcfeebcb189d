//! The protocol alone with open streams, on a kernel that accepts every write in full.

use super::redis::{Answers, Redis};
use super::requests;
use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, RedisSettings, Settings};
use ssegateway::job::{Completion, Job};
use uuid::Uuid;

pub(crate) struct Streams {
    gateway: Gateway,
    backend: ConnId,
    redis: Redis,
    now: Millis,
}

/// The token of stream `n`.
pub(crate) fn token(n: u128) -> Uuid {
    // Spread over all bits, as a random token is.
    uuid::Builder::from_u128((n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
        .with_version(uuid::Version::Random)
        .into_uuid()
}

impl Streams {
    /// Opens that many streams and a backend's connection.
    pub(crate) fn open(count: usize) -> Self {
        Self::open_with(count, |_| String::new())
    }

    /// The same, with the backend's answer to the connect of each.
    pub(crate) fn open_with(count: usize, answer: impl Fn(usize) -> String) -> Self {
        Self::open_at(Settings::default(), count, answer)
    }

    /// The same over Redis.
    pub(crate) fn open_over_redis(count: usize, answer: impl Fn(usize) -> String) -> Self {
        let settings = Settings { redis: Some(RedisSettings::default()), ..Settings::default() };
        Self::open_at(settings, count, answer)
    }

    fn open_at(settings: Settings, count: usize, answer: impl Fn(usize) -> String) -> Self {
        let now = Millis::from_millis(1000);
        let (settings, mut redis) = (Settings { streams_max: count + 1, ..settings }, Redis::new());
        let mut gateway = Gateway::new(settings, now, 1);
        gateway.expire(now);
        make_calls(&mut gateway, now, "");
        for n in 0..count {
            open(&mut gateway, now, token(n as u128), &answer(n));
            while let Some(answers) = take_commands(&mut gateway, now, &mut redis) {
                gateway.upstream_received(now, answers.bytes());
            }
            write_all(&mut gateway, now);
        }
        assert_eq!(gateway.stream_count(), count);
        let backend =
            gateway.accept(now, Listener::Public, Peer::Remote, token(count as u128)).expect("it takes connections");
        Self { gateway, backend, redis, now }
    }

    /// Delivers the backend's bytes in one read. Returns the number of bytes written, answers included.
    pub(crate) fn send(&mut self, batch: &[u8]) -> usize {
        self.gateway.receive(self.now, self.backend, batch);
        write_all(&mut self.gateway, self.now)
    }

    /// The current cursor.
    pub(crate) fn cursor(&mut self) -> String {
        let request = b"GET /internal/cursor HTTP/1.1\r\nHost: h\r\n\r\n";
        self.gateway.receive(self.now, self.backend, request);
        let id = self.gateway.next_dirty().expect("an answer");
        let answer = String::from_utf8_lossy(self.gateway.unsent(id)).into_owned();
        self.gateway.wrote(self.now, id, answer.len());
        answer.rsplit('"').nth(1).expect("a cursor").to_owned()
    }

    /// The same with sends to groups, and what their members get.
    pub(crate) fn publish(&mut self, batch: &[u8]) -> usize {
        self.publish_to_sockets_of(usize::MAX, batch)
    }

    /// The same over Redis, which answers in one read. `answers` are those to this batch, if it was sent before.
    pub(crate) fn publish_over_redis(&mut self, batch: &[u8], answers: &mut Option<Answers>) -> usize {
        self.gateway.receive(self.now, self.backend, batch);
        match answers {
            Some(answers) => {
                let count = self.gateway.upstream_unsent(self.now).len();
                self.gateway.upstream_wrote(count);
                self.gateway.upstream_received(self.now, self.redis.repeat(answers));
            }
            None => {
                *answers = take_commands(&mut self.gateway, self.now, &mut self.redis);
                let first = answers.as_ref().expect("it sends something");
                self.gateway.upstream_received(self.now, first.bytes());
            }
        }
        let mut written = write_all(&mut self.gateway, self.now);
        while let Some(id) = self.gateway.next_member(self.now) {
            let count = self.gateway.unsent(id).len();
            self.gateway.wrote(self.now, id, count);
            written += count;
        }
        written
    }

    /// The same to members whose sockets are full after so many bytes of each write.
    pub(crate) fn publish_to_sockets_of(&mut self, room: usize, batch: &[u8]) -> usize {
        let mut written = self.send(batch);
        while let Some(id) = self.gateway.next_member(self.now) {
            let count = self.gateway.unsent(id).len().min(room);
            self.gateway.wrote(self.now, id, count);
            written += count;
        }
        written
    }

    /// One more client connects and leaves. Returns the number of bytes written.
    pub(crate) fn connect_and_leave(&mut self) -> usize {
        self.visit("")
    }

    /// The same, with the backend's answer to its connect.
    pub(crate) fn visit(&mut self, answer: &str) -> usize {
        let (id, mut written) = open(&mut self.gateway, self.now, token(u128::from(u64::MAX)), answer);
        while self.gateway.has_unsent(id) {
            let count = self.gateway.unsent(id).len();
            self.gateway.wrote(self.now, id, count);
            written += count;
        }
        self.gateway.receive_eof(self.now, id);
        make_calls(&mut self.gateway, self.now, "");
        written
    }

    /// Advances the clock. Returns the number of bytes written.
    pub(crate) fn pass(&mut self, milliseconds: u64) -> usize {
        self.now = Millis::from_millis(self.now.as_millis() + milliseconds);
        let mut written = 0;
        while self.gateway.next_deadline().is_some_and(|due| due <= self.now) {
            self.gateway.expire(self.now);
            written += write_all(&mut self.gateway, self.now);
        }
        written
    }
}

/// A client connects and the backend accepts.
fn open(gateway: &mut Gateway, now: Millis, token: Uuid, answer: &str) -> (ConnId, usize) {
    let get = requests::browser_get("/events/tenant-7/stream/12345", "events.example.com");
    let id = gateway.accept(now, Listener::Public, Peer::Remote, token).expect("it takes connections");
    gateway.receive(now, id, &get);
    make_calls(gateway, now, answer);
    (id, write_all(gateway, now))
}

/// The backend accepts every connect with that answer.
fn make_calls(gateway: &mut Gateway, now: Millis, answer: &str) {
    while let Some(action) = gateway.next_action() {
        match action {
            Action::Connect(_) => gateway.upstream_connected(now),
            Action::Start(Job::Call(call)) => {
                let body = Some(answer.as_bytes().to_vec());
                let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
                gateway.complete(now, Completion::Called(Called { id: call.id, outcome }));
            }
            Action::Start(Job::Resolve(..))
            | Action::Disconnect
            | Action::Report(_)
            | Action::List
            | Action::ReadLast(_)
            | Action::TellFeed(_)
            | Action::KeepAlive(_)
            | Action::ShutdownWrite(_)
            | Action::Close(..)
            | Action::StopAccepting => {}
        }
    }
}

/// Writes the commands to Redis; `None`: there are none.
fn take_commands(gateway: &mut Gateway, now: Millis, redis: &mut Redis) -> Option<Answers> {
    let commands = gateway.upstream_unsent(now);
    let (count, answers) = (commands.len(), redis.answer(commands));
    gateway.upstream_wrote(count);
    (count > 0).then_some(answers)
}

fn write_all(gateway: &mut Gateway, now: Millis) -> usize {
    let mut written = 0;
    while let Some(id) = gateway.next_dirty() {
        let count = gateway.unsent(id).len();
        gateway.wrote(now, id, count);
        written += count;
    }
    written
}
