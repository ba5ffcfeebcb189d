//! The gateways and their Redis, with the faults that befall them.

use super::HISTORY_EVENTS;
use crate::common::{Backend, Gateway, Random, Redis, SIGKILL, SIGTERM, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Redis is killed that often.
const REDIS_EVERY: Duration = Duration::from_secs(20);
/// The longest time without Redis: longer than `REDIS_TIMEOUT_SECONDS`, so that some sends are left open.
const AWAY_MAX: Duration = Duration::from_secs(4);
const REDIS_TIMEOUT_SECONDS: u64 = 2;
/// What the gateways and this test take to be back, on a slow machine.
const AFTERMATH: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Serving,
    Draining,
    Killed,
}

/// One process of a gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub port: u16,
    pub pid: u32,
    pub state: State,
}

/// What everybody may know of the cluster.
#[derive(Default)]
pub(crate) struct Status {
    /// All processes so far.
    pub runs: Vec<Run>,
    /// The process that new clients of each gateway get to.
    pub serving: Vec<Option<usize>>,
    /// When Redis was killed and was back.
    outages: Vec<(Instant, Option<Instant>)>,
}

impl Status {
    pub(crate) fn is_serving(&self, run: usize) -> bool {
        self.runs[run].state == State::Serving
    }

    /// Times at which Redis was killed.
    pub(crate) fn crashes(&self) -> impl DoubleEndedIterator<Item = Instant> {
        self.outages.iter().map(|(killed, _)| *killed)
    }

    /// Whether something that happened since then may be due to an outage.
    pub(crate) fn is_excused(&self, since: Instant) -> bool {
        self.outages.last().is_some_and(|(_, back)| back.is_none_or(|back| back + AFTERMATH > since))
    }
}

/// Shared by those who cause the faults and those who suffer from them.
#[derive(Default)]
pub(crate) struct Board {
    status: Mutex<Status>,
    /// No more faults; all has gone well so far.
    is_over: AtomicBool,
}

impl Board {
    /// As long as this is held, nothing is killed.
    pub(crate) fn read(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap()
    }

    /// Ends the faults.
    pub(crate) fn end(&self, stop: Sender<()>) {
        self.is_over.store(true, Ordering::Relaxed);
        drop(stop);
    }
}

pub(crate) struct Cluster<'a> {
    backend: &'a Backend,
    board: &'a Board,
    pub redis: Redis,
    pub gateways: Vec<Gateway>,
    random: Random,
}

impl<'a> Cluster<'a> {
    pub(crate) fn start(count: usize, fsync: &str, seed: u64, backend: &'a Backend, board: &'a Board) -> Self {
        let redis = Redis::with(&["--appendonly", "yes", "--appendfsync", fsync]);
        let mut cluster = Self { backend, board, redis, gateways: Vec::new(), random: Random::new(seed) };
        for n in 0..count {
            let gateway = cluster.gateway();
            cluster.gateways.push(gateway);
            board.read().serving.push(None);
            cluster.announce(n);
        }
        cluster
    }

    fn gateway(&self) -> Gateway {
        Gateway::for_backend(self.backend)
            .set("REDIS_URL", self.redis.url())
            .set("REDIS_TIMEOUT_SECONDS", REDIS_TIMEOUT_SECONDS)
            .set("HISTORY_EVENTS", HISTORY_EVENTS)
            .set("HEARTBEAT_INTERVAL_SECONDS", 5)
            .set("LOG_LEVEL", "warn")
            .start()
    }

    /// A gateway that is ready gets clients, as behind a load balancer.
    fn announce(&self, n: usize) {
        let gateway = &self.gateways[n];
        eventually("a gateway is ready", || gateway.get("/readyz").status == 200);
        let mut status = self.board.read();
        status.serving[n] = Some(status.runs.len());
        status.runs.push(Run { port: gateway.port, pid: gateway.pid(), state: State::Serving });
    }

    /// Causes faults until the sender is dropped; then all is well again.
    pub(crate) fn suffer(mut self, stop: &Receiver<()>) -> Self {
        let (mut redis_at, mut gateway_at) = (Instant::now() + REDIS_EVERY / 2, Instant::now() + REDIS_EVERY);
        loop {
            let next = redis_at.min(gateway_at).saturating_duration_since(Instant::now());
            match stop.recv_timeout(next) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    if !self.board.is_over.load(Ordering::Relaxed) {
                        self.gateways.iter().for_each(|gateway| eprintln!("--- a gateway's log\n{}", gateway.log()));
                    }
                    return self;
                }
                Err(RecvTimeoutError::Timeout) if redis_at <= gateway_at => {
                    redis_at += REDIS_EVERY;
                    self.lose_redis(stop);
                }
                Err(RecvTimeoutError::Timeout) => {
                    gateway_at += REDIS_EVERY / 2 + self.random_part(REDIS_EVERY);
                    let n = self.lose_gateway();
                    self.announce(n);
                }
            }
        }
    }

    fn lose_redis(&mut self, stop: &Receiver<()>) {
        let away = self.random_part(AWAY_MAX);
        let takes_gateway = self.random.chance(200);
        self.board.read().outages.push((Instant::now(), None));
        self.redis.kill();
        let lost = takes_gateway.then(|| self.lose_gateway());
        let _ = stop.recv_timeout(away);
        self.redis.run();
        let mut status = self.board.read();
        status.outages.last_mut().expect("an outage").1 = Some(Instant::now());
        drop(status);
        if let Some(n) = lost {
            self.announce(n);
        }
    }

    /// Kills or drains any gateway but the first, and starts another in its place.
    fn lose_gateway(&mut self) -> usize {
        let n = 1 + self.random.index(self.gateways.len() - 1);
        let is_drained = self.random.chance(500);
        let mut status = self.board.read();
        let run = status.serving[n].take().expect("it serves");
        status.runs[run].state = if is_drained { State::Draining } else { State::Killed };
        let gateway = &mut self.gateways[n];
        gateway.signal(if is_drained { SIGTERM } else { SIGKILL });
        drop(status);
        let code = gateway.exit_code();
        assert_eq!(code, is_drained.then_some(0), "{}", gateway.log());
        self.gateways[n] = self.gateway();
        n
    }

    /// Drains all gateways at once.
    pub(crate) fn drain(&mut self) {
        let mut status = self.board.read();
        status.serving.fill(None);
        status.runs.iter_mut().filter(|run| run.state == State::Serving).for_each(|run| run.state = State::Draining);
        self.gateways.iter().for_each(|gateway| gateway.signal(SIGTERM));
    }

    fn random_part(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.random.below(1000) as f64 / 1000.0)
    }
}
