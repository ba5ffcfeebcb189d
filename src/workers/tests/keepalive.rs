//! Connections that serve several calls, and retries if one turns out to be closed.

use super::*;

const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Answers one request on `stream`; returns whether there was one.
fn answer(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    read_request(stream).is_some() && stream.write_all(bytes).is_ok()
}

/// Waits until a connection is back among the idle ones, which happens after the outcome is known.
fn until_idle(pool: &Pool, count: usize) {
    eventually("as many idle connections", || pool.workers.0.client.idle_connections() == count);
}

#[test]
fn one_connection_serves_call_after_call() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        for bytes in [
            OK,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope",
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            OK,
        ] {
            assert!(answer(&mut stream, bytes));
        }
        expect_end(&mut stream);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
    let pool = Pool::to(address);
    for status in [204, 200, 200, 403, 302, 204] {
        let Outcome::Answered { status: got, .. } = pool.call() else { panic!("no answer") };
        assert_eq!(got, status);
        until_idle(&pool, 1);
    }
    // Without calls the connection ends at its idle timeout.
    script.join().unwrap();
    until_idle(&pool, 0);
}

#[test]
fn a_connection_that_is_not_clean_serves_no_other_call() {
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}surplus",
        "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n",
        "HTTP/1.1 500 Oops\r\nContent-Length: 70000\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let (address, script) = backend(move |listener| {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(answer(&mut stream, first.as_bytes()));
            expect_end(&mut stream);
            let (mut stream, _) = listener.accept().unwrap();
            assert!(answer(&mut stream, OK));
        });
        let pool = Pool::to(address);
        pool.call();
        assert_eq!(pool.call(), answered(204, Some("")), "{first}");
        script.join().unwrap();
    }
}

#[test]
fn a_connection_that_has_come_of_age_serves_no_other_call() {
    let (address, script) = backend(|listener| {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(answer(&mut stream, OK));
            expect_end(&mut stream);
        }
    });
    let options = Tuning { connection_age_max: Duration::ZERO, ..Tuning::default() };
    let pool = Pool::new(&format!("http://{address}/"), options);
    for _ in 0..3 {
        assert_eq!(pool.call(), answered(204, Some("")));
    }
    script.join().unwrap();
}

/// The answer to a replacement.
fn in_doubt(status: u16, body: Option<&str>) -> Outcome {
    match answered(status, body) {
        Outcome::Answered { status, passed, body, .. } => Outcome::Answered { status, passed, body, in_doubt: true },
        other => other,
    }
}

/// A pool with one idle connection, controlled by the second part of the script.
fn warmed<T: Send + 'static>(
    timeout: Duration,
    script: impl FnOnce(TcpListener, TcpStream) -> T + Send + 'static,
) -> (Pool, JoinHandle<T>) {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(answer(&mut stream, OK));
        script(listener, stream)
    });
    let pool = Pool::with_timeout(address, timeout);
    assert_eq!(pool.call(), answered(204, Some("")));
    until_idle(&pool, 1);
    (pool, script)
}

#[test]
fn a_kept_connection_that_closes_unanswered_is_replaced_once() {
    for close in [drop, reset] {
        let (pool, script) = warmed(LONG, move |listener, mut stream| {
            let first = read_request(&mut stream).unwrap();
            close(stream);
            let (mut stream, _) = listener.accept().unwrap();
            let second = read_request(&mut stream).unwrap();
            stream.write_all(OK).unwrap();
            assert_eq!(first, second);
            // The replacement is kept alive too.
            assert!(answer(&mut stream, OK));
        });
        assert_eq!(pool.call(), in_doubt(204, Some("")));
        until_idle(&pool, 1);
        assert_eq!(pool.call(), answered(204, Some("")));
        script.join().unwrap();
    }
}

#[test]
fn a_connection_closed_while_idle_goes_unnoticed() {
    let (close, when) = mpsc::channel::<()>();
    let (done, closed) = mpsc::channel::<()>();
    let (pool, script) = warmed(LONG, move |listener, stream| {
        when.recv().unwrap();
        drop(stream);
        done.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert!(answer(&mut stream, OK));
    });
    close.send(()).unwrap();
    closed.recv().unwrap();
    assert_eq!(pool.call(), answered(204, Some("")));
    script.join().unwrap();
}

#[test]
fn the_replacement_is_not_replaced() {
    let (pool, script) = warmed(LONG, |listener, mut stream| {
        read_request(&mut stream).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        drop(stream);
        listener
    });
    assert_eq!(pool.call(), Outcome::Unavailable { written: true });
    let listener = script.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn what_was_written_before_the_replacement_counts() {
    let (pool, script) = warmed(LONG, |listener, mut stream| {
        read_request(&mut stream).unwrap();
        // By the time the close is detected, there is no listener.
        drop(listener);
        drop(stream);
    });
    assert_eq!(pool.call(), Outcome::Unavailable { written: true });
    script.join().unwrap();
}

#[test]
fn a_rejected_replacement_may_have_been_accepted_before() {
    let (pool, script) = warmed(LONG, |listener, mut stream| {
        read_request(&mut stream).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        assert!(answer(&mut stream, b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"));
    });
    assert_eq!(pool.call(), in_doubt(409, None));
    script.join().unwrap();
}

#[test]
fn an_answer_begun_forbids_the_replacement() {
    let (pool, script) = warmed(LONG, |listener, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(b"H").unwrap();
        drop(stream);
        listener
    });
    assert_eq!(pool.call(), Outcome::Unavailable { written: true });
    let listener = script.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_408_on_a_kept_connection_is_a_close() {
    // Some servers send this when their idle timer ends; here at the moment of the next request.
    for bytes in [
        "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye",
        "HTTP/1.0 408 Request Time-out\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\nConnec",
        "HTTP/1.1 408",
    ] {
        for pieces in [bytes.len(), 1] {
            let (pool, script) = warmed(LONG, move |listener, mut stream| {
                let first = read_request(&mut stream).unwrap();
                for piece in bytes.as_bytes().chunks(pieces) {
                    // The client closes once it has seen the status.
                    if stream.write_all(piece).is_err() {
                        break;
                    }
                    thread::yield_now();
                }
                drop(stream);
                let (mut stream, _) = listener.accept().unwrap();
                let second = read_request(&mut stream).unwrap();
                assert_eq!(first, second);
                stream.write_all(OK).unwrap();
            });
            assert_eq!(pool.call(), answered(204, Some("")), "{bytes:?}");
            script.join().unwrap();
        }
    }
}

#[test]
fn a_408_that_can_only_be_about_this_request_is_an_answer() {
    let timeout = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // On a fresh connection.
    assert_eq!(Pool::to(answering(timeout)).call(), answered(408, None));
    // On the replacement.
    let (pool, script) = warmed(LONG, move |listener, mut stream| {
        assert!(answer(&mut stream, timeout.as_bytes()));
        let (mut stream, _) = listener.accept().unwrap();
        assert!(answer(&mut stream, timeout.as_bytes()));
    });
    assert_eq!(pool.call(), answered(408, None));
    script.join().unwrap();
    // After an interim answer.
    let (pool, script) = warmed(LONG, move |_, mut stream| {
        read_request(&mut stream).unwrap();
        stream.write_all(format!("HTTP/1.1 100 Continue\r\n\r\n{timeout}").as_bytes()).unwrap();
    });
    assert_eq!(pool.call(), answered(408, None));
    script.join().unwrap();
}

#[test]
fn the_replacement_has_only_the_time_that_is_left() {
    let (release, hold) = mpsc::channel::<()>();
    let (pool, script) = warmed(ENOUGH, move |listener, mut stream| {
        read_request(&mut stream).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        let _ = hold.recv();
    });
    assert_eq!(pool.call(), Outcome::TimedOut { written: true });
    drop(release);
    script.join().unwrap();
}

#[test]
fn servers_that_close_at_any_moment_lose_no_call() {
    // Closes after every second answer, at once: the close races with the next request.
    let (address, _forever) = backend(|listener| {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = answer(&mut stream, OK) && answer(&mut stream, OK);
            });
        }
    });
    let pool = Pool::to(address);
    for number in 0..2_000 {
        pool.workers.submit(call(number, None));
        if number % 4 == 3 {
            for _ in 0..4 {
                assert!(matches!(pool.next().outcome, Outcome::Answered { status: 204, .. }));
            }
        }
    }
}
