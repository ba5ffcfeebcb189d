//! The signals that end the process (SIGTERM, SIGINT, SIGHUP and SIGQUIT, which request it, and SIGABRT), and those
//! that must not.

use super::errno::check;
#[cfg(target_os = "linux")]
use super::signalfd as source;
#[cfg(not(target_os = "linux"))]
use super::sigwait as source;
use libc::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The signals that request the end of the process.
const ENDING: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Signals without a meaning for the gateway, whose default action would end it without a drain.
const IGNORED: [c_int; 5] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGPIPE, libc::SIGXFSZ];

/// The signals that request the end, as a descriptor: readable when one is pending.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks these signals in this thread and all threads that it starts later, and opens the descriptor, nonblocking
    /// and close-on-exec; ignores those without a meaning. Call before any thread starts.
    pub fn block() -> io::Result<Self> {
        for signal in IGNORED {
            set_action(signal, libc::SIG_IGN)?;
        }
        // Under nohup(1) the end of the terminal must have no effect.
        let hangup_is_ignored = action_of(libc::SIGHUP)? == libc::SIG_IGN;
        let ending = ENDING.into_iter().filter(|signal| *signal != libc::SIGHUP || !hangup_is_ignored);
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; the others work on the initialised set. These
        // functions fail only for bad signal numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ending {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised; a null old set is allowed.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        source::open(set).map(Self)
    }

    /// Takes one pending signal. Call until it returns `false`.
    pub fn take(&self) -> bool {
        let mut message = [0_u8; source::MESSAGE_BYTES];
        // SAFETY: pointer and length are those of a live array.
        let read = unsafe { libc::read(self.0.as_raw_fd(), message.as_mut_ptr().cast::<c_void>(), message.len()) };
        usize::try_from(read) == Ok(message.len())
    }
}

/// Sets a signal's action: `SIG_DFL` or `SIG_IGN`.
fn set_action(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all zeroes is a valid action: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the action is initialised and names no function; a null old action is allowed.
    check(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

/// A signal's action.
fn action_of(signal: c_int) -> io::Result<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action changes nothing; the old one is written.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so the action is initialised.
    Ok(unsafe { action.assume_init() }.sa_sigaction)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The longest delay of an abort, in milliseconds: some megabytes of log, but a stuck reader must not keep a broken
/// process alive.
const ABORT_DELAY_MS: u32 = 1_000;

/// Makes abort(3) wait while `busy` is set, for at most a second, so that another thread can finish its work. Only the
/// first call counts.
pub fn delay_abort(busy: &'static AtomicBool) -> io::Result<()> {
    static BUSY: OnceLock<&AtomicBool> = OnceLock::new();

    /// Calls only functions that signal-safety(7) allows.
    extern "C" fn wait(signal: c_int) {
        let is_busy = || BUSY.get().is_some_and(|busy| busy.load(Ordering::Acquire));
        let mut left = ABORT_DELAY_MS;
        while left > 0 && is_busy() {
            left -= 1;
            // SAFETY: without descriptors the pointer is not used; the call sleeps for a millisecond.
            unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
        }
        // SAFETY: takes a plain integer. The action is the default one again; it takes effect when this handler returns.
        unsafe { libc::raise(signal) };
    }

    let _ = BUSY.set(busy);
    // SAFETY: all zeroes is a valid action: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = wait as extern "C" fn(c_int) as usize;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_ONSTACK;
    // SAFETY: the action is initialised, its handler has the signature that the flags call for; a null old action is
    // allowed.
    check(unsafe { libc::sigaction(libc::SIGABRT, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_arrive_at_the_descriptor() {
        let signals = Signals::block().unwrap();
        assert!(!signals.take());
        for signal in [libc::SIGTERM, libc::SIGQUIT] {
            // SAFETY: takes a plain integer; the signal is blocked in this thread, which receives it.
            unsafe { libc::raise(signal) };
            assert!(signals.take());
            assert!(!signals.take());
        }
    }
}
