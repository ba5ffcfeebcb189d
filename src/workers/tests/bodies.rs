//! Answers: heads, bodies and outcomes.

use super::*;

/// The outcome of a call with this answer, after which the connection closes.
fn outcome_of(answer: impl AsRef<[u8]> + Send + 'static) -> Outcome {
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(answer.as_ref()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        expect_end(&mut stream);
        assert_eq!(
            listener.set_nonblocking(true).and_then(|()| listener.accept()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    });
    let outcome = Pool::to(address).call();
    script.join().unwrap();
    outcome
}

#[test]
fn a_body_in_any_framing() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n", "{}"),
        ("HTTP/1.1 200 OK\r\n\r\n{\"close\":true}", "{\"close\":true}"),
        ("HTTP/1.0 200 OK\r\n\r\n{}", "{}"),
        ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ""),
    ] {
        assert_eq!(outcome_of(answer), answered(200, Some(body)), "{answer}");
    }
    assert_eq!(outcome_of("HTTP/1.1 204 No Content\r\n\r\n"), answered(204, Some("")));
    assert_eq!(outcome_of("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok"), answered(202, Some("ok")));
}

#[test]
fn informational_answers_are_skipped() {
    let early = "HTTP/1.1 100 Continue\r\n\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    for answer in [
        format!("{early}{last}"),
        format!("HTTP/1.1 102 Processing\r\n\r\n{hints}{last}"),
        format!("{early}{early}{hints}{hints}{last}"),
    ] {
        assert_eq!(outcome_of(answer), answered(200, Some("{}")));
    }
    assert_eq!(outcome_of(format!("{early}HTTP/1.1 403 Forbidden\r\n\r\n")), answered(403, None));
    // No upgrade was requested, and a 1xx is not an answer.
    assert_eq!(outcome_of("HTTP/1.1 101 Switching Protocols\r\n\r\n"), Outcome::Unavailable { written: true });
    assert_eq!(outcome_of(early), Outcome::Unavailable { written: true });
}

#[test]
fn informational_answers_may_come_one_by_one() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
            thread::yield_now();
        }
    });
    assert_eq!(Pool::to(address).call(), answered(204, Some("")));
    script.join().unwrap();
}

#[test]
fn a_rejection_passes_its_headers_on_and_nothing_else() {
    let answer = "HTTP/1.1 401 Unauthorized\r\nretry-after: 5\r\nX-Other: 1\r\nWWW-Authenticate: Basic realm=\"a\"\r\n\
                  Retry-After: 9\r\nwww-authenticate: Bearer\r\nContent-Length: 4\r\n\r\nnope";
    let passed = vec![
        (PassedHeader::RetryAfter, b"5".to_vec()),
        (PassedHeader::WwwAuthenticate, b"Basic realm=\"a\"".to_vec()),
        (PassedHeader::WwwAuthenticate, b"Bearer".to_vec()),
    ];
    assert_eq!(outcome_of(answer), Outcome::Answered { status: 401, passed, body: None, in_doubt: false });
    let accepted = "HTTP/1.1 200 OK\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(outcome_of(accepted), answered(200, Some("")));
    assert_eq!(outcome_of("HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n"), answered(599, None));
}

#[test]
fn redirects_are_answers_like_others() {
    for status in [301, 302, 303, 307, 308] {
        // `outcome_of` checks that no second connection is made.
        let answer = format!("HTTP/1.1 {status} Moved\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(outcome_of(answer), answered(status, None));
    }
    assert_eq!(outcome_of("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"), answered(302, None));
}

#[test]
fn a_body_cut_short_is_no_body() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
    ] {
        assert_eq!(outcome_of(answer), answered(200, None), "{answer}");
    }
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{").unwrap();
        reset(stream);
    });
    assert_eq!(Pool::to(address).call(), answered(200, None));
    script.join().unwrap();
}

#[test]
fn a_body_of_1_mib_is_the_longest() {
    const MIB: usize = 1024 * 1024;
    for (length, kept) in [(MIB, true), (MIB + 1, false)] {
        for head in [format!("Content-Length: {length}"), "Connection: close".to_owned()] {
            let mut answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + length, b' ');
            let (address, script) = backend(move |listener| {
                let (mut stream, _) = listener.accept().unwrap();
                read_request(&mut stream).unwrap();
                // Fails once the client has read enough.
                let _ = stream.write_all(&answer);
            });
            let Outcome::Answered { status: 200, body, .. } = Pool::to(address).call() else { panic!("not accepted") };
            assert_eq!(body.map(|body| body.len()), kept.then_some(length));
            script.join().unwrap();
        }
    }
}

#[test]
fn an_endless_body_is_left() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b' '; 65_536]).is_ok() {}
    });
    assert_eq!(Pool::to(address).call(), answered(200, None));
    script.join().unwrap();
}

#[test]
fn a_head_in_time_decides_even_if_the_body_is_late() {
    let (release, hold) = mpsc::channel::<()>();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{").unwrap();
        let _ = hold.recv();
    });
    assert_eq!(Pool::with_timeout(address, ENOUGH).call(), answered(200, None));
    drop(release);
    script.join().unwrap();
}

#[test]
fn a_dripping_body_does_not_stretch_the_timeout() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        // Ends once the client closes.
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(Pool::with_timeout(address, ENOUGH).call(), answered(200, None));
    script.join().unwrap();
}

#[test]
fn a_rejection_does_not_wait_for_its_body() {
    let (release, hold) = mpsc::channel::<()>();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n").unwrap();
        // Holds the body back until the outcome is known, so waiting for the body would never end.
        hold.recv().unwrap();
    });
    assert_eq!(Pool::to(address).call(), answered(500, None));
    release.send(()).unwrap();
    script.join().unwrap();
}

#[test]
fn an_answer_counts_although_the_request_could_not_be_written() {
    for (answer, outcome) in [
        ("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", answered(413, None)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", answered(200, Some("{}"))),
        ("HTTP/1.1 200 OK\r\n\r\n{}", answered(200, Some("{}"))),
    ] {
        let (address, script) = backend(move |listener| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 100]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // With unread input: a reset.
            drop(stream);
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let pool = Pool::to(address);
        // More than the kernel accepts.
        pool.workers.submit(Call { request: "x".repeat(30_000_000).into(), ..call(7, None) });
        assert_eq!(pool.next().outcome, outcome, "{answer}");
        let listener = script.join().unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the call was repeated");
    }
}
