//! The same inputs to a gateway with Redis and to one without: what clients and senders get is the same but for cursors.

use super::*;

/// What was got, cursors left out.
#[derive(Default)]
pub(super) struct Record {
    /// By the number of the connection: its head and its frames.
    frames: BTreeMap<u64, Vec<String>>,
    answers: Vec<String>,
}

impl Record {
    pub(super) fn frame(&mut self, connection: u64, frame: &str) {
        self.frames.entry(connection).or_default().push(without_cursors(frame));
    }

    pub(super) fn answer(&mut self, status: u16, body: &str) {
        self.answers.push(format!("{status} {}", without_cursors(body)));
    }
}

/// Runs the seed in both ways.
pub(crate) fn compare(seed: u64) {
    let [with, without] = [true, false].map(|has_redis| {
        let mut world = World::new(seed, Plan::calm(has_redis));
        world.record = Some(Record::default());
        world.pass(1);
        for _ in 0..STEPS {
            world.step_alone();
            world.pump();
        }
        world.pass(20_000);
        world.record.expect("a record")
    });
    for (n, (with, without)) in with.answers.iter().zip(&without.answers).enumerate() {
        assert_eq!(with, without, "answer {n} of {}", without);
    }
    for (connection, frames) in &without.frames {
        let with = with.frames.get(connection).map_or(&[][..], |frames| frames);
        assert_eq!(with, frames, "connection {connection}");
    }
    assert_eq!(with.frames.len(), without.frames.len(), "other connections");
}

impl World {
    fn step_alone(&mut self) {
        match self.random.below(20) {
            0..=5 => self.send_alone(),
            6 => self.send_to_token(),
            7..=11 => self.come_or_go(),
            12..=14 => self.answer_connect(),
            15 => self.change_groups(),
            16 => {
                let time = self.random.pick(&[1, 100, 5000]);
                self.pass(time);
            }
            17 => {
                drop(self.ask(0, &format!("GET /internal/groups?group=g{} HTTP/1.1\r\nHost: h\r\n\r\n", self.now % 5)))
            }
            _ => self.publish(),
        }
    }

    /// Closes, ends, commands alone, and questions.
    fn send_alone(&mut self) {
        let group = self.random.index(GROUPS);
        let event = self.next_event();
        let event = self.random.pick(&[&*format!(r#","event":{{"data":"{event}"}}"#), ""]).to_owned();
        let rest = self.random.pick(&["", "", "", r#","close":true"#, r#","end":true"#]);
        self.tell(&format!(r#"{{"group":"g{group}"{event}{rest}}}"#));
    }
}

fn without_cursors(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, mark)) =
        ["id: ", r#""id":""#, r#""cursor":""#].iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min()
    {
        let (head, tail) = rest.split_at(before + mark.len());
        out.push_str(head);
        rest = tail.trim_start_matches(|symbol: char| symbol.is_ascii_alphanumeric() || symbol == '.');
        out.push('#');
    }
    out + rest
}
