//! A pool of blocking threads for callbacks. It grows with the work up to a limit; idle threads end.
//!
//! Calls run in the order of submission; the gateway decides on priority and on the number in flight. The outcome of a
//! call is sent over a channel, then the event loop is woken.

mod client;
mod dial;
mod failures;
mod idle;
mod late;
mod lookup;
mod probe;
mod probe_redis;
mod resolver;
mod settings;
mod socket;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod transport;
#[cfg(feature = "tls")]
mod verifier;

use crate::callback::{Call, Called, Outcome};
use crate::job::Completion;
use crate::sys;
use client::Client;
pub use lookup::Lookups;
pub use probe::probe;
pub use probe_redis::probe_redis;
pub use settings::WorkerSettings;
use settings::{IdleTimeouts, Tuning};
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Instant;
pub use tls::{Session, Sessions};

/// Wakes the event loop, from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The pool. Dropping it lets queued calls finish and then ends its threads, without waiting.
pub struct Workers(Arc<Shared>);

struct Shared {
    client: Client,
    completions: Sender<Completion>,
    wake: Wake,
    threads_max: usize,
    stack_bytes: usize,
    idle_timeouts: IdleTimeouts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Calls without a thread.
    queue: VecDeque<Call>,
    /// Idle threads. The last one to become idle is used next: its stack is warm, and surplus threads reach their
    /// timeout.
    idle: Vec<Arc<Worker>>,
    /// Running threads.
    threads: usize,
    /// The pool was dropped.
    closed: bool,
}

/// The mailbox of a thread: a call is put into it and only this thread is woken, without contention for the pool's
/// lock.
struct Worker {
    thread: Thread,
    call: Mutex<Option<Call>>,
}

/// What a thread does next.
enum Next {
    Run(Call),
    Wait,
    End,
}

impl Workers {
    /// Prepares the pool; threads start with the first calls. Errors: a URL or header value that HTTP does not allow,
    /// an extra root that is not a certificate.
    pub fn start(settings: WorkerSettings, completions: Sender<Completion>, wake: Wake) -> io::Result<Self> {
        Self::assemble(settings, completions, wake, Tuning::default())
    }

    fn assemble(
        settings: WorkerSettings,
        completions: Sender<Completion>,
        wake: Wake,
        tuning: Tuning,
    ) -> io::Result<Self> {
        let client = Client::new(&settings, &tuning)?;
        Ok(Self(Arc::new(Shared {
            client,
            completions,
            wake,
            threads_max: settings.threads_max.max(1) + settings.late_max,
            stack_bytes: tuning.stack_bytes,
            idle_timeouts: tuning.idle_timeouts,
            state: Mutex::default(),
        })))
    }

    /// Submits a call; never blocks. Exactly one [`Completion`] follows on the channel given at the start, then a
    /// wake-up (two after [`Outcome::Overdue`]). If no thread can be started, the completion follows at once, as
    /// unavailable.
    pub fn submit(&self, call: Call) {
        let mut state = self.0.lock();
        if let Some(worker) = state.idle.pop() {
            // Before unlocking: a worker no longer in `idle` must already hold its call.
            *worker.lock() = Some(call);
            drop(state);
            return worker.thread.unpark();
        }
        state.queue.push_back(call);
        if state.threads == self.0.threads_max {
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.0);
        let builder = thread::Builder::new().name("callback".to_owned()).stack_size(self.0.stack_bytes);
        let life = move || {
            shared.work();
            drop(shared);
            sys::release_stack();
        };
        if let Err(error) = builder.spawn(life) {
            self.0.not_started(&error);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        for worker in &state.idle {
            worker.thread.unpark();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        let worker = Arc::new(Worker { thread: thread::current(), call: Mutex::default() });
        let mut next = self.next(&worker);
        loop {
            let call = match next {
                Next::Run(call) => call,
                Next::Wait => match self.wait(&worker) {
                    Some(call) => call,
                    None => return,
                },
                Next::End => return,
            };
            let (outcome, rest) = self.client.run(&call);
            if let Some(rest) = rest {
                self.complete(&call, outcome);
                if let Some(outcome) = rest.read() {
                    self.complete(&call, outcome);
                }
                next = self.next(&worker);
            } else {
                // In this order, a call that follows from this completion finds this thread idle.
                next = self.next(&worker);
                self.complete(&call, outcome);
            }
        }
    }

    fn complete(&self, call: &Call, outcome: Outcome) {
        // The receiver is gone only while the process ends.
        let _ = self.completions.send(Completion::Called(Called { id: call.id, outcome }));
        (self.wake)();
    }

    /// Takes a queued call, or joins the idle threads.
    fn next(&self, worker: &Arc<Worker>) -> Next {
        let mut state = self.lock();
        if let Some(call) = state.queue.pop_front() {
            return Next::Run(call);
        }
        if state.closed {
            state.threads -= 1;
            return Next::End;
        }
        state.idle.push(Arc::clone(worker));
        Next::Wait
    }

    /// Waits for a call; `None`: the thread must end.
    fn wait(&self, worker: &Arc<Worker>) -> Option<Call> {
        let start = Instant::now();
        let mut idle_timeouts = self.idle_timeouts.usual;
        loop {
            let left = idle_timeouts.saturating_sub(start.elapsed());
            // Wake up in time to close idle connections.
            thread::park_timeout(left.min(idle::IDLE_TIME_MAX));
            if let Some(call) = worker.lock().take() {
                return Some(call);
            }
            let now = Instant::now();
            self.client.tidy(now);
            let mut state = self.lock();
            idle_timeouts = if state.idle.len() > 1 { self.idle_timeouts.usual } else { self.idle_timeouts.last };
            if (state.closed || now.duration_since(start) >= idle_timeouts)
                && let Some(at) = state.idle.iter().position(|idle| Arc::ptr_eq(idle, worker))
            {
                state.idle.remove(at);
                state.threads -= 1;
                return None;
            }
        }
    }

    /// A thread could not be started. The others process the queue; without any, its calls fail.
    fn not_started(&self, error: &io::Error) {
        let mut state = self.lock();
        state.threads -= 1;
        let stranded = if state.threads == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() };
        drop(state);
        log::warn!(error = error.to_string(), calls_failed = stranded.len(); "callback thread failed to start");
        for call in stranded {
            self.complete(&call, Outcome::Unavailable { written: false });
        }
    }
}

impl Worker {
    fn lock(&self) -> MutexGuard<'_, Option<Call>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
