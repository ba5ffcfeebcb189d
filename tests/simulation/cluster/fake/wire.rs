//! RESP3 as a server speaks it: commands in, replies out.

/// A reply, or a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(&'static str),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Verbatim(String),
    Null,
    Array(Vec<Self>),
    /// Keys and values by turns.
    Map(Vec<Self>),
    Push(Vec<Self>),
}

impl Reply {
    pub(super) fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    pub(super) fn maybe(text: Option<impl AsRef<[u8]>>) -> Self {
        text.map_or(Self::Null, Self::text)
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Integer(count as i64)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut head = |kind: char, count: usize| out.extend(format!("{kind}{count}\r\n").bytes());
        let elements = match self {
            Self::Simple(text) => return out.extend(format!("+{text}\r\n").bytes()),
            Self::Error(text) => return out.extend(format!("-{text}\r\n").bytes()),
            Self::Integer(number) => return out.extend(format!(":{number}\r\n").bytes()),
            Self::Null => return out.extend(b"_\r\n"),
            Self::Verbatim(text) => return out.extend(format!("={}\r\ntxt:{text}\r\n", text.len() + 4).bytes()),
            Self::Bulk(bytes) => {
                head('$', bytes.len());
                out.extend(bytes);
                return out.extend(b"\r\n");
            }
            Self::Array(elements) => {
                head('*', elements.len());
                elements
            }
            Self::Map(elements) => {
                head('%', elements.len() / 2);
                elements
            }
            Self::Push(elements) => {
                head('>', elements.len());
                elements
            }
        };
        elements.iter().for_each(|element| element.write(out));
    }
}

/// Takes the first command from the front of `input`, once it is whole.
pub(super) fn take_command(input: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let (mut at, count) = number(input, 0, b'*')?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (start, length) = number(input, at, b'$')?;
        let argument = input.get(start..start + length)?;
        at = start + length + 2;
        if input.len() < at {
            return None;
        }
        arguments.push(argument.to_vec());
    }
    input.drain(..at);
    Some(arguments)
}

/// A count behind the mark of its kind, and where what follows begins.
fn number(input: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let line = input.get(at..)?;
    let end = line.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(line[0], kind, "no command: {}", line.escape_ascii());
    let digits = std::str::from_utf8(&line[1..end]).expect("digits");
    Some((at + end + 2, digits.parse().expect("a number")))
}
