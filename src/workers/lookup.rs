//! A lookup of a name by a thread of its own, for the rare case that the gateway itself connects to something.

use super::resolver::system_lookup;
use crate::job::Completion;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;

/// A lookup needs more stack than a callback: the C library's resolver has large buffers.
const STACK_BYTES: usize = 256 * 1024;

/// Looks names up, one thread each.
pub struct Lookups {
    completions: Sender<Completion>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Lookups {
    /// Completions go to that channel, each followed by a wake-up.
    pub fn new(completions: Sender<Completion>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { completions, wake }
    }

    /// Begins a lookup; never blocks. A [`Completion::Resolved`] follows.
    pub fn submit(&self, host: String, port: u16) {
        let (completions, wake) = (self.completions.clone(), Arc::clone(&self.wake));
        let look_up = move || {
            let answer = system_lookup()(&host, port).map_err(|error| error.to_string());
            // The receiver is gone only while the process ends.
            let _ = completions.send(Completion::Resolved(answer));
            wake();
        };
        if let Err(error) = thread::Builder::new().name("lookup".to_owned()).stack_size(STACK_BYTES).spawn(look_up) {
            let _ = self.completions.send(Completion::Resolved(Err(error.to_string())));
            (self.wake)();
        }
    }
}
