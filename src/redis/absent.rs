//! The connection to Redis of a build without the feature: a type that has no values. The compiler leaves out all code for
//! one, without a condition anywhere else.

use super::commands::Send;
use super::held::Published;
use super::requests::Serial;
use super::settings::{Limits, RedisSettings};
use super::state::{Event, LinkCounts};
use crate::clock::Millis;
use crate::cursor::{Epoch, Position};
use uuid::Uuid;

pub(crate) enum Link {}

/// Methods of a value that there is not.
macro_rules! never {
    ($(fn $name:ident(&$($mutable:ident)? $(, $type:ty)*) $(-> $result:ty)?;)*) => {
        $(pub(crate) fn $name(&$($mutable)? self $(, _: $type)*) $(-> $result)? {
            match *self {}
        })*
    };
}

impl Link {
    pub(crate) fn new(_: RedisSettings, _: Limits, _: Option<u64>, _: u64) -> Option<Self> {
        None
    }

    never! {
        fn settings(&) -> &RedisSettings;
        fn gateway(&) -> u32;
        fn own_token(&, Uuid) -> Uuid;
        fn is_live(&) -> bool;
        fn has_been_live(&) -> bool;
        fn server(&) -> (&str, &str);
        fn failures(&) -> usize;
        fn complaint(&) -> &str;
        fn counts(&) -> LinkCounts;
        fn waiting(&) -> usize;
        fn bytes(&) -> usize;
        fn followed(&) -> usize;
        fn next_event(&mut) -> Option<Event>;
        fn next_socket_event(&mut) -> Option<Event>;
        fn has_events(&) -> bool;
        fn epoch(&) -> Option<Epoch>;
        fn unsent(&) -> &[u8];
        fn wrote(&mut, usize);
        fn reuse(&mut, Published);
        fn next_deadline(&) -> Millis;
        fn expire(&mut, Millis);
        fn connected(&mut, Millis);
        fn broken(&mut, Millis, &str);
        fn received(&mut, Millis, &[u8]);
        fn follow(&mut, Millis, &str);
        fn is_ready(&, &str) -> bool;
        fn unfollow(&mut, &str);
        fn send(&mut, Millis, &Send<'_>) -> Serial;
        fn tell(&mut, Millis, u32, &[u8]) -> Serial;
        fn tell_followers(&mut, Millis, &str, &[u8]) -> Serial;
        fn peek(&mut, Millis, &str) -> Serial;
        fn page(&mut, Millis, &[(Box<str>, Position)]) -> Serial;
        fn alive(&mut, Millis, &[&str]) -> Serial;
        fn newest(&mut, Millis) -> Serial;
    }
}
