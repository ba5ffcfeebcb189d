//! A backend that moves: its name gets another address, while the old one goes on answering.

use crate::common::{Answer, Backend, Call, Directory, Gateway};
use crate::report;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NAME: &str = "backend.test";
/// Within that time no call goes to the old address any more (contract, section 10).
const FOLLOWED_WITHIN: Duration = Duration::from_secs(6);
/// Of a busy machine.
const SLACK: Duration = Duration::from_secs(1);
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(5);

/// A file that stands for /etc/hosts in the gateway's own mount namespace.
struct Hosts(Directory);

impl Hosts {
    fn new() -> Self {
        let hosts = Self(Directory::new());
        // No name server, so that no question leaves the machine.
        fs::write(hosts.0.path("resolv.conf"), "").expect("a file");
        fs::write(hosts.0.path("hosts"), "").expect("a file");
        hosts
    }

    /// In one write of the same length, so that nobody reads half of it.
    fn set(&self, last: u8) {
        let mut file = fs::File::options().write(true).open(self.0.path("hosts")).expect("the file");
        file.write_all(format!("127.0.0.{last} {NAME}\n").as_bytes()).expect("a line");
    }

    /// The commands with which a shell becomes the gateway in a mount namespace with these options of `unshare`.
    fn entry(&self, options: &str) -> String {
        let mount = |name: &str| format!("mount --bind {} /etc/{name}", self.0.path(name).display());
        let inner = format!(
            r#"{} && if [ -e /etc/resolv.conf ]; then {}; fi && exec "$0""#,
            mount("hosts"),
            mount("resolv.conf")
        );
        format!(r#"exec unshare {options} sh -c '{inner}' "$0""#)
    }
}

/// The options of `unshare` for a mount namespace, where one may be made; within one of users that needs no privilege.
fn mount_namespace() -> Option<&'static str> {
    ["--mount", "--user --map-root-user --mount"].into_iter().find(|options| {
        let output = Command::new("unshare").args(options.split(' ')).arg("true").output();
        output.expect("unshare, of util-linux").status.success()
    })
}

/// How many calls an address has got, and when the last.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<(usize, Option<Instant>)>>);

impl Calls {
    fn handler(&self) -> impl Fn(&Call) -> Answer + Send + Sync + use<> {
        let calls = self.0.clone();
        move |_| {
            let mut calls = calls.lock().unwrap();
            *calls = (calls.0 + 1, Some(Instant::now()));
            Answer::ok()
        }
    }

    fn get(&self) -> (usize, Option<Instant>) {
        *self.0.lock().unwrap()
    }
}

#[test]
fn a_backend_that_moves_is_followed_under_load() {
    let Some(options) = mount_namespace() else {
        return report("SKIPPED: a backend that moves: no mount namespace to be had");
    };
    let (before, after) = (Calls::default(), Calls::default());
    let old = Backend::forgetful(before.handler());
    let new = Backend::elsewhere(&old.port, after.handler());
    let hosts = Hosts::new();
    hosts.set(1);
    let url = format!("http://{NAME}:{}/callback", old.port);
    let mut gateway = Gateway::builder().set("CALLBACK_URL", url).shell(&hosts.entry(options)).start();
    let stop = AtomicBool::new(false);
    let (moved, opened) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut opened = 0;
                    while !stop.load(Ordering::SeqCst) {
                        // Of a stream: a connect that fails is a panic.
                        drop(gateway.open("/x"));
                        opened += 1;
                        std::thread::sleep(PACE);
                    }
                    opened
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let moved = Instant::now();
        hosts.set(2);
        // What is to be seen is that nothing happens at the old address from some time on.
        std::thread::sleep(FOLLOWED_WITHIN + 2 * SLACK);
        stop.store(true, Ordering::SeqCst);
        let opened: usize = clients.into_iter().map(|client| client.join().expect("no connect fails")).sum();
        (moved, opened)
    });
    gateway.drain();
    let ((at_old, last), (at_new, _)) = (before.get(), after.get());
    let followed = last.expect("calls").saturating_duration_since(moved);
    report(&format!("a backend that moves: followed after {followed:.1?}; {at_old} calls, then {at_new}"));
    assert_eq!(at_old + at_new, 2 * opened, "a connect and a disconnect each");
    assert!(at_old > 100 && at_new > 100, "{at_old}, {at_new}");
    assert!(followed < FOLLOWED_WITHIN + SLACK, "{followed:?}");
    drop((old, new));
}
