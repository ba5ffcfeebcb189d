//! Faults, their probabilities, and the settings of a run, all derived from the seed.

use crate::random::Random;
use ssegateway::gateway::{ConnectFailure, Cors, Settings};
use ssegateway::secret::Secret;
use std::time::Duration;

/// The faults, with their usual probabilities in per mille, per occasion.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $usual:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($(#[$doc])* $name,)*
        }

        const FAULTS: &[(Fault, u64)] = &[$((Fault::$name, $usual),)*];
    };
}

faults! {
    /// Input arrives in small pieces.
    Pieces: 400,
    /// The kernel accepts less than it has room for, and will send no edge.
    ShortWrite: 200,
    /// EINTR from read, write, accept and poll.
    Interrupted: 100,
    /// A spurious edge.
    SpuriousEdge: 200,
    /// An event for a connection that is already closed.
    StaleEvent: 200,
    /// The pool reports a second outcome for an answered call.
    StaleOutcome: 200,
    /// The poll returns few events at a time, in any order.
    SmallBatches: 300,
    /// write(2) returns 0.
    WriteZero: 5,
    /// Registering a socket fails.
    RegisterFails: 20,
    /// accept(2) fails because the client has already left.
    AcceptAborted: 50,
    /// Descriptors run out for some time; no edge when they are available again.
    NoDescriptors: 100,
    /// The loop is late: time passes while it works.
    LateLoop: 100,
    /// The monotonic clock jumps ahead (a suspended machine).
    ClockJump: 500,
    /// SIGTERM in the middle of everything.
    Signal: 400,
    /// Clients that reset the connection.
    Reset: 200,
    /// Clients that half-close or leave early.
    HalfClose: 200,
    /// The last bytes and the end of input arrive together.
    DataWithFin: 200,
    /// Hosts that vanish without a trace.
    DeadHost: 100,
    /// Clients that read little at a time.
    SlowReader: 200,
    /// Clients that stop reading.
    StalledReader: 150,
    /// Heads that arrive slowly.
    SlowHead: 150,
    /// Input that is not HTTP, or is refused.
    Garbage: 150,
    /// Input after a stream's GET.
    ExcessInput: 100,
    /// Small socket buffers.
    SmallPipes: 300,
    /// Many clients, many events at once.
    Flood: 300,
    /// The backend is down for some seconds.
    BackendDown: 300,
    /// The backend has a few synchronous workers.
    FewWorkers: 300,
    /// The backend is slow.
    SlowAnswer: 300,
    /// The backend never answers.
    LostAnswer: 100,
    /// A timed-out call is answered late.
    LateAnswer: 500,
    /// A kept-alive connection closes unanswered; the answer is that to a second attempt.
    RetriedAnswer: 200,
    /// The worker itself reports late.
    LateOutcome: 100,
    /// Refused, reset, garbage.
    BrokenAnswer: 100,
    /// A 2xx whose body is late, cut short or not JSON.
    MalformedAnswer: 150,
    /// The backend rejects.
    Rejection: 150,
}

/// The probabilities of one run.
pub(super) struct Faults {
    permille: [u64; FAULTS.len()],
    /// Faults are over; all work must finish.
    calm: bool,
}

impl Faults {
    /// Even seeds mix all faults, each at its own strength; odd seeds have a single fault (one in 32 of those has
    /// none).
    pub(super) fn draw(seed: u64, random: &mut Random) -> Self {
        let mut permille = [0; FAULTS.len()];
        if seed.is_multiple_of(2) {
            for (permille, (_, usual)) in permille.iter_mut().zip(FAULTS) {
                *permille = usual * random.pick(&[0, 0, 1, 2, 4]) / 2;
            }
        } else {
            let alone = (seed / 2 % (FAULTS.len() as u64 + 1)) as usize;
            if let Some(permille) = permille.get_mut(alone) {
                *permille = FAULTS[alone].1 * random.within(2, 4) / 2;
            }
        }
        Self { permille, calm: false }
    }

    /// Whether the fault occurs on this occasion.
    pub(super) fn strikes(&self, fault: Fault, random: &mut Random) -> bool {
        let permille = self.permille[fault as usize];
        !self.calm && permille > 0 && random.chance(permille)
    }

    /// Whether this is the only fault of the run.
    pub(super) fn has_only(&self, fault: Fault) -> bool {
        self.permille.iter().enumerate().all(|(other, permille)| (other == fault as usize) == (*permille > 0))
    }

    /// No more faults from now on.
    pub(super) fn end(&mut self) {
        self.calm = true;
    }

    pub(super) fn ended(&self) -> bool {
        self.calm
    }

    /// The active faults, for the head of a trace.
    pub(super) fn describe(&self) -> String {
        let on = FAULTS.iter().zip(self.permille).filter(|(_, permille)| *permille > 0);
        let names: Vec<String> = on.map(|((fault, _), permille)| format!("{fault:?}={permille}")).collect();
        names.join(" ")
    }
}

/// The settings for a run with groups. What is queued for one stream alone does not reach its limit, and no disconnect is
/// made again: when a stream that lags has ended is not known outside.
pub(super) fn draw_history(settings: &mut Settings, random: &mut Random) {
    settings.history_age = Duration::from_secs(random.pick(&[0, 2, 300, 300]));
    settings.history_events = random.pick(&[1, 3, 10, 1000]);
    settings.history_bytes = random.pick(&[1500, 4000, 1 << 20, 1 << 20]);
    (settings.streams_max, settings.pending_bytes_max) = (1_000, 1024 * 1024);
    settings.disconnect_retry = Duration::ZERO;
}

/// The gateway's settings for one run: small limits and short times, so that all are reached.
pub(super) fn draw_settings(random: &mut Random) -> Settings {
    let millis = |random: &mut Random, low, high| Duration::from_millis(random.within(low, high));
    Settings {
        instance: "simulated".to_owned(),
        callback_configured: !random.chance(20),
        callback_timeout: millis(random, 500, 4_000),
        connect_queue: millis(random, 500, 6_000),
        callback_concurrency: random.pick(&[1, 2, 3, 8, 128]),
        disconnect_retry: Duration::from_secs(random.pick(&[0, 0, 2, 10])),
        start_callback: random.chance(200),
        connect_failure: random.pick(&[ConnectFailure::Status, ConnectFailure::Status, ConnectFailure::Retry]),
        heartbeat_interval: millis(random, 200, 5_000),
        reconnect_delay_ms: random.pick(&[None, None, Some(0), Some(1_000)]),
        cors: if random.chance(200) { Cors::Any } else { Cors::Off },
        internal_listener: random.chance(300),
        internal_token: random.chance(200).then(|| Secret::new("secret".to_owned())),
        streams_max: random.pick(&[1, 3, 8, 1_000]),
        head_bytes_max: random.pick(&[256, 1_500, 16 * 1024]),
        body_bytes_max: random.pick(&[1_000, 4_000, 1024 * 1024]),
        pending_bytes_max: random.pick(&[0, 1, 60, 200, 2_000, 20_000, 1024 * 1024]),
        request_timeout: millis(random, 300, 5_000),
        keepalive_timeout: millis(random, 300, 8_000),
        client_timeout: millis(random, 300, 5_000),
        shutdown_delay: random.pick(&[Duration::ZERO, Duration::from_millis(700), Duration::from_secs(3)]),
        shutdown_timeout: millis(random, 200, 6_000),
        ..Settings::default()
    }
}
