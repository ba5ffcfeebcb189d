//! A Redis for streams in groups, without a socket: it takes every send, and keeps nothing.

use std::io::Write;

/// Where the numbers of ids begin: all have six digits.
const FIRST_NUMBER: u32 = 100_000;

/// The scripts in the order in which they are loaded.
const SCRIPTS: [&str; 6] = ["send", "read", "page", "open", "beat", "alive"];

/// The answers to commands, for one connection.
pub(crate) struct Redis {
    scripts_loaded: usize,
    number: u32,
}

/// What answers the same sends again and again, each time with new ids.
pub(crate) struct Answers {
    bytes: Vec<u8>,
    /// Where the numbers of the ids are: each send has two.
    numbers: Vec<usize>,
}

impl Redis {
    pub(crate) fn new() -> Self {
        Self { scripts_loaded: 0, number: FIRST_NUMBER }
    }

    /// The answers to commands.
    pub(crate) fn answer(&mut self, commands: &[u8]) -> Answers {
        let mut answers = Answers { bytes: Vec::new(), numbers: Vec::new() };
        let mut at = 0;
        while at < commands.len() {
            let arguments = read_command(commands, &mut at);
            self.answer_one(&arguments, &mut answers);
        }
        answers
    }

    fn answer_one(&mut self, arguments: &[&str], answers: &mut Answers) {
        let out = &mut answers.bytes;
        // Writing to a vector cannot fail.
        let _ = match arguments {
            ["HELLO", ..] => write!(out, "%1\r\n+version\r\n+7.0.15\r\n"),
            ["SCRIPT", "LOAD", _] => {
                self.scripts_loaded += 1;
                write!(out, "+{:0>40}\r\n", SCRIPTS[self.scripts_loaded - 1])
            }
            ["INFO", ..] => write!(out, "$0\r\n\r\n"),
            ["SUBSCRIBE", channels @ ..] => channels
                .iter()
                .try_for_each(|channel| write!(out, ">3\r\n+subscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len())),
            ["XREVRANGE", ..] => write!(out, "*1\r\n*2\r\n+{}\r\n*0\r\n", id(self.number)),
            ["EVALSHA", script, keys, rest @ ..] => {
                let (keys, values) = rest.split_at(keys.parse().expect("a number of keys"));
                match script.trim_start_matches('0') {
                    "send" => return self.send(values, answers),
                    "read" => {
                        let groups = keys.len() / 2;
                        let id = id(self.number);
                        write!(
                            out,
                            "*{}\r\n+{id}\r\n:1790000000000\r\n{}",
                            2 + 5 * groups,
                            ":0\r\n+0-0\r\n+0-0\r\n+0-0\r\n*0\r\n".repeat(groups)
                        )
                    }
                    "open" => write!(out, "*4\r\n+1\r\n+{}\r\n+{}\r\n+{}\r\n", values[3], values[4], id(self.number)),
                    script => panic!("{script} is run"),
                }
            }
            command => panic!("{command:?} is asked for"),
        };
    }

    /// One event to one group: the sender gets it before the answer.
    fn send(&mut self, arguments: &[&str], answers: &mut Answers) {
        self.number += 1;
        let id = id(self.number);
        let [_, flags, .., prefix, name, frame, _] = arguments else { panic!("{arguments:?} are sent") };
        let (channel, event) = (format!("{prefix}:c:{name}"), format!("{id} {flags} {frame}"));
        let out = &mut answers.bytes;
        let _ = write!(out, ">3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), event.len());
        answers.numbers.push(out.len() + id.len() - 6);
        let _ = write!(out, "{event}\r\n${}\r\n", id.len() + 2);
        answers.numbers.push(out.len() + id.len() - 6);
        let _ = write!(out, "{id} 1\r\n");
    }

    /// Takes the same sends once more.
    pub(crate) fn repeat<'a>(&mut self, answers: &'a mut Answers) -> &'a [u8] {
        for (n, at) in answers.numbers.iter().enumerate() {
            let mut number = self.number + 1 + n as u32 / 2;
            for digit in answers.bytes[*at..at + 6].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        self.number += answers.numbers.len() as u32 / 2;
        &answers.bytes
    }
}

impl Answers {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn id(number: u32) -> String {
    format!("1790000000000-{number}")
}

fn read_command<'a>(commands: &'a [u8], at: &mut usize) -> Vec<&'a str> {
    let mut line = |length: Option<usize>| {
        let rest = &commands[*at..];
        let length = length.or_else(|| rest.iter().position(|byte| *byte == b'\r')).expect("a whole line");
        *at += length + 2;
        std::str::from_utf8(&rest[..length]).expect("text")
    };
    let count = |line: &str| line[1..].parse::<usize>().expect("a number");
    let arguments = count(line(None));
    (0..arguments)
        .map(|_| {
            let length = count(line(None));
            line(Some(length))
        })
        .collect()
}
