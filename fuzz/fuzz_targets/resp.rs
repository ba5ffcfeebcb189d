#![no_main]
//! Replies of Redis: found and read alike wherever they are cut, and never a panic.

use libfuzzer_sys::fuzz_target;
use ssegateway::redis::{Scanner, parse};

fuzz_target!(|input: &[u8]| {
    let whole = Scanner::default().scan(input);
    let mut scanner = Scanner::default();
    let mut piecemeal = Ok(None);
    for end in 0..=input.len() {
        piecemeal = scanner.scan(&input[..end]);
        if !matches!(piecemeal, Ok(None)) {
            break;
        }
    }
    assert_eq!(piecemeal, whole);
    if let Ok(Some(length)) = whole {
        assert!(length <= input.len());
        // It may still be nested too deeply, or have a bad number.
        let _ = parse(&input[..length]);
    }
});
