//! Backends that do not answer, with and without having received the request.

use super::*;
use std::net::Ipv6Addr;

const UNREACHED: Outcome = Outcome::Unavailable { written: false };
const BROKEN: Outcome = Outcome::Unavailable { written: true };

#[test]
fn nobody_listening() {
    let (address, script) = backend(drop);
    script.join().unwrap();
    assert_eq!(Pool::to(address).call(), UNREACHED);
}

#[test]
fn a_name_that_does_not_resolve() {
    let lookup: Lookup = Arc::new(|_, _| Err(io::Error::other("no such name")));
    let pool = Pool::new("http://nowhere.test/", Tuning { lookup, ..Tuning::default() });
    assert_eq!(pool.call(), UNREACHED);
}

#[test]
fn a_silent_name_server() {
    let (_release, hold) = mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let lookup: Lookup = Arc::new(move |_, _| {
        let _ = hold.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let pool =
        Pool::new("http://slow.test/", Options { timeout: SHORT, ..Tuning { lookup, ..Tuning::default() }.into() });
    assert_eq!(pool.call(), Outcome::TimedOut { written: false });
}

#[test]
fn a_connection_that_is_not_accepted() {
    let dead = Blackhole::new();
    assert_eq!(Pool::with_timeout(dead.address, SHORT).call(), Outcome::TimedOut { written: false });
}

#[test]
fn the_address_that_works_is_found() {
    // IPv4 only, like many development servers, while `localhost` resolves to the IPv6 address first.
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let lookup: Lookup = Arc::new(move |host, port| {
        assert_eq!(host, "localhost");
        Ok(vec![SocketAddr::from((Ipv6Addr::LOCALHOST, port)), SocketAddr::from((Ipv4Addr::LOCALHOST, port))])
    });
    let url = format!("http://localhost:{}/", address.port());
    assert_eq!(Pool::new(&url, Tuning { lookup, ..Tuning::default() }).call(), answered(204, Some("")));
}

#[test]
fn the_real_lookup_knows_localhost() {
    let address = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let pool = Pool::new(&format!("http://localhost:{}/", address.port()), Options::default());
    assert_eq!(pool.call(), answered(204, Some("")));
}

/// The outcome of a call whose connection gets this instead of an answer; asserts that there is only one connection.
fn outcome_of(reply: impl FnOnce(TcpStream) + Send + 'static) -> Outcome {
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        reply(stream);
        listener
    });
    let outcome = Pool::to(address).call();
    let listener = script.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the call was repeated");
    outcome
}

#[test]
fn a_fresh_connection_that_breaks_is_not_tried_again() {
    assert_eq!(outcome_of(drop), BROKEN);
    assert_eq!(outcome_of(reset), BROKEN);
}

#[test]
fn garbage_is_no_answer() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/1.1 99 Odd\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "\u{15}\u{3}\u{1}\0\u{2}\u{2}P",
    ] {
        let outcome = outcome_of(|mut stream| stream.write_all(garbage.as_bytes()).unwrap());
        assert_eq!(outcome, BROKEN, "{garbage:?}");
    }
    let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let outcome = outcome_of(move |mut stream| {
        // Fails once the client has read enough.
        let _ = stream.write_all(head.as_bytes());
    });
    assert_eq!(outcome, BROKEN);
}

#[test]
fn a_reset_within_the_head() {
    let outcome = outcome_of(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        reset(stream);
    });
    assert_eq!(outcome, BROKEN);
}

#[test]
fn silence_ends_with_the_timeout() {
    let (release, hold) = mpsc::channel::<()>();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        let _ = hold.recv();
    });
    assert_eq!(Pool::with_timeout(address, ENOUGH).call(), Outcome::TimedOut { written: true });
    drop(release);
    script.join().unwrap();
}

#[test]
fn a_dripping_head_does_not_stretch_the_timeout() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        // Ends once the client closes.
        while stream.write_all(b"y").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(Pool::with_timeout(address, ENOUGH).call(), Outcome::TimedOut { written: true });
    script.join().unwrap();
}
