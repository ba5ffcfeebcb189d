//! Keys and values, as far as the gateways use them. No key is used for two types.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::rc::Rc;

pub(crate) type Bytes = Rc<[u8]>;

/// The id of an entry of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) ms: u64,
    pub(crate) sequence: u64,
}

impl Display for Id {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.ms, self.sequence)
    }
}

impl Id {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (ms, sequence) = text.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

#[derive(Clone)]
enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    Hash(BTreeMap<String, Bytes>),
    Stream(Stream),
}

/// An entry of a stream: its id, and fields and values by turns.
pub(crate) type StreamEntry = (Id, Vec<Bytes>);

#[derive(Clone, Default)]
struct Stream {
    entries: VecDeque<StreamEntry>,
    last: Id,
}

#[derive(Clone)]
struct Key {
    value: Value,
    expires_at: Option<u64>,
}

/// All keys.
#[derive(Clone, Default)]
pub(crate) struct Data {
    keys: BTreeMap<String, Key>,
    /// The clock of the server, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// Most entries of a stream, as if others had written, too.
    pub(crate) stream_entries_max: Option<usize>,
    /// The longest part of a page, as if events were larger.
    pub(crate) page_bytes_max: Option<usize>,
}

impl Data {
    /// Drops all keys.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
    }

    /// The value of a key; those that have expired are gone.
    fn find(&mut self, key: &str) -> Option<&mut Value> {
        let has_expired = self.keys.get(key)?.expires_at.is_some_and(|at| at <= self.now_ms);
        if has_expired {
            self.keys.remove(key);
        }
        self.keys.get_mut(key).map(|key| &mut key.value)
    }

    fn create(&mut self, key: &str, value: Value) -> &mut Value {
        if self.find(key).is_none() {
            self.keys.insert(key.to_owned(), Key { value, expires_at: None });
        }
        self.find(key).expect("just created")
    }

    /// The names of all keys that begin like that.
    pub(crate) fn names(&mut self, prefix: &str) -> Vec<String> {
        let names: Vec<String> = self.keys.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        names.into_iter().filter(|name| self.find(name).is_some()).collect()
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        self.find(key).is_some() && self.keys.remove(key).is_some()
    }

    pub(super) fn get(&mut self, key: &str) -> Option<Bytes> {
        match self.find(key)? {
            Value::Text(text) => Some(Rc::clone(text)),
            _ => panic!("{key} is no text"),
        }
    }

    pub(super) fn set(&mut self, key: &str, text: &[u8], lifetime_ms: Option<u64>) {
        let expires_at = lifetime_ms.map(|lifetime| self.now_ms + lifetime);
        self.keys.insert(key.to_owned(), Key { value: Value::Text(Rc::from(text)), expires_at });
    }

    pub(crate) fn exists(&mut self, key: &str) -> bool {
        self.find(key).is_some()
    }

    pub(super) fn pexpire(&mut self, key: &str, lifetime_ms: i64) -> bool {
        if self.find(key).is_none() {
            return false;
        }
        let expires_at = self.now_ms.saturating_add_signed(lifetime_ms);
        self.keys.get_mut(key).expect("just found").expires_at = Some(expires_at);
        true
    }

    /// Returns whether the field is new.
    pub(super) fn hset(&mut self, key: &str, field: &str, value: &[u8]) -> bool {
        match self.create(key, Value::Hash(BTreeMap::new())) {
            Value::Hash(fields) => fields.insert(field.to_owned(), Rc::from(value)).is_none(),
            _ => panic!("{key} is no hash"),
        }
    }

    pub(super) fn hget(&mut self, key: &str, field: &str) -> Option<Bytes> {
        match self.find(key)? {
            Value::Hash(fields) => fields.get(field).cloned(),
            _ => panic!("{key} is no hash"),
        }
    }

    /// Returns the new length.
    pub(super) fn rpush(&mut self, key: &str, values: impl IntoIterator<Item = Bytes>) -> usize {
        match self.create(key, Value::List(VecDeque::new())) {
            Value::List(list) => {
                list.extend(values);
                list.len()
            }
            _ => panic!("{key} is no list"),
        }
    }

    pub(super) fn lrange(&mut self, key: &str, from: i64, to: i64) -> Vec<Bytes> {
        match self.find(key) {
            None => Vec::new(),
            Some(Value::List(list)) => list.range(range(list.len(), from, to)).cloned().collect(),
            Some(_) => panic!("{key} is no list"),
        }
    }

    pub(super) fn ltrim(&mut self, key: &str, from: i64, to: i64) {
        let Some(value) = self.find(key) else { return };
        let Value::List(list) = value else { panic!("{key} is no list") };
        let range = range(list.len(), from, to);
        list.truncate(range.end);
        list.drain(..range.start);
        if list.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Adds an entry to a stream, with an id of its own or the next one.
    pub(super) fn xadd(&mut self, key: &str, id: Option<Id>, fields: Vec<Bytes>) -> Result<Id, String> {
        let (now_ms, most) = (self.now_ms, self.stream_entries_max);
        let Value::Stream(stream) = self.create(key, Value::Stream(Stream::default())) else {
            panic!("{key} is no stream")
        };
        let next = match stream.last {
            // The clock may have gone back.
            Id { ms, sequence } if ms >= now_ms => Id { ms, sequence: sequence + 1 },
            Id { .. } => Id { ms: now_ms, sequence: 0 },
        };
        let id = id.unwrap_or(next);
        if id <= stream.last {
            return Err("ERR The ID specified in XADD is equal or smaller than the target stream top item".to_owned());
        }
        stream.last = id;
        stream.entries.push_back((id, fields));
        while most.is_some_and(|most| stream.entries.len() > most) {
            stream.entries.pop_front();
        }
        Ok(id)
    }

    /// The entries of a stream from one id to another.
    pub(super) fn xrange(&mut self, key: &str, from: Id, to: Id) -> Vec<StreamEntry> {
        match self.find(key) {
            None => Vec::new(),
            Some(Value::Stream(stream)) => {
                stream.entries.iter().filter(|(id, _)| (from..=to).contains(id)).cloned().collect()
            }
            Some(_) => panic!("{key} is no stream"),
        }
    }

    /// The newest entry of a stream.
    pub(crate) fn newest(&mut self, key: &str) -> Option<StreamEntry> {
        match self.find(key)? {
            Value::Stream(stream) => stream.entries.back().cloned(),
            _ => panic!("{key} is no stream"),
        }
    }
}

/// The part of a list that two indices mean; negative ones count from its end, and both are included.
fn range(length: usize, from: i64, to: i64) -> std::ops::Range<usize> {
    let length = length as i64;
    let absolute = |index: i64| if index < 0 { index + length } else { index };
    let (from, to) = (absolute(from).max(0), absolute(to).min(length - 1));
    if from > to { 0..0 } else { from as usize..to as usize + 1 }
}
