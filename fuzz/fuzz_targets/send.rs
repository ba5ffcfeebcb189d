//! Bodies of `POST /internal/send`, compared with a second parser written from the table in docs/protocol.md, section
//! 4.
#![no_main]

#[path = "shared/commands.rs"]
mod commands;
#[path = "shared/json.rs"]
mod json;

use json::{Body, is_line};
use libfuzzer_sys::fuzz_target;
use ssegateway::send::{GroupIds, Scratch, SendError, Target, is_group_name, parse};

fuzz_target!(|input: &[u8]| {
    let mut scratch = Scratch::default();
    let command = parse(input, &mut scratch, GroupIds::Gateway);
    if let Ok(command) = &command {
        match &command.target {
            Target::Token(token) => assert!(!token.is_empty()),
            Target::Group(name) => assert!(is_group_name(name)),
            Target::Groups(names) => assert!(!names.is_empty() && names.iter().all(|name| is_group_name(name))),
        }
        for event in command.events.as_slice() {
            assert!([&event.name, &event.id].into_iter().flatten().all(|line| is_line(line)));
            assert!(event.retry.is_none_or(|retry| retry <= 2_147_483_647));
        }
    }
    let Ok(text) = std::str::from_utf8(input) else {
        let text = String::from_utf8_lossy(input);
        assert_eq!(
            command,
            parse(text.as_bytes(), &mut Scratch::default(), GroupIds::Gateway),
            "bytes that are not UTF-8 are U+FFFD"
        );
        return;
    };
    match json::read(text) {
        Body::Object(fields) => assert_eq!(command, commands::read(&fields, GroupIds::Gateway, None)),
        Body::Refused => assert_eq!(command, Err(SendError::InvalidJson)),
        Body::Beyond => assert_ne!(command, Err(SendError::InvalidJson)),
    }
});
