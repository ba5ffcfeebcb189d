//! Callbacks, made by blocking threads: as many as there is work for, up to a limit, gone when idle.
//!
//! The pool runs what it is handed, first come first served; which call may go first, and how many
//! may be in flight, is the gateway's business. What came of a call goes back over a channel, and
//! then the event loop is woken.

mod client;
mod resolver;
mod tcp;
#[cfg(test)]
mod tests;
mod transport;

use crate::callback::{Call, Called, Outcome};
use crate::job::Completion;
use crate::sys;
use client::Client;
use resolver::Lookup;
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long threads wait for another call before they end.
#[derive(Clone, Copy)]
struct IdleTimeouts {
    /// Of one among others. A storm's threads are not needed for longer than it lasts.
    usual: Duration,
    /// Of the last one that waits: for the next call, and to close connections in time. Longer than those are kept
    /// alive.
    last: Duration,
}

const IDLE_TIMEOUTS: IdleTimeouts = IdleTimeouts { usual: Duration::from_millis(500), last: Duration::from_secs(30) };

/// A TLS handshake is what needs most: 50 KiB in a release build, 150 KiB unoptimised. But glibc keeps the
/// stacks of threads that have ended, each with some pages that they had touched, up to 40 MiB of address
/// space: 5 stacks of this size, which is the system's own, and not 160 of 256 KiB.
const THREAD_STACK_BYTES: usize = 8 * 1024 * 1024;

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
    idle_timeouts: IdleTimeouts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Calls that found no thread idle.
    queue: VecDeque<Call>,
    /// Threads that wait for a call. The one that came last is the next to work: its stack and its
    /// connection are warm, and those that there is no work for get to end.
    idle: Vec<Arc<Worker>>,
    /// Threads started and not ended.
    threads: usize,
    /// The pool was dropped.
    closed: bool,
}

/// Where a thread waits. A call is put before it and just this thread is woken, which then needs nothing
/// that others hold.
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
    /// Prepares the pool; no thread starts before there is work. Errors: a URL or header value that
    /// HTTP does not allow.
    pub fn start(settings: WorkerSettings, completions: Sender<Completion>, wake: Wake) -> io::Result<Workers> {
        Workers::assemble(settings, completions, wake, resolver::system_lookup(), THREAD_STACK_BYTES, IDLE_TIMEOUTS)
    }

    /// As [`Workers::start`], with what tests like to choose.
    fn assemble(
        settings: WorkerSettings,
        completions: Sender<Completion>,
        wake: Wake,
        lookup: Lookup,
        stack_bytes: usize,
        idle_timeouts: IdleTimeouts,
    ) -> io::Result<Workers> {
        let WorkerSettings { url, authorization, instance, timeout, threads_max } = settings;
        let client = Client::new(&url, authorization.as_deref(), &instance, timeout, lookup)?;
        Ok(Workers(Arc::new(Shared {
            client,
            completions,
            wake,
            threads_max: threads_max.max(1),
            stack_bytes,
            idle_timeouts,
            state: Mutex::default(),
        })))
    }

    /// Hands over a call; never blocks. Exactly one [`Completion`] follows, on the channel given at
    /// the start, and a wake after it. Where not even one thread can be had, the completion follows
    /// at once, as unavailable.
    pub fn submit(&self, call: Call) {
        let mut state = self.0.lock();
        if let Some(worker) = state.idle.pop() {
            // Before the lock goes: who is not among the idle any more has its call.
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
                rest.read();
                next = self.next(&worker);
            } else {
                // In this order a call that follows from this one finds the thread that is free.
                next = self.next(&worker);
                self.complete(&call, outcome);
            }
        }
    }

    fn complete(&self, call: &Call, outcome: Outcome) {
        // Nobody listens any more only while the process ends.
        let _ = self.completions.send(Completion::Called(Called { id: call.id, outcome }));
        (self.wake)();
    }

    /// Takes a queued call, or else a seat among the idle.
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

    /// Waits at the seat for a call; `None` tells the thread to end.
    fn wait(&self, worker: &Arc<Worker>) -> Option<Call> {
        let start = Instant::now();
        let mut idle_timeouts = self.idle_timeouts.usual;
        loop {
            let left = idle_timeouts.saturating_sub(start.elapsed());
            // Woken also to close connections in time.
            thread::park_timeout(left.min(transport::IDLE_TIME_MAX));
            if let Some(call) = worker.lock().take() {
                return Some(call);
            }
            let now = Instant::now();
            self.client.close_idle(now);
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

    /// A thread could not be started. Others will get to the queue; without any, nobody would.
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
