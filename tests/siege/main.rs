//! A siege: what honest users notice of attackers. The gateway runs with the settings that docs/deployment.md gives for a
//! container of 64 MB, in a memory cgroup of that size where one can be made; 200 streams get an event a second each,
//! clients connect, and probes ask, while an attacker does its worst. A line for each attack; exit status 1 if the honest
//! noticed more than they may.
//!
//! Run by `make siege SECONDS=60`. Also settable: `SIEGE_ONLY=silent` (a name of `attacks.rs`).

#[path = "../common/mod.rs"]
mod common;
#[path = "../soak/reader.rs"]
mod reader;

mod attacks;
mod backend;
mod honest;
mod swarm;

use attacks::Attack;
use backend::Tokens;
use common::{Cage, Client, Gateway, Peak, SIGTERM, process, send_request, sys};
use honest::{Honest, STREAMS, Seen};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use swarm::{Conduct, Deeds};

const CONTAINER_BYTES: u64 = 64 << 20;
const SAMPLES: Duration = Duration::from_millis(100);
const EVENT_MAX: Duration = Duration::from_secs(1);
/// Rounds of this length are held to times.
const TIMED: Duration = Duration::from_secs(30);
/// Between the backend's calls.
const STORM_SLACK_PERCENT: u32 = 115;
/// Of the flood of events.
const FLOOD_BYTES: usize = 4_000;

fn main() {
    let seconds = std::env::var("SIEGE_SECONDS").map_or(60, |value| value.parse().expect("a number of seconds"));
    let only = std::env::var("SIEGE_ONLY").unwrap_or_default();
    sys::raise_descriptor_limit();
    let attacks = attacks::all(seconds);
    let chosen: Vec<&Attack> = attacks.iter().filter(|attack| only.is_empty() || attack.name == only).collect();
    assert!(
        !chosen.is_empty(),
        "SIEGE_ONLY is one of {:?}",
        attacks.iter().map(|attack| attack.name).collect::<Vec<_>>()
    );
    match Cage::make(CONTAINER_BYTES) {
        Some(_) => println!("siege: {seconds} s each, in a memory cgroup of 64 MiB"),
        None => println!("siege: {seconds} s each, without a cgroup: the resident set is sampled"),
    }
    println!(
        "| Attack | Connections, bytes | Streams lost | Slowest event | Connects: slowest, refused | Slowest send | Slowest probe (control, stall) | Resident, with sockets | CPU |"
    );
    println!("|---|---|---:|---:|---|---:|---|---|---:|");
    let mut broken = Vec::new();
    for attack in chosen {
        broken.extend(
            run(attack, Duration::from_secs(seconds)).into_iter().map(|bound| format!("{}: {bound}", attack.title)),
        );
    }
    for bound in &broken {
        println!("siege: BROKEN: {bound}");
    }
    if !broken.is_empty() {
        std::process::exit(1);
    }
    println!("siege: all is well");
}

/// One attack; what it broke.
fn run(attack: &Attack, time: Duration) -> Vec<String> {
    let cage = Cage::make(CONTAINER_BYTES);
    let tokens = Tokens::default();
    let backend = backend::start(&tokens, attack.few);
    let mut builder = Gateway::for_backend(&backend)
        .set("MAX_STREAMS", 10_000)
        .set("MAX_PENDING_BYTES", 65_536)
        .set("CALLBACK_CONCURRENCY", 32)
        .set("LOG_LEVEL", "warn");
    for (name, value) in attack.settings {
        builder = builder.set(name, value);
    }
    let builder = match &cage {
        Some(cage) => builder.shell(&cage.entry()),
        None => builder.set("MEMORY_LIMIT_BYTES", CONTAINER_BYTES / 4 * 3),
    };
    let mut gateway = builder.start();
    let honest = Honest::start(gateway.port, &tokens, attack.pace);
    let before = process::processor_time(gateway.pid());
    tokens.slow_down(true);
    let stop = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = attack
        .plans
        .iter()
        .map(|plan| {
            let (port, plan, stop) = (gateway.port, plan.clone(), stop.clone());
            std::thread::spawn(move || swarm::attack(port, plan, &stop))
        })
        .collect();
    let flood = attack.flood.then(|| {
        let (port, tokens, stop) = (gateway.port, tokens.clone(), stop.clone());
        std::thread::spawn(move || flood(port, &tokens, &stop))
    });
    let start = Instant::now();
    let mut peak = Peak::default();
    let (mut waited, mut stall) = (process::waited(gateway.pid()), Duration::ZERO);
    while gateway.is_running() && (start.elapsed() < time || attackers.iter().any(|attacker| !attacker.is_finished())) {
        stop.store(start.elapsed() >= time, Ordering::SeqCst);
        peak.look(gateway.pid(), cage.as_ref());
        let before = std::mem::replace(&mut waited, process::waited(gateway.pid()));
        stall = stall.max(waited.saturating_sub(before));
        std::thread::sleep(SAMPLES);
    }
    if !gateway.is_running() {
        stop.store(true, Ordering::SeqCst);
        let code = gateway.exit_code();
        println!("| {} | the gateway ended: {code:?} |", attack.title);
        return vec![format!("the gateway ended: {code:?}")];
    }
    let cpu = process::processor_time(gateway.pid()) - before;
    let deeds: Vec<Deeds> = attackers.into_iter().map(|attacker| attacker.join().expect("an attacker")).collect();
    if let Some(flood) = flood {
        flood.join().expect("the flood");
    }
    let disconnects = tokens.disconnects();
    let mut seen = honest.finish();
    seen.stall = stall;
    peak.resident = peak.resident.max(process::peak_rss_kib(gateway.pid()));
    print_row(attack, &deeds, &seen, peak, cpu);
    let mut broken = judge(attack, time, &deeds, &seen, peak);
    if disconnects > 0 {
        broken.push(format!("{disconnects} disconnects of streams that are open"));
    }
    tokens.slow_down(false);
    gateway.signal(SIGTERM);
    match gateway.exit_code() {
        Some(0) => {}
        code => broken.push(format!("the drain ended with {code:?}")),
    }
    broken
}

/// The backend sends much to the streams of the attacker.
fn flood(port: u16, tokens: &Tokens, stop: &AtomicBool) {
    sys::lower_priority();
    let data = "x".repeat(FLOOD_BYTES);
    let mut client = Client::connect(port);
    while !stop.load(Ordering::SeqCst) {
        let tokens = tokens.below("/idle/");
        for token in &tokens {
            let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
            // 200, or that the stream was cut; where memory is short, an idle connection may have given way.
            if client.try_send(send_request(&body)).is_err() || client.try_response().is_none() {
                client = Client::connect(port);
            }
        }
        if tokens.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn print_row(attack: &Attack, deeds: &[Deeds], seen: &Seen, peak: Peak, cpu: Duration) {
    let connections: u64 = deeds.iter().map(|deeds| deeds.connections).sum();
    let megabytes = deeds.iter().map(|deeds| deeds.written).sum::<u64>() as f64 / 1e6;
    println!(
        "| {} | {connections}, {megabytes:.1} MB | {} | {:.0?} | {} of {}: {:.0?}, {} | {:.0?} | {:.0?} ({:.0?}, {:.0?}) | {peak} | {:.1} s |",
        attack.title,
        seen.lost,
        seen.events.slowest,
        seen.connects.count - seen.connects.failed,
        seen.connects.count,
        seen.connects.slowest,
        seen.connects.failed,
        seen.sends.slowest,
        seen.probes.slowest,
        seen.control.slowest,
        seen.stall,
        cpu.as_secs_f64(),
    );
    for deeds in deeds {
        eprintln!("    {}: answers {:?}, wave {:.1?}", attack.name, deeds.answers, deeds.wave);
    }
}

/// What the honest may not notice. Beyond that a request may take what the machine has taken from the gateway, which waits
/// for a processor that others use, and from the control, on its way there and back. A short round only shows that
/// nothing is lost or refused: how long something takes is for a machine that does nothing else.
fn judge(attack: &Attack, time: Duration, deeds: &[Deeds], seen: &Seen, peak: Peak) -> Vec<String> {
    let mut broken = Vec::new();
    let mut check = |good: bool, what: String| {
        if !good {
            broken.push(what);
        }
    };
    let noise = 2 * seen.control.slowest + seen.stall;
    let is_timely = |taken: Duration, most: Duration| time < TIMED || taken <= most + noise;
    check(seen.lost == 0, format!("{} of {STREAMS} streams lost", seen.lost));
    check(seen.missing == 0, format!("{} events lost", seen.missing));
    check(is_timely(seen.events.slowest, EVENT_MAX), format!("an event took {:.1?}", seen.events.slowest));
    check(seen.sends.failed == 0, format!("{} sends failed", seen.sends.failed));
    check(is_timely(seen.sends.slowest, EVENT_MAX), format!("a send took {:.1?}", seen.sends.slowest));
    check(seen.connects.failed == 0, format!("{} connects failed", seen.connects.failed));
    check(
        is_timely(seen.connects.slowest, attack.connect_max),
        format!("a connect took {:.1?}", seen.connects.slowest),
    );
    check(seen.probes.failed == 0, format!("{} probes failed", seen.probes.failed));
    check(is_timely(seen.probes.slowest, attack.probe_max), format!("a probe took {:.1?}", seen.probes.slowest));
    let container = CONTAINER_BYTES as usize / 1024;
    check(peak.kib() <= container, format!("{} KiB in use", peak.kib()));
    if let Some(few) = attack.few {
        for deeds in deeds {
            let streams = deeds.answers.get(&200).copied().unwrap_or_default();
            check(streams == deeds.connections, format!("{streams} streams of {}", deeds.connections));
            // The honest clients that connect meanwhile take their share.
            let crowd = attack.plans.iter().filter(|plan| plan.conduct == Conduct::Wave).map(|plan| plan.crowd).sum();
            let needed =
                few.needed(crowd).mul_f64(1.0 + 1.0 / (attack.pace.as_secs_f64() * few.calls_a_second() as f64));
            check(
                time < TIMED || deeds.wave <= needed * STORM_SLACK_PERCENT / 100 + Duration::from_secs(1),
                format!("a storm took {:.1?}, and the backend needs {needed:.1?}", deeds.wave),
            );
        }
    }
    broken
}
