use super::*;
use crate::gateway::{ConnectFailure, Cors};
use log::LevelFilter;
use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

type Read = Result<(Config, Vec<Warning>), Vec<Problem>>;

fn read(pairs: &[(&str, &str)]) -> Read {
    let map: HashMap<&str, &str> = pairs.iter().copied().collect();
    Config::from_env(|name| map.get(name).map(OsString::from))
}

fn good(pairs: &[(&str, &str)]) -> Config {
    let (config, warnings) = read(pairs).unwrap();
    assert_eq!(warnings, []);
    config
}

fn problems(pairs: &[(&str, &str)]) -> Vec<String> {
    read(pairs).unwrap_err().iter().map(Problem::to_string).collect()
}

#[test]
fn nothing_set_gives_the_contract_defaults() {
    let config = good(&[]);
    assert_eq!(config.callback_url, None);
    assert_eq!(config.public_endpoint(), "[::]:3000".parse().unwrap());
    assert_eq!(config.internal_endpoint(), None);
    assert_eq!(config.gateway.heartbeat_interval, Duration::from_secs(15));
    assert_eq!((config.gateway.internal_token.clone(), config.callback_token.clone()), (None, None));
    assert_eq!(config.callback_authorization(), None);
    assert_eq!(config.gateway.callback_timeout, Duration::from_secs(5));
    assert_eq!(config.gateway.connect_queue, Duration::from_secs(30));
    assert_eq!(config.gateway.callback_concurrency, 128);
    assert_eq!(config.gateway.connect_failure, ConnectFailure::Status);
    assert_eq!(
        (config.gateway.reconnect_delay_ms, config.gateway.cors, config.streams_wanted),
        (None, Cors::Off, None)
    );
    assert_eq!(config.gateway.head_bytes_max, 16_384);
    assert_eq!((config.gateway.body_bytes_max, config.gateway.pending_bytes_max), (1_048_576, 1_048_576));
    assert_eq!(config.gateway.request_timeout, Duration::from_secs(10));
    assert_eq!(config.gateway.keepalive_timeout, Duration::from_secs(75));
    assert_eq!(config.gateway.client_timeout, Duration::from_secs(30));
    assert_eq!(config.gateway.shutdown_delay, Duration::ZERO);
    assert_eq!(config.gateway.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.log_level, LevelFilter::Info);
}

#[test]
fn empty_values_count_as_unset() {
    let others = VARIABLES.iter().filter(|variable| !variable.name.contains("_TOKEN"));
    let empty: Vec<(&str, &str)> = others.map(|variable| (variable.name, "")).collect();
    assert_eq!(good(&empty), good(&[]));
}

#[test]
fn an_empty_secret_is_a_problem() {
    let lines = problems(&[("INTERNAL_TOKEN", ""), ("CALLBACK_TOKEN", "")]);
    let want = |name: &str| format!(r#"{name}="": must not be empty; to do without it, leave the variable unset"#);
    assert_eq!(lines, [want("INTERNAL_TOKEN"), want("CALLBACK_TOKEN")]);
    let lines = problems(&[("INTERNAL_TOKEN_FILE", ""), ("CALLBACK_TOKEN_FILE", "")]);
    assert!(lines[0].starts_with(r#"INTERNAL_TOKEN_FILE="": must name a readable file: "#), "{lines:?}");
    assert!(lines[1].starts_with(r#"CALLBACK_TOKEN_FILE="": must name a readable file: "#), "{lines:?}");
}

#[test]
fn what_is_shown_can_be_read_back() {
    let pairs = [
        ("CALLBACK_URL", "http://backend:8000/cb?x=1"),
        ("PORT", "8080"),
        ("LISTEN_ADDRESS", "127.0.0.1"),
        ("INTERNAL_PORT", "8081"),
        ("INTERNAL_ADDRESS", "::1"),
        ("CONNECT_FAILURE", "retry"),
        ("RECONNECT_DELAY_MILLISECONDS", "0"),
        ("CORS_ORIGINS", "https://a.example,http://b:1"),
        ("MAX_STREAMS", "77"),
        ("SHUTDOWN_DELAY_SECONDS", "3"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let mut config = good(&pairs);
    config.fit(20_000).unwrap();
    let shown: Vec<(&str, String)> = VARIABLES.iter().map(|variable| (variable.name, variable.show(&config))).collect();
    let set = shown.iter().filter(|(_, value)| !value.is_empty());
    let again: Vec<(&str, &str)> = set.map(|(name, value)| (*name, value.as_str())).collect();
    let mut read_back = good(&again);
    read_back.fit(20_000).unwrap();
    assert_eq!(read_back, config);
    for (name, value) in pairs {
        let value = if name == "LOG_LEVEL" { "debug" } else { value };
        assert!(again.contains(&(name, value)), "{name}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let lines = problems(&[
        ("PORT", "0"),
        ("LISTEN_ADDRESS", "localhost"),
        ("CALLBACK_URL", "backend:8000"),
        ("CALLBACK_TIMEOUT_SECONDS", "0"),
        ("MAX_HEADER_BYTES", "10"),
        ("LOG_LEVEL", "loud\n"),
        ("CONNECT_FAILURE", "maybe"),
    ]);
    let want = [
        r#"CALLBACK_URL="backend:8000": must be an absolute http or https URL, like http://127.0.0.1:8000/callback, or that of a Unix socket, like http+unix://%2Frun%2Fapp.sock/callback"#,
        r#"PORT="0": must be an integer from 1 to 65535"#,
        r#"LISTEN_ADDRESS="localhost": must be an IP address, like 127.0.0.1"#,
        r#"CALLBACK_TIMEOUT_SECONDS="0": must be an integer from 1 to 31536000"#,
        r#"CONNECT_FAILURE="maybe": must be status or retry"#,
        r#"MAX_HEADER_BYTES="10": must be an integer from 256 to 1073741824"#,
        r#"LOG_LEVEL="loud\n": must be error, warn, info, debug, trace or off"#,
    ];
    assert_eq!(lines, want);
}

#[test]
fn every_number_has_limits() {
    let refuses_words =
        |name: &&str| read(&[(*name, "word")]).is_err_and(|found| found[0].to_string().contains("an integer"));
    let numbers: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).filter(refuses_words).collect();
    assert!(numbers.len() > 20, "{numbers:?}");
    for name in numbers {
        for value in ["-1", "1.5", "ten", " 5", "18446744073709551616"] {
            let lines = problems(&[(name, value)]);
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name}=\"{value}\": ")), "{lines:?}");
        }
    }
}

#[test]
fn a_bad_heartbeat_interval_is_replaced() {
    for value in ["0", "-5", "soon", "99999999999"] {
        let (config, warnings) = read(&[("HEARTBEAT_INTERVAL_SECONDS", value)]).unwrap();
        assert_eq!(config.gateway.heartbeat_interval, Duration::from_secs(15));
        let want = format!("HEARTBEAT_INTERVAL_SECONDS=\"{value}\": must be an integer from 1 to 31536000; using 15");
        assert_eq!(warnings.iter().map(Warning::to_string).collect::<Vec<_>>(), [want]);
    }
    assert_eq!(good(&[("HEARTBEAT_INTERVAL_SECONDS", "1")]).gateway.heartbeat_interval, Duration::from_secs(1));
    assert_eq!(good(&[]).gateway.heartbeat_interval, Duration::from_secs(15));
}

#[test]
fn secrets_show_nowhere() {
    let pairs = [("INTERNAL_TOKEN", "hunter2"), ("CALLBACK_URL", "http://ann:hunter2@host/x")];
    let config = good(&pairs);
    let mut text = format!("{config:?}");
    for variable in VARIABLES {
        text += &format!("{}={}\n", variable.name, variable.show(&config));
    }
    assert!(text.contains("INTERNAL_TOKEN=***\n") && text.contains("CALLBACK_URL=http://ann:***@host/x\n"));
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");

    let lines = problems(&[
        ("INTERNAL_TOKEN", "hunter2 "),
        ("CALLBACK_TOKEN", "hunter2\u{e9}"),
        ("CALLBACK_URL", "http://ann:hunter2@host:0/"),
    ]);
    assert_eq!(lines.len(), 3);
    assert!(!lines.concat().contains("hunter2"), "{lines:?}");
}

#[test]
fn credentials_come_from_one_place() {
    let bearer = good(&[("CALLBACK_URL", "http://host/"), ("CALLBACK_TOKEN", "t0ken")]);
    assert_eq!(bearer.callback_authorization().unwrap().expose(), "Bearer t0ken");
    let basic = good(&[("CALLBACK_URL", "http://a:b@host/")]);
    assert_eq!(basic.callback_authorization().unwrap().expose(), "Basic YTpi");
    let lines = problems(&[("CALLBACK_URL", "http://a:b@host/"), ("CALLBACK_TOKEN", "t0ken")]);
    assert_eq!(lines, [r#"CALLBACK_TOKEN="***": must not be set together with user:pass@ in CALLBACK_URL"#]);
}

#[test]
fn two_listeners_need_two_addresses() {
    let lines = problems(&[("INTERNAL_PORT", "3000")]);
    assert_eq!(lines, [r#"INTERNAL_PORT="3000": must differ from PORT when both are on the same address"#]);
    problems(&[("INTERNAL_PORT", "3000"), ("INTERNAL_ADDRESS", "127.0.0.1")]);
    let apart = [("INTERNAL_PORT", "3000"), ("INTERNAL_ADDRESS", "127.0.0.1"), ("LISTEN_ADDRESS", "127.0.0.2")];
    assert_eq!(good(&apart).internal_endpoint(), Some("127.0.0.1:3000".parse().unwrap()));
    let inherits = good(&[("INTERNAL_PORT", "3001"), ("LISTEN_ADDRESS", "[::1]")]);
    assert_eq!(inherits.internal_endpoint(), Some("[::1]:3001".parse().unwrap()));
}

#[test]
fn values_must_be_utf_8() {
    let lookup = |name: &str| (name == "PORT").then(|| OsString::from_vec(vec![b'8', 0xff]));
    let lines = Config::from_env(lookup).unwrap_err();
    assert_eq!(lines[0].to_string(), "PORT=\"8\u{fffd}\": must be UTF-8");
}
