//! The crowd: clients that hop from gateway to gateway, and senders at all of them, driven by one thread.

use super::account::{Account, Block, Gaps, Start};
use super::cluster::{Board, State};
use super::hopper::{Hopper, Told, Visit};
use super::sending::{Line, SENDERS_PER_GATEWAY};
use super::truth::{Truth, cursor};
use super::{Asked, LATE, PATIENCE};
use crate::common::{Random, sys};
use crate::pace::{TICK, next_turn};
use crate::reader::Reader;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Clients that come in a tick, at most.
const ARRIVALS_PER_TICK: usize = 20;
/// Time between two passes over all clients.
const ROUND: Duration = Duration::from_secs(1);
const AWAY_MAX_MS: u64 = 2_000;

/// What has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub visits: usize,
    pub hops: usize,
    /// Streams ended by the end of their gateway.
    pub torn: usize,
    /// Streams that were in the middle of what is kept, and were overtaken by its end.
    pub cut: usize,
    pub events: usize,
    pub told: usize,
    pub sends: usize,
    pub unavailable: usize,
    pub lost: usize,
    pub timeouts: usize,
    pub unanswered: usize,
    pub strangers: usize,
    pub gaps: Gaps,
}

pub(crate) struct Crowd<'a> {
    pub(super) board: &'a Board,
    pub(super) poll: Poll,
    events: Events,
    pub(super) hoppers: Vec<Hopper>,
    by_visit: HashMap<u64, usize>,
    pub(super) lines: BTreeMap<usize, Line>,
    /// As many connections as there may be.
    pub(super) lines_max: usize,
    asked: Receiver<Asked>,
    pub(super) random: Random,
    pub truth: Truth,
    pub figures: Figures,
    pub epochs: BTreeSet<u64>,
    lifetime: Duration,
    rate: usize,
    due: f64,
    /// The newest cursor that was told, for new pages.
    pub(super) newest: Option<String>,
    pub(super) groups: usize,
    crashes: usize,
    pub(super) next_token_send: usize,
    turned_at: Instant,
    ticked_at: Instant,
    looked_at: Instant,
    /// No deadline counts from before.
    excused_until: Instant,
    /// Clients leave, and sends are made.
    pub is_busy: bool,
}

impl<'a> Crowd<'a> {
    pub(crate) fn new(
        board: &'a Board,
        (size, groups): (usize, usize),
        (rate, lifetime): (usize, Duration),
        seed: u64,
        truth: Truth,
        asked: Receiver<Asked>,
    ) -> Self {
        let (now, mut random) = (Instant::now(), Random::new(seed));
        let mut hopper = || {
            let count = 1 + random.index(4);
            let mine: BTreeSet<usize> = (0..count).map(|_| random.index(groups)).collect();
            let account = Account::new(mine.into_iter().collect());
            Hopper { account, cursor: None, visit: None, returns_at: now, target: String::new() }
        };
        Self {
            hoppers: (0..size).map(|_| hopper()).collect(),
            lines_max: board.read().serving.len() * SENDERS_PER_GATEWAY,
            board,
            poll: Poll::new().expect("epoll"),
            events: Events::with_capacity(4096),
            by_visit: HashMap::new(),
            lines: BTreeMap::new(),
            asked,
            random,
            truth,
            figures: Figures::default(),
            epochs: BTreeSet::new(),
            lifetime,
            rate,
            due: 0.0,
            newest: None,
            groups,
            crashes: 0,
            next_token_send: 0,
            turned_at: now,
            ticked_at: now,
            looked_at: now,
            excused_until: now,
            is_busy: true,
        }
    }

    /// Connections to a process of a gateway.
    pub(crate) fn connections(&self, run: usize) -> usize {
        let visits = self.hoppers.iter().filter_map(|hopper| hopper.visit.as_ref());
        visits.filter(|visit| visit.run == run).count() + self.lines.values().filter(|line| line.run == run).count()
    }

    /// Streams that are open.
    pub(crate) fn open(&self) -> usize {
        self.hoppers.iter().filter_map(|hopper| hopper.visit.as_ref()).filter(|visit| visit.is_open).count()
    }

    /// Everybody is there and has everything, and all of it was found right.
    pub(crate) fn is_even(&self) -> bool {
        let is_even = |hopper: &Hopper| {
            let has_all = |visit: &Visit| visit.told.values().all(|told| !matches!(told, Told::Accepted(_)));
            hopper.visit.as_ref().is_some_and(has_all) && hopper.account.is_even(&self.truth)
        };
        self.truth.is_settled() && self.hoppers.iter().all(is_even)
    }

    /// Who is not, for a failure's message.
    pub(crate) fn uneven(&self) -> usize {
        self.hoppers.iter().filter(|hopper| !hopper.account.is_even(&self.truth)).count()
    }

    /// Runs for some 10 ms.
    pub(crate) fn turn(&mut self) {
        if let Some(passed) = next_turn(&mut self.poll, &mut self.events, &mut self.turned_at) {
            println!("the crowd stood still for {passed:?}");
            self.excused_until = Instant::now();
        }
        self.note_crashes();
        while let Ok(Asked { visit, token, at }) = self.asked.try_recv() {
            if let Some(visit) = self.by_visit.get(&visit).and_then(|n| self.hoppers[*n].visit.as_mut()) {
                visit.asked.get_or_insert((at, token));
            }
        }
        let tokens: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for token in tokens {
            if token < self.hoppers.len() {
                self.serve(token);
            } else {
                self.serve_line(token - self.hoppers.len());
            }
        }
        if self.ticked_at.elapsed() < TICK {
            return;
        }
        let passed = self.ticked_at.elapsed().min(10 * TICK);
        self.ticked_at = Instant::now();
        if self.is_busy {
            self.due += passed.as_secs_f64() * self.rate as f64;
            while self.due >= 1.0 {
                self.due -= 1.0;
                self.send();
            }
        }
        self.lines.values_mut().for_each(|line| line.sender.flush());
        self.come_and_go();
        if self.looked_at.elapsed() >= ROUND {
            self.looked_at = Instant::now();
            self.look_after_all();
        }
    }

    /// Redis was killed: with `appendfsync everysec` it may lose what it accepted last.
    fn note_crashes(&mut self) {
        let crashes: Vec<Instant> = self.board.read().crashes().skip(self.crashes).collect();
        self.crashes += crashes.len();
        crashes.into_iter().for_each(|at| self.truth.crashed(at));
    }

    fn come_and_go(&mut self) {
        let now = Instant::now();
        let mut arrivals = 0;
        for n in 0..self.hoppers.len() {
            match &self.hoppers[n].visit {
                Some(visit) if self.is_busy && visit.leaves_at <= now => {
                    if self.random.chance(300) {
                        sys::reset_on_close(&visit.socket);
                    }
                    self.left(n);
                }
                None if self.hoppers[n].returns_at <= now && arrivals < ARRIVALS_PER_TICK => {
                    arrivals += 1;
                    self.come(n);
                }
                Some(_) | None => {}
            }
        }
    }

    /// The process of a gateway that a client or sender gets to.
    fn choose(&mut self) -> Option<(usize, u16)> {
        let status = self.board.read();
        let serving: Vec<usize> = status.serving.iter().flatten().copied().collect();
        let run = *serving.get(self.random.index(serving.len()))?;
        Some((run, status.runs[run].port))
    }

    fn come(&mut self, n: usize) {
        let Some((run, port)) = self.choose() else { return };
        let (number, now) = (self.figures.visits as u64, Instant::now());
        self.figures.visits += 1;
        if self.hoppers[n].cursor.is_none() || self.random.chance(100) {
            self.begin_page(n);
        } else {
            self.figures.hops += 1;
        }
        let (stays, hopper) = (self.exponential(), &mut self.hoppers[n]);
        hopper.account.reconnect();
        let id = hopper.cursor.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let names: Vec<String> = hopper.account.groups.iter().map(|group| format!("g{group}")).collect();
        let target = format!("/{number}/{}{}", names.join(","), hopper.target);
        let out = format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n{id}\r\n").into_bytes();
        let mut socket = TcpStream::connect(([127, 0, 0, 1], port).into()).expect("a connection");
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(n), interest).expect("epoll takes it");
        self.by_visit.insert(number, n);
        self.hoppers[n].visit = Some(Visit {
            number,
            socket,
            out,
            reader: Reader::default(),
            run,
            since: now,
            leaves_at: now + self.lifetime.mul_f64(stays),
            is_open: false,
            asked: None,
            told: HashMap::new(),
        });
    }

    /// A new page: without a cursor of its own, it begins in one of several ways.
    fn begin_page(&mut self, n: usize) {
        let kind = self.random.below(4);
        let hopper = &mut self.hoppers[n];
        hopper.cursor = None;
        let (start, target) = match (kind, &self.newest) {
            (0, _) => (Start::Beginning, "?since=start".to_owned()),
            (1, Some(id)) => (Start::Since(id.clone()), format!("?since={id}")),
            (2, Some(id)) => (Start::Since(id.clone()), format!("?last_event_id={id}")),
            _ => (Start::Live, String::new()),
        };
        hopper.target = target;
        hopper.account.begin(start);
    }

    /// With a mean of 1.
    fn exponential(&mut self) -> f64 {
        let uniform = (self.random.below(1 << 20) + 1) as f64 / f64::from(1 << 20);
        -uniform.ln()
    }

    /// A client's connection is over, or is to be.
    fn left(&mut self, n: usize) {
        let away = Duration::from_millis(self.random.below(AWAY_MAX_MS));
        let hopper = &mut self.hoppers[n];
        hopper.returns_at = Instant::now() + away;
        if let Some(visit) = hopper.visit.take() {
            self.by_visit.remove(&visit.number);
        }
    }

    fn serve(&mut self, n: usize) {
        let Some(visit) = &mut self.hoppers[n].visit else { return };
        // An error here will show on the read.
        if let Ok(count) = visit.socket.write(&visit.out) {
            visit.out.drain(..count);
        }
        let mut scratch = [0; 64 * 1024];
        let ending = loop {
            match visit.socket.read(&mut scratch) {
                Ok(0) => break Some("end of input".to_owned()),
                Ok(count) => visit.reader.feed(&scratch[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if visit.reader.status == Some(200) && !visit.is_open {
            visit.is_open = true;
            visit.since = Instant::now();
        }
        while let Some(frame) = self.hoppers[n].visit.as_mut().and_then(|visit| visit.reader.frame()) {
            self.take_frame(n, &frame);
        }
        if let Some(why) = ending {
            self.ended(n, &why);
        }
    }

    /// A gateway ended a client's connection.
    fn ended(&mut self, n: usize, why: &str) {
        let Some(visit) = &self.hoppers[n].visit else { return };
        let (status, finished, after) = (visit.reader.status, visit.reader.finished, visit.since.elapsed());
        let state = self.board.read().runs[visit.run].state;
        let is_right = match (state, status) {
            // What is kept has gone on meanwhile.
            (State::Serving, Some(200)) if self.hoppers[n].account.may_be_cut(&self.truth) => {
                self.figures.cut += 1;
                !finished
            }
            (State::Serving, _) => false,
            (State::Draining, Some(200)) => finished,
            (State::Draining, status) => matches!(status, None | Some(503)),
            (State::Killed, _) => true,
        };
        assert!(
            is_right,
            "client {n}: a stream of a gateway that is {state:?} ended: {why}, {status:?}, in order: {finished}, after {after:?}, \
             behind {:?}, {:?}",
            self.hoppers[n].cursor, visit.asked
        );
        self.figures.torn += usize::from(state != State::Serving);
        self.left(n);
    }

    fn take_frame(&mut self, n: usize, frame: &str) {
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        let (data, id) = (field("data: ").unwrap_or_default(), field("id: "));
        let hopper = &mut self.hoppers[n];
        let Some(visit) = &mut hopper.visit else { return };
        if let Some(told) = data.strip_prefix("token ") {
            let mut words = told.split(' ').map(|word| word.parse::<usize>().expect("a number"));
            assert_eq!(words.next(), Some(visit.number as usize), "another stream's event");
            let number = words.next().expect("a number");
            let known = visit.told.insert(number, Told::Received);
            assert!(!matches!(known, None | Some(Told::Refused | Told::Received)), "{known:?} at its token: {frame}");
            self.figures.told += 1;
            return;
        }
        let block = match data.split(' ').next() {
            Some(number) if !number.is_empty() => Block::Event(number.parse().expect("a number")),
            Some(_) | None if field("event: ") == Some("gap") => Block::Gap,
            Some(_) | None => Block::Bare,
        };
        self.figures.events += usize::from(matches!(block, Block::Event(_)));
        let Some(id) = id else {
            let is_drained = frame.starts_with("retry: ");
            let is_early = frame.starts_with(": heartbeat");
            assert!(is_early || is_drained, "a block without an id: {frame}");
            return;
        };
        let asked_at = visit.asked.as_ref().map_or_else(Instant::now, |(at, _)| *at);
        let crashed = self.board.read().crashes().next_back().is_some_and(|at| at >= asked_at - LATE);
        let at = cursor(id);
        self.epochs.insert(at.0);
        hopper.account.take(&mut self.truth, &mut self.figures.gaps, (block, at), (asked_at, crashed));
        if hopper.cursor.as_deref() != Some(id) {
            hopper.cursor = Some(id.to_owned());
        }
    }

    /// Time-driven work: what has come is checked, and nothing may wait too long.
    fn look_after_all(&mut self) {
        let waited = |since: Instant| since.max(self.excused_until).elapsed();
        for (n, hopper) in self.hoppers.iter_mut().enumerate() {
            hopper.account.check(&self.truth);
            let Some(visit) = &hopper.visit else { continue };
            let stayed = waited(visit.since);
            assert!(visit.is_open || stayed < PATIENCE, "client {n}: no stream for {stayed:?}: {:?}", visit.asked);
            let is_late = |since: Instant| visit.is_open && waited(since.max(visit.since)) > LATE;
            let due = hopper.account.waits_since(&self.truth);
            assert!(!due.is_some_and(is_late), "client {n}: an event is late, behind {:?}", hopper.cursor);
            let lost = |told: &Told| matches!(told, Told::Accepted(at) if is_late(*at));
            assert!(!visit.told.values().any(lost), "client {n}: an event to its token is lost");
        }
    }
}
