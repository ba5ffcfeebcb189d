//! What follows from the lines that the gateway has read: what the streams get, and how the senders are answered
//! (docs/protocol.md, section 14). It is exact: a line counts once its last byte has been read.

use std::collections::BTreeSet;

/// The target in a feed's query, and of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// The token of a stream.
    Stream(usize),
    Group(usize),
}

/// What a line, or an event, says.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// Nothing that is sent.
    Nothing,
    Send {
        target: Target,
        events: Vec<String>,
        close: bool,
        end: bool,
    },
    Will(String),
    /// It is refused with that error.
    Bad(&'static str),
}

/// A stream in no group or in one.
#[derive(Default)]
pub(super) struct Stream {
    pub group: Option<usize>,
    pub is_open: bool,
    /// Its client has: it may not have got everything.
    pub has_left: bool,
    /// Frames in the order of the sends.
    pub due: Vec<String>,
}

/// Where a feed stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its head has not been read.
    #[default]
    Unread,
    Open,
    /// It must be answered so.
    Answered(String),
    BrokenOff,
}

pub(super) struct Feed {
    pub target: Option<Target>,
    pub ends: bool,
    pub standing: Standing,
    lines: u64,
    accepted: u64,
    errors: Vec<String>,
    will: Option<String>,
    /// It has ended its target itself.
    has_ended: bool,
}

#[derive(Default)]
pub(super) struct Account {
    pub streams: Vec<Stream>,
    pub feeds: Vec<Feed>,
    ended: BTreeSet<usize>,
    pub is_draining: bool,
}

impl Account {
    pub(super) fn begin(&mut self, target: Option<Target>, ends: bool) -> usize {
        self.feeds.push(Feed {
            target,
            ends,
            standing: Standing::Unread,
            lines: 0,
            accepted: 0,
            errors: Vec::new(),
            will: None,
            has_ended: false,
        });
        self.feeds.len() - 1
    }

    /// A feed's head has been read.
    pub(super) fn read_head(&mut self, n: usize) {
        self.feeds[n].standing = Standing::Open;
        if self.is_draining {
            self.answer(n, 503, "Shutting down");
        } else if let Some(target) = self.feeds[n].target
            && self.is_over(target)
        {
            self.tell(n, target);
        }
    }

    /// A feed's next line has been read.
    pub(super) fn read_line(&mut self, n: usize, said: &Said) {
        if self.feeds[n].standing != Standing::Open {
            return;
        }
        self.feeds[n].lines += 1;
        match said {
            Said::Nothing => {}
            Said::Bad(error) => self.fail(n, 400, error),
            Said::Will(_) if !self.feeds[n].ends => self.fail(n, 400, "Invalid request: will needs end=true"),
            Said::Will(_) if self.feeds[n].has_ended => self.fail(n, 410, "Group has ended"),
            Said::Will(frame) => self.feeds[n].will = Some(frame.clone()),
            Said::Send { target, .. } => match self.execute(said, Some(n)) {
                true => self.feeds[n].accepted += 1,
                false => match target {
                    Target::Stream(_) => self.fail(n, 404, "Token not found"),
                    Target::Group(_) => self.fail(n, 410, "Group has ended"),
                },
            },
        }
    }

    /// A send is executed, by a feed or by somebody else. `false`: its target has ended.
    pub(super) fn execute(&mut self, said: &Said, by: Option<usize>) -> bool {
        let Said::Send { target, events, close, end } = said else { return true };
        if self.is_over(*target) {
            return false;
        }
        for stream in self.streams_of(*target) {
            self.streams[stream].due.extend_from_slice(events);
        }
        if *close || *end {
            self.end(*target, *end, by);
        }
        true
    }

    /// Streams end, and perhaps their group; whoever sends to them is told, but for the one who did it.
    fn end(&mut self, target: Target, end: bool, by: Option<usize>) {
        let mut over = Vec::new();
        for stream in self.streams_of(target) {
            self.streams[stream].is_open = false;
            over.push(Target::Stream(stream));
        }
        if let Target::Group(group) = target
            && end
        {
            self.ended.insert(group);
            over.push(target);
        }
        for n in 0..self.feeds.len() {
            if let Some(target) = self.feeds[n].target.filter(|target| over.contains(target)) {
                match by == Some(n) {
                    true => self.feeds[n].has_ended = true,
                    false => self.tell(n, target),
                }
            }
        }
    }

    /// A stream's client has left.
    pub(super) fn leave(&mut self, stream: usize) {
        self.streams[stream].has_left = true;
        self.end(Target::Stream(stream), false, None);
    }

    /// A feed's body is over.
    pub(super) fn complete(&mut self, n: usize) {
        if self.feeds[n].standing != Standing::Open {
            return;
        }
        let feed = &self.feeds[n];
        let errors =
            if feed.errors.is_empty() { String::new() } else { format!(r#","errors":[{}]"#, feed.errors.join(",")) };
        let answer = format!(r#"200 {{"status":"ok","accepted":{}{errors}}}"#, feed.accepted);
        self.feeds[n].standing = Standing::Answered(answer);
        self.end_group_of(n, false);
    }

    /// A feed's body cannot be read on.
    pub(super) fn refuse(&mut self, n: usize, status: u16, error: &str) {
        if self.feeds[n].standing == Standing::Open {
            self.answer(n, status, error);
            self.end_group_of(n, true);
        }
    }

    /// Its connection has ended.
    pub(super) fn break_off(&mut self, n: usize) {
        if self.feeds[n].standing == Standing::Open {
            self.feeds[n].standing = Standing::BrokenOff;
            self.end_group_of(n, true);
        } else if self.feeds[n].standing == Standing::Unread {
            self.feeds[n].standing = Standing::BrokenOff;
        }
    }

    /// The drain has read a feed's connection for the last time; `has_begun`: something was read there before.
    pub(super) fn looked_last(&mut self, n: usize, has_begun: bool) {
        match self.feeds[n].standing {
            Standing::Open => self.answer(n, 503, "Shutting down"),
            Standing::Unread if has_begun => {
                self.feeds[n].standing = Standing::Answered(r#"503 {"error":"Shutting down"}"#.to_owned());
            }
            Standing::Unread => self.feeds[n].standing = Standing::BrokenOff,
            Standing::Answered(_) | Standing::BrokenOff => {}
        }
    }

    /// The drain has ended all streams.
    pub(super) fn drain(&mut self) {
        for stream in &mut self.streams {
            stream.is_open = false;
        }
    }

    fn end_group_of(&mut self, n: usize, has_will: bool) {
        let feed = &self.feeds[n];
        let Some(target) = feed.target.filter(|_| feed.ends && !feed.has_ended) else { return };
        let will = feed.will.clone().unwrap_or_else(|| "event: interrupted\ndata: \n\n".to_owned());
        let events = if has_will { vec![will] } else { Vec::new() };
        self.execute(&Said::Send { target, events, close: false, end: true }, Some(n));
    }

    /// The feed's target has ended.
    fn tell(&mut self, n: usize, target: Target) {
        if self.feeds[n].standing == Standing::Open && !self.feeds[n].has_ended {
            match target {
                Target::Stream(_) => self.answer(n, 404, "Token not found"),
                Target::Group(_) => self.answer(n, 410, "Group has ended"),
            }
        }
    }

    fn answer(&mut self, n: usize, status: u16, error: &str) {
        let feed = &mut self.feeds[n];
        feed.standing = Standing::Answered(format!(r#"{status} {{"error":"{error}","line":{}}}"#, feed.lines));
    }

    fn fail(&mut self, n: usize, status: u16, error: &str) {
        let feed = &mut self.feeds[n];
        feed.errors.push(format!(r#"{{"line":{},"status":{status},"error":"{error}"}}"#, feed.lines));
    }

    pub(super) fn is_over(&self, target: Target) -> bool {
        match target {
            Target::Stream(stream) => !self.streams.get(stream).is_some_and(|stream| stream.is_open),
            Target::Group(group) => self.ended.contains(&group),
        }
    }

    fn streams_of(&self, target: Target) -> Vec<usize> {
        let is_it = |n: &usize| match target {
            Target::Stream(stream) => *n == stream,
            Target::Group(group) => self.streams[*n].group == Some(group),
        };
        (0..self.streams.len()).filter(|n| self.streams[*n].is_open).filter(is_it).collect()
    }
}
