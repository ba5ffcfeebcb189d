//! Callbacks, made by blocking threads: as many as there is work for, up to a limit, gone when idle.
//!
//! The pool runs what it is handed, first come first served; which call may go first, and how many
//! may be in flight, is the gateway's business. What came of a call goes back over a channel, and
//! then the event loop is woken.

mod client;
mod resolver;
#[cfg(test)]
mod tests;
mod transport;

use crate::callback::{Call, Completion, Outcome};
use client::Client;
use resolver::Lookup;
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A thread that had nothing to do for so long ends: longer than its connection is kept alive, shorter than
/// the reactor waits before it gives memory back.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(3);
/// A TLS handshake is what needs most: 50 KiB in a release build, 150 KiB unoptimised.
const THREAD_STACK_BYTES: usize = 256 * 1024;

/// Wakes the event loop, from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What callbacks have in common. Holds a secret, so it has no `Debug`.
pub struct WorkerSettings {
    /// Absolute, `http` or `https`, without user info and fragment.
    pub url: String,
    /// The value of the `Authorization` header.
    pub authorization: Option<String>,
    /// Names this run of the gateway: the value of the `SSEGateway-Instance` header.
    pub instance: String,
    /// For one callback, from name lookup to the end of the answer.
    pub timeout: Duration,
    /// Most callbacks in flight, at least 1.
    pub threads_max: usize,
}

/// The pool. Dropping it lets queued calls finish and then ends its threads, without waiting.
pub struct Workers(Arc<Shared>);

struct Shared {
    client: Client,
    completions: Sender<Completion>,
    wake: Wake,
    threads_max: usize,
    stack_bytes: usize,
    idle_time: Duration,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Call>,
    /// Threads started and not ended.
    threads: usize,
    /// Threads waiting for work, those included that were notified but have not woken up yet.
    idle: usize,
    /// The pool was dropped.
    closed: bool,
}

impl Workers {
    /// Prepares the pool; no thread starts before there is work. Errors: a URL or header value that
    /// HTTP does not allow.
    pub fn start(settings: WorkerSettings, completions: Sender<Completion>, wake: Wake) -> io::Result<Workers> {
        Workers::assemble(settings, completions, wake, resolver::system_lookup(), THREAD_STACK_BYTES, THREAD_IDLE_TIME)
    }

    /// As [`Workers::start`], with what tests like to choose.
    fn assemble(
        settings: WorkerSettings,
        completions: Sender<Completion>,
        wake: Wake,
        lookup: Lookup,
        stack_bytes: usize,
        idle_time: Duration,
    ) -> io::Result<Workers> {
        let WorkerSettings { url, authorization, instance, timeout, threads_max } = settings;
        let client = Client::new(&url, authorization.as_deref(), &instance, timeout, lookup)?;
        Ok(Workers(Arc::new(Shared {
            client,
            completions,
            wake,
            threads_max: threads_max.max(1),
            stack_bytes,
            idle_time,
            state: Mutex::default(),
            work: Condvar::new(),
        })))
    }

    /// Hands over a call; never blocks. Exactly one [`Completion`] follows, on the channel given at
    /// the start, and a wake after it. Where not even one thread can be had, the completion follows
    /// at once, as unavailable.
    pub fn submit(&self, call: Call) {
        let mut state = self.0.lock();
        state.queue.push_back(call);
        let more_threads = state.queue.len() > state.idle && state.threads < self.0.threads_max;
        if more_threads {
            state.threads += 1;
        }
        drop(state);
        self.0.work.notify_one();
        if more_threads {
            let shared = Arc::clone(&self.0);
            let builder = thread::Builder::new().name("callback".to_owned()).stack_size(self.0.stack_bytes);
            if let Err(error) = builder.spawn(move || shared.work()) {
                self.0.not_started(&error);
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        while let Some(call) = self.next_call() {
            self.client.run(&call, |outcome| self.complete(&call, outcome));
        }
    }

    fn complete(&self, call: &Call, outcome: Outcome) {
        // Nobody listens any more only while the process ends.
        let _ = self.completions.send(Completion { id: call.id, outcome });
        (self.wake)();
    }

    /// Waits for a call; `None` tells the thread to end.
    fn next_call(&self) -> Option<Call> {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(call) = state.queue.pop_front() {
                return Some(call);
            }
            let left = self.idle_time.saturating_sub(start.elapsed());
            if state.closed || left.is_zero() {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            // Woken also to close connections in time: the one this thread used last is the youngest.
            let pause = left.min(transport::IDLE_TIME_MAX);
            state = self.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
            state.idle -= 1;
            if state.queue.is_empty() {
                drop(state);
                self.client.close_idle(Instant::now());
                state = self.lock();
            }
        }
    }

    /// A thread could not be started. Others will get to the queue; without any, nobody would.
    fn not_started(&self, error: &io::Error) {
        let mut state = self.lock();
        state.threads -= 1;
        let stranded = if state.threads == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() };
        drop(state);
        log::warn!(error:%, calls_failed = stranded.len(); "callback thread failed to start");
        for call in stranded {
            self.complete(&call, Outcome::Unavailable { written: false });
        }
    }
}
