//! The soak of several gateways: clients hop between them with their cursors, senders send at all of them, Redis is killed
//! every 20 s, and a gateway is killed or drained now and then. Each client gets each event of its groups that was answered
//! with 200 once and in order, or is told by a gap that something may be missing (docs/protocol.md, section 16).
//!
//! Run by `make soak GATEWAYS=3 MINUTES=15`. Also settable: `SOAK_STREAMS`, `SOAK_RATE` (sends a second), `SOAK_SEED`, and
//! `SOAK_FSYNC` (`always`, or `everysec`, with which Redis may lose what it has accepted).

mod account;
mod cluster;
mod crowd;
mod hopper;
mod sending;
mod truth;

use crate::common::{Answer, Backend, Random, sys};
use crate::{Sample, assert_flat, setting};
use cluster::{Board, Cluster};
use crowd::Crowd;
use serde_json::json;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use truth::{Fate, Truth};

/// Events kept of each group: about a minute of them.
const HISTORY_EVENTS: usize = 64;
/// The maximum wait for a stream.
const PATIENCE: Duration = Duration::from_secs(30);
/// The maximum wait for an event: Redis may be away and gaps be spread meanwhile.
const LATE: Duration = Duration::from_secs(30);
/// Longest wait for everybody to have everything at the end.
const REST: Duration = Duration::from_secs(60);
/// Members of a group on average: each client is in 1 to 4.
const STREAMS_PER_GROUP: usize = 20;

/// The backend was asked for a stream.
pub(crate) struct Asked {
    visit: u64,
    token: String,
    at: Instant,
}

/// Grants the groups in the path, from where the query says.
fn backend(tell: Sender<Asked>) -> Backend {
    Backend::forgetful(move |call| {
        if call.action() == "disconnect" {
            return Answer::ok();
        }
        let (path, query) = call.url().split_once('?').unwrap_or((call.url(), ""));
        let (visit, groups) = path[1..].split_once('/').expect("/VISIT/GROUPS");
        let visit = visit.parse().expect("a number");
        let mut answer = json!({ "groups": groups.split(',').collect::<Vec<_>>() });
        if let Some(since) = query.strip_prefix("since=") {
            answer["since"] = json!(since);
        }
        let _ = tell.send(Asked { visit, token: call.token().to_owned(), at: call.at });
        let mut random = Random::new(visit);
        let delay = if random.chance(50) { 100 + random.below(300) } else { random.below(5) };
        Answer::json(&answer.to_string()).delayed(Duration::from_millis(delay))
    })
}

pub(crate) fn run(gateways: usize) {
    assert!(gateways > 1, "clients hop between gateways");
    let (minutes, streams) = (setting("SOAK_MINUTES", 1), setting("SOAK_STREAMS", 5_000));
    let (rate, seed) = (setting("SOAK_RATE", 200), setting("SOAK_SEED", 1));
    let fsync = std::env::var("SOAK_FSYNC").unwrap_or_else(|_| "always".to_owned());
    let limit = sys::raise_descriptor_limit();
    assert!(limit as usize > streams + 500, "a descriptor limit of {limit} is too low for {streams} streams");
    let time = Duration::from_secs(minutes as u64 * 60);
    let (lifetime, groups) = (Duration::from_secs(20), (streams / STREAMS_PER_GROUP).max(10));
    println!(
        "soak: {gateways} gateways, {minutes} min, {streams} clients in {groups} groups, mean visit {lifetime:?}, \
         {rate} sends/s, appendfsync {fsync}, seed {seed}"
    );
    let (tell, asked) = std::sync::mpsc::channel();
    let (backend, board) = (backend(tell), Board::default());
    let cluster = Cluster::start(gateways, &fsync, seed as u64, &backend, &board);
    let truth = Truth::new(groups, fsync == "always");
    let (size, pace) = ((streams, groups), (rate, lifetime));
    let mut crowd = Crowd::new(&board, size, pace, seed as u64, truth, asked);
    let (cluster, samples) = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel();
        let faults = scope.spawn(move || cluster.suffer(&stopped));
        let samples = busy(&mut crowd, &board, time);
        crowd.is_busy = false;
        board.end(stop);
        // It may be in the middle of a fault.
        while !faults.is_finished() {
            crowd.turn();
        }
        (faults.join().expect("the faults"), samples)
    });
    assert_flat(&samples);
    finish(crowd, &board, cluster);
}

/// The busy part: a sample of each gateway a second, a line every ten. Returns those of the first gateway, which is spared.
fn busy(crowd: &mut Crowd<'_>, board: &Board, time: Duration) -> Vec<Sample> {
    let start = Instant::now();
    let mut samples = Vec::new();
    while start.elapsed() < time {
        crowd.turn();
        if start.elapsed().as_secs() as usize <= samples.len() {
            continue;
        }
        let all: Vec<Sample> = {
            let status = board.read();
            let sample = |run: &usize| Sample::take(status.runs[*run].pid, crowd.connections(*run));
            status.serving.iter().flatten().map(sample).collect()
        };
        all.iter().for_each(Sample::assert_within_limits);
        samples.push(all[0]);
        if samples.len() % 10 == 0 {
            println!("{:>4} s  {} open, {all:?}\n        {:?}", samples.len(), crowd.open(), crowd.figures);
        }
    }
    samples
}

/// Everything comes to everybody, the gateways drain, and the sums are right.
fn finish(mut crowd: Crowd<'_>, board: &Board, mut cluster: Cluster<'_>) {
    let start = Instant::now();
    while !crowd.is_even() {
        assert!(start.elapsed() < REST, "{} clients lack something: {:?}", crowd.uneven(), crowd.figures);
        crowd.turn();
    }
    println!("everybody has everything after {:?}", start.elapsed());
    let crashes = board.read().crashes().count();
    cluster.drain();
    let start = Instant::now();
    while crowd.open() > 0 {
        assert!(start.elapsed() < REST, "{} streams did not end", crowd.open());
        crowd.turn();
    }
    for gateway in &mut cluster.gateways {
        assert_eq!(gateway.exit_code(), Some(0), "{}", gateway.log());
    }
    let Crowd { truth, figures, epochs, .. } = &crowd;
    println!(
        "{figures:?}\n{} events: {} accepted, {} refused, {} left open; Redis killed {crashes} times, {} epochs, \
         {} processes of gateways",
        truth.len(),
        truth.count(Fate::Accepted),
        truth.count(Fate::Refused),
        truth.count(Fate::Open),
        epochs.len(),
        board.read().runs.len(),
    );
    assert!(epochs.len() <= crashes + 1, "an epoch without a restart of Redis");
    println!("soak: all is well");
}
